"""A search from Python: the words, the crystals and the sentences of the command line, from memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import crystalsmith
from crystalsmith.cli.main import app
from crystalsmith.results import Discovery, Known


@pytest.fixture(scope="module")
def metals(alloys: Path, untrained: Path) -> Iterator[dict[str, Any]]:
    """A wish that the effective medium theory can judge."""
    wish = {
        "require": "energy_above_hull<10",
        "reference": Known(alloys, {}),
        "potential": "emt_potential:make",
        "model": untrained,
        "allow": ["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"],
        "source": "known:0",
        "proposals": 6,
        "relaxations": 3,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield wish


@pytest.fixture(scope="module")
def found(metals: dict[str, Any]) -> Discovery:
    return crystalsmith.discover(budget="3:relaxations", **metals)


def test_a_search_needs_no_folder(found: Discovery) -> None:
    assert found.summary is not None
    assert found.summary.relaxed == 3
    assert len(found) == found.summary.accepted > 0
    assert [row["verdict"] for row in found.accepted] == ["accepted"] * len(found)
    assert len(found.table) == found.summary.proposed
    for row, structure, atoms in zip(found.accepted, found, found.atoms, strict=True):
        assert row["id"] == atoms.info["id"]
        assert row["formula"] == structure.composition.reduced_formula
        assert len(structure) == len(atoms) == row["num_atoms"]
        assert atoms.get_potential_energy() / len(atoms) == pytest.approx(row["energy_per_atom"], abs=1e-5)
        np.testing.assert_allclose(structure.lattice.matrix, atoms.cell.array)
    assert found.page.is_file()
    frame = found.to_pandas()
    assert frame["structure"].notna().sum() == len(found)


def test_a_notebook_sees_pictures(found: Discovery) -> None:
    shown = found._repr_html_()
    assert shown.count("<svg") == len(found)
    assert found.table[0]["id"] in shown
    assert "iframe" in found.view()._repr_html_()
    assert repr(found).startswith("Done, ")


def test_the_command_finds_the_same(found: Discovery, metals: dict[str, Any], tmp_path: Path) -> None:
    words = ["--require", metals["require"], "--reference", str(metals["reference"].path), "--source", "known:0"]
    words += ["--potential", metals["potential"], "--model", str(metals["model"])]
    words += ["--allow", ",".join(metals["allow"]), "--proposals", "6", "--relaxations", "3"]
    done = CliRunner().invoke(app, ["discover", str(tmp_path / "run"), "--budget", "3:relaxations", *words, "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["accepted"] == len(found)
    columns = [name for name in found.table.columns if name != "seconds"]
    again = crystalsmith.discover(tmp_path / "run", resume=True)
    assert [[row[name] for name in columns] for row in again.table] == [
        [row[name] for name in columns] for row in found.table
    ]


def test_candidates_are_handed_on(found: Discovery, tmp_path: Path) -> None:
    written = crystalsmith.export(found, to="ase", out=tmp_path / "out", top=1)
    assert written.number == len(written.table) == 1
    assert written.table[0]["id"] == found.table[0]["id"]
    assert tmp_path / "out" / "index.csv" in written.files
    with pytest.raises(crystalsmith.InputError, match=r"^to is 'siesta'"):
        crystalsmith.export(found, to="siesta")


def test_energies_come_back(found: Discovery, tmp_path: Path) -> None:
    energies = tmp_path / "dft.csv"
    lines = [f"{one.info['id']},{one.get_potential_energy() / len(one) + 0.1}" for one in found.atoms]
    energies.write_text("\n".join(["id,energy_per_atom", *lines]) + "\n")
    ranked = crystalsmith.discover(found.path, energies=energies, corrections="none")
    assert ranked.compared is not None
    assert ranked.compared.bias == pytest.approx(-0.1, abs=1e-4)
    assert len(ranked.reranked) == len(found)
    assert "100 meV/atom too stable" in repr(ranked)
    assert "energy_above_hull_by_potential" in ranked._repr_html_()
    with pytest.raises(crystalsmith.InputError, match="with corrections in which scheme"):
        crystalsmith.discover(found.path, energies=energies)


def test_structures_of_a_composition(metals: dict[str, Any]) -> None:
    wish = {name: metals[name] for name in ("reference", "potential", "model")}
    ranked = crystalsmith.predict_structure("CuAu", samples=4, **wish)
    assert len(ranked.ranking) == len(ranked) > 0
    assert ranked.ranking[0]["above_best"] == 0.0
    assert {symbol for one in ranked for symbol in one.composition.get_el_amt_dict()} == {"Cu", "Au"}


def test_mistakes_are_keywords_in_python(metals: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(crystalsmith.InputError, match="give want, hours or budget 500:relaxations"):
        crystalsmith.discover(**metals)
    with pytest.raises(crystalsmith.InputError, match=r"^num_atoms 'few' is neither"):
        crystalsmith.discover(want=1, num_atoms="few", **metals)
    with pytest.raises(crystalsmith.InputError, match=r"^jobs is 0; give 1 at least"):
        crystalsmith.discover(want=1, jobs=0, **metals)
    with pytest.raises(crystalsmith.InputError, match=r"no engine 'slurm'; choose local or ray"):
        crystalsmith.predict_structure("CuAu", engine="slurm")
    done = CliRunner().invoke(app, ["discover", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "give --want, --hours or --budget" in done.output
