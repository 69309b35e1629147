"""The Python face gives what the command line writes."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pytest

import crystalsmith
from crystalsmith.generation.run import Options, generate


@pytest.fixture(scope="module")
def loaded(untrained):
    return crystalsmith.load(untrained, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def crystals(loaded):
    return loaded.generate(10, seed=2, batch_size=4)


def test_a_sequence_of_structures_and_the_batch_behind_it(crystals):
    from pymatgen.core import Structure

    assert len(crystals) == len(crystals.batch) == len(crystals.table) == 10
    assert all(isinstance(structure, Structure) for structure in crystals)
    assert crystals[-1] == crystals.structures[9]
    assert len(crystals[2:5]) == 3
    for structure, n, row in zip(crystals, crystals.batch.num_atoms.tolist(), crystals.table, strict=True):
        assert len(structure) == n == row["num_atoms"]
        assert structure.composition.reduced_formula == row["formula"]
    assert "untrained" in repr(crystals)


def test_the_same_crystals_as_the_command_line(crystals, untrained, tmp_path):
    wanted = Options(model=str(untrained), num=10, seed=2, batch_size=4, precision="float32", device="cpu")
    generate(tmp_path / "by_run", wanted)
    saved = crystals.save(tmp_path / "by_save")
    for name in ("crystals.csv", "crystals.extxyz"):
        assert (saved / name).read_bytes() == (tmp_path / "by_run" / name).read_bytes()
    assert {path.name for path in (saved / "cif").iterdir()} == {
        path.name for path in (tmp_path / "by_run" / "cif").iterdir()
    }
    with pytest.raises(crystalsmith.InputError, match="not empty"):
        crystals.save(saved)
    assert generate(saved, Options(), resume=True).status == "complete"


def test_number_of_atoms_as_mapping_range_and_number(loaded):
    assert loaded.generate(5, num_atoms=3, steps=1).batch.num_atoms.tolist() == [3] * 5
    assert set(loaded.generate(20, num_atoms="2-4", steps=1).batch.num_atoms.tolist()) <= {2, 4}
    assert set(loaded.generate(20, num_atoms={5: 1, 6: 1}, steps=1).batch.num_atoms.tolist()) == {5, 6}


def test_failed_crystals_are_left_out_and_listed(loaded, monkeypatch):
    from crystalsmith.generation import sampler

    real = sampler.sample_batch

    def damaged(*args, **kwargs):
        batch = real(*args, **kwargs)
        batch.cell[0] = np.nan
        return batch

    monkeypatch.setattr(sampler, "sample_batch", damaged)
    crystals = loaded.generate(6, batch_size=3, steps=1)
    assert crystals.indices == (1, 2, 4, 5)
    assert len(crystals) == len(crystals.structures) == 4
    assert [bool(row["file"]) for row in crystals.table] == [False, True, True] * 2


def test_misuse_is_one_sentence(loaded):
    for wrong in ({"num": 0}, {"num_atoms": "many"}, {"steps": -1}, {"solver": "magic"}, {"batch_size": 0}):
        with pytest.raises(crystalsmith.InputError):
            loaded.generate(**{"num": 1, **wrong})
    with pytest.raises(crystalsmith.InputError, match="no model"):
        crystalsmith.load("no-such-model")


def test_the_table_is_what_csv_holds(crystals, tmp_path):
    with (crystals.save(tmp_path / "out") / "crystals.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for row, line in zip(crystals.table, read, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line


def test_loading_and_sampling_import_neither_chemistry_nor_anything_slow(untrained):
    code = (
        "import sys\n"
        "for name in ('pymatgen', 'ase', 'moyopy', 'lightning', 'pyarrow'): sys.modules[name] = None\n"
        "import crystalsmith\n"
        f"made = crystalsmith.load({str(untrained)!r}, device='cpu').generate(2, steps=1)\n"
        "assert len(made.batch) == 2\n"
        "slow = {'torch._dynamo', 'sympy', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_option_that_steers_is_a_keyword_of_its_own():
    import inspect

    from crystalsmith.generation.steering import Steering

    parameters = inspect.signature(crystalsmith.LoadedModel.generate).parameters
    assert set(inspect.signature(Steering).parameters) <= set(parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    documented = inspect.getdoc(crystalsmith.LoadedModel.generate)  # Python 3.13 strips the indentation itself
    assert [name for name in parameters if name != "self" and f"    {name}: " not in documented] == []


def test_crystals_in_memory_start_a_run_as_their_file_does(loaded, tmp_path):
    from ase.build import bulk
    from pymatgen.io.ase import AseAtomsAdaptor

    salt = bulk("NaCl", "rocksalt", a=5.64)
    salt.write(tmp_path / "salt.extxyz")
    settings = {"num": 2, "steps": 2, "strength": 0.3, "fix_cell": True}
    by_file = loaded.generate(start_from=tmp_path / "salt.extxyz", **settings)
    by_atoms = loaded.generate(start_from=salt, **settings)
    by_structures = loaded.generate(start_from=[AseAtomsAdaptor.get_structure(salt)], **settings)
    for made in (by_atoms, by_structures):
        np.testing.assert_allclose(made.batch.frac_coords, by_file.batch.frac_coords, atol=1e-5)
        np.testing.assert_allclose(made.batch.cell, by_file.batch.cell, atol=1e-5)
    assert by_atoms.save(tmp_path / "out").is_dir()  # the crystal goes into the manifest
    assert len(by_atoms.atoms) == 2
    with pytest.raises(crystalsmith.InputError, match="holds no crystals"):
        loaded.generate(start_from=7)


def test_targets_in_memory_are_those_of_a_file(conditional, tmp_path):
    import pandas

    model = crystalsmith.load(conditional, device="cpu", precision="float32")
    (tmp_path / "targets.csv").write_text("band_gap,bulk_modulus\n1.0,100\n2.5,\n")
    frame = pandas.DataFrame({"band_gap": [1.0, 2.5], "bulk_modulus": [100, float("nan")]})
    tables = [
        model.generate(steps=1, targets=targets).table
        for targets in (tmp_path / "targets.csv", frame, {"band_gap": [1.0, 2.5], "bulk_modulus": [100, None]})
    ]
    assert [row["target_band_gap"] for row in tables[0]] == [1.0, 2.5]
    for table in tables[1:]:
        for name in ("target_band_gap", "target_bulk_modulus", "formula"):
            assert table.column(name) == tables[0].column(name)


def test_errors_speak_of_keywords(loaded):
    with pytest.raises(crystalsmith.InputError, match=r"num is -1; give a whole number"):
        loaded.generate(-1)
    with pytest.raises(crystalsmith.InputError, match=r"fix_cell needs a crystal; give start_from FILE too"):
        loaded.generate(1, fix_cell=True)


def test_crystals_show_themselves_in_a_notebook(crystals):
    from xml.etree import ElementTree

    page = crystals._repr_html_()
    assert page.count("<svg") == len(crystals)
    for row in crystals.table:
        assert row["formula"] in page
    first = page[page.index("<svg") : page.index("</svg>") + 6]
    drawn = ElementTree.fromstring(first)
    balls = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(balls) >= crystals.table[0]["num_atoms"]  # those on a face are drawn twice or more
    frame = crystals.to_pandas()
    assert list(frame["formula"]) == crystals.table.column("formula")
    assert frame["structure"][0] == crystals[0]


def test_a_view_holds_its_crystal_and_needs_no_network(crystals):
    import html
    import re

    page = crystals.view(1)._repr_html_()
    inside = html.unescape(re.search(r'srcdoc="([^"]*)"', page)[1])
    atoms = int(re.search(r'"xyz": "(\d+)', inside)[1])
    assert atoms >= crystals.table[1]["num_atoms"]
    assert "createViewer" in inside
    assert not re.search(r"<script[^>]* src=|<link", inside)
