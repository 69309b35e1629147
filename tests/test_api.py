"""Python does what the command line does, with the same words, and takes crystals from memory."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import crystalsmith
from crystalsmith.cli import (
    data,
    discover,
    evaluate,
    export,
    finetune,
    predict,
    predict_structure,
    reference,
    score,
    train,
)
from crystalsmith.cli.main import app

EXAMPLES = Path(crystalsmith.__file__).parent / "examples"


SEARCH = ("discover", "predict_structure", "export")


def names(function: Any) -> set[str]:
    """Parameters of a command without what only a command line needs, and those whose name is a word of Python."""
    own = {name.rstrip("_") for name in inspect.signature(function).parameters}
    plural = {"property": "properties", "set": "settings"}
    return {plural.get(name, name) for name in own} - {"as_json"}


@pytest.mark.parametrize(
    ("command", "function", "only_python"),
    [
        (data.prepare, crystalsmith.prepare, {"progress"}),
        (train.train, crystalsmith.train, set()),
        (finetune.finetune, crystalsmith.finetune, set()),
        (evaluate.evaluate, crystalsmith.evaluate, set()),
        (score.score, crystalsmith.score, set()),
        (reference.build, crystalsmith.reference, set()),
        (discover.discover, crystalsmith.discover, {"progress"}),
        (predict_structure.predict_structure, crystalsmith.predict_structure, {"progress"}),
        (export.export, crystalsmith.export, set()),
    ],
)
def test_the_same_words(command: Any, function: Any, only_python: set[str]) -> None:
    assert names(function) - only_python == names(command)
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in inspect.getdoc(function), name  # 3.13 takes the indent of the source away


def test_predict_has_the_same_words() -> None:
    assert names(predict.predict) - names(crystalsmith.predict) == {"out"}  # the table is what it returns


def test_everything_public_is_typed_and_found() -> None:
    assert (Path(crystalsmith.__file__).parent / "py.typed").is_file()
    for name in crystalsmith.__all__:
        assert getattr(crystalsmith, name) is not None
    for name in ("prepare", "train", "finetune", "evaluate", "score", "predict", "reference", *SEARCH):
        signature = inspect.signature(getattr(crystalsmith, name))
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


@pytest.fixture(scope="module")
def crystals(untrained: Path) -> crystalsmith.GeneratedCrystals:
    return crystalsmith.load(untrained, device="cpu", precision="float32").generate(4, num_atoms=4, steps=2)


def test_crystals_from_memory_are_judged_as_their_folder(crystals: Any, tmp_path: Path) -> None:
    saved = crystals.save(tmp_path / "saved")
    by_folder = crystalsmith.evaluate(saved, out=tmp_path / "results")
    assert by_folder.report.is_file()
    for things in (crystals, crystals.structures, crystals.atoms, crystals[1:3]):
        judged = crystalsmith.evaluate(things)
        assert judged.metrics["metrics"]["requested"] == len(things)
        wanted = by_folder.table[1:3] if len(things) == 2 else by_folder.table
        for name in ("formula", "space_group_0.1", "valid"):
            assert judged.table.column(name) == [row[name] for row in wanted]
    assert crystalsmith.evaluate(crystals).table.column("id") == crystals.table.column("id")
    assert "4 crystals" in repr(by_folder)
    assert "<table>" in by_folder._repr_html_()
    with pytest.raises(crystalsmith.InputError, match="batch_relax and device are for relaxations"):
        crystalsmith.evaluate(crystals, batch_relax=4)


def test_a_reference_is_built_and_opened(tmp_path: Path) -> None:
    from ase.build import bulk

    built = crystalsmith.reference(EXAMPLES / "known.csv", tmp_path / "known", corrections="none")
    assert built.counts["structures"] == 12
    assert crystalsmith.reference(tmp_path / "known").manifest == built.manifest
    judged = crystalsmith.evaluate([bulk("NaCl", "rocksalt", a=5.6), bulk("MgS", "rocksalt", a=5.2)], built)
    assert judged.table.column("novel") == [False, True]
    with pytest.raises(crystalsmith.InputError, match="overwrite"):
        crystalsmith.reference(EXAMPLES / "known.csv", tmp_path / "known", corrections="none")


def test_a_data_frame_becomes_a_data_set() -> None:
    import pandas
    from pymatgen.core import Structure

    frame = pandas.read_csv(EXAMPLES / "mine.csv")
    by_file = crystalsmith.prepare(EXAMPLES / "mine.csv", elements="all")
    frame["structure"] = [Structure.from_str(text, "cif") for text in frame.pop("cif")]
    by_frame = crystalsmith.prepare(frame, elements="all")
    assert len(by_file) == len(by_frame) == len(frame)
    one, other = (set_.dataset.batch(range(len(frame))) for set_ in (by_file, by_frame))
    assert one.num_atoms.tolist() == other.num_atoms.tolist()
    np.testing.assert_allclose(one.volume, other.volume, rtol=1e-5)
    assert "number_density" in by_frame.manifest["labels"]
    assert "number_density" in repr(by_frame)


def test_predictions_are_scored() -> None:
    from ase.build import bulk

    truth = [bulk("NaCl", "rocksalt", a=5.6), bulk("MgO", "rocksalt", a=4.2)]
    found = crystalsmith.score([truth[0], bulk("CaO", "rocksalt", a=4.8)], truth, match_by="name")
    assert [row["rmse_1"] is not None for row in found.table] == [True, False]
    assert repr(found)


def test_three_calls_from_a_table_to_steered_crystals(untrained: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    mine = crystalsmith.prepare(EXAMPLES / "mine.csv")
    few = {"limits.max_steps": 2, "hardware.accelerator": "cpu", "data.num_workers": 0}
    tuned = crystalsmith.finetune(untrained, mine, tmp_path / "tuned", "number_density", settings=few, quiet=True)
    assert tuned.step == 2
    assert tuned.log.columns[0] == "step"
    made = tuned.load(device="cpu").generate(properties={"number_density": [60, 90]}, num=2, steps=2)
    assert made.table.column("target_number_density") == [60, 90]
    with pytest.raises(crystalsmith.InputError, match="properties"):
        crystalsmith.finetune(untrained, mine, tmp_path / "none")


def test_examples_are_copied_once(tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    assert CliRunner().invoke(app, ["examples", str(folder)]).exit_code == 0
    assert {path.name for path in folder.iterdir()} == {
        p.name for p in EXAMPLES.iterdir() if p.suffix in (".md", ".csv", ".cif")
    }
    assert CliRunner().invoke(app, ["examples", str(folder)]).exit_code == 2


def test_the_best_of_each_formula_fits_80_columns() -> None:
    from crystalsmith.results import best_lines
    from crystalsmith.tables import Table

    row = {
        "id": "s123-000007",
        "formula": "Ba2Ca(ScMo3)4O17F3H2N5",
        "space_group_0.1": 225,
        "energy_per_atom": -12.3456789,
    }
    rows = Table(row | {"relaxed_space_group_0.01": None, "energy_above_hull": x} for x in [0.012, None] * 6)
    lines = best_lines(rows)
    assert max(map(len, lines)) <= 80
    assert len(lines) == 12  # a head, ten rows, and that there are two more
    assert lines[1].split()[-3:] == ["-12.346", "0.012", "225"]
    assert best_lines(Table()) == []


def test_energies_and_ranks_are_seen(tmp_path: Path) -> None:
    from ase.build import bulk

    from crystalsmith.results import best_lines

    energies = tmp_path / "energies.csv"
    energies.write_text("id,formation_energy_per_atom\ncrystal-0,-2.0\ncrystal-1,-2.1\ncrystal-2,-3.0\n")
    salts = [bulk("NaCl", "rocksalt", a=5.6), bulk("NaCl", "zincblende", a=6.0), bulk("MgO", "rocksalt", a=4.2)]
    known = crystalsmith.reference(EXAMPLES / "known.csv", corrections="none")
    judged = crystalsmith.evaluate(salts, known, energies=energies, corrections="none")
    assert judged.table.column("energy_rank") == [2, 1, 1]
    assert judged.best.column("id") == ["crystal-1", "crystal-2"]  # the most stable first
    assert [line.split()[2] for line in best_lines(judged.best)[1:]] == ["-2.100", "-3.000"]  # of formation
    page = judged.report.read_text(encoding="utf-8")
    assert '"energy_rank"' in page
    assert page.index('id="crystals"') < page.index('id="missing-part"')  # results first
