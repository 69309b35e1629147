"""Laws of predicting structures for a list of compositions: each crystal is what its row says, whatever the model."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.store import save_model
from crystalsmith.cli.main import app
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.errors import InputError
from crystalsmith.generation.loaded import load
from crystalsmith.generation.making import make_request
from crystalsmith.generation.request import Request
from crystalsmith.generation.run import Options, generate
from crystalsmith.generation.steering import Steering


@pytest.fixture(scope="module")
def predictor(untrained, tmp_path_factory):
    """The untrained model, for given elements."""
    import dataclasses

    from crystalsmith.checkpoints.model import Model
    from crystalsmith.diffusion.process import Process

    model = load_model(untrained)
    process = Process(dataclasses.replace(model.process.config, task="csp"))
    metadata = dataclasses.replace(model.metadata, name="predictor")
    folder = tmp_path_factory.mktemp("predictor") / "csp"
    save_model(Model(model.network, process, metadata), folder, "# A model for tests\n")
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "material_id,formula,num_atoms,formula_units\nmp-1,LiFePO4,,\nmp-2,NaCl,4,\nmp-3,Li2O,,1-2\nmp-3,Li4O2,,\n"
    )
    return path


def prediction(model, out, **steering):
    options = Options(model=str(model), device="cpu", steps=2, solver="ancestral", steering=Steering(**steering))
    return generate(out, options)


def rows(out):
    with (out / "crystals.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["generate", "csp"])
def test_every_crystal_has_the_composition_of_its_row(kind, untrained, predictor, table, tmp_path) -> None:
    from ase.io import read

    model = predictor if kind == "csp" else untrained
    assert prediction(model, tmp_path / "out", compositions=str(table), samples=3).finished == 12
    found = rows(tmp_path / "out")
    assert [row["target"] for row in found] == ["mp-1", "mp-2", "mp-3", "mp-3#2"] * 3
    assert [row["sample"] for row in found] == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    frames = read(tmp_path / "out" / "crystals.extxyz", ":", format="extxyz")
    made = [atoms.get_chemical_formula() for atoms in frames]
    first, second = ["FeLiO4P", "Cl2Na2", "Li2O", "Li4O2"], ["FeLiO4P", "Cl2Na2", "Li4O2", "Li4O2"]
    assert made == [*first, *second, *first]


def test_formulas_may_be_written_out(untrained, tmp_path, monkeypatch) -> None:
    """Unless a file has that very name; what is neither is told as a missing file."""
    monkeypatch.chdir(tmp_path)
    model = load_model(untrained)
    found = make_request(model, num=2, steering=Steering(compositions="NaCl, MgO2")).compositions
    assert found is not None
    assert found.formulas == ("NaCl", "MgO2")
    (tmp_path / "NaCl").mkdir()
    for wrong in ("NaCl", "NaCl,MgX", "NaCl,,MgO"):
        with pytest.raises(InputError):
            make_request(model, num=2, steering=Steering(compositions=wrong))


def test_a_data_set_is_a_list_of_compositions(predictor, dataset_folder, tmp_path) -> None:
    data = CrystalDataset.open(dataset_folder)
    prediction(predictor, tmp_path / "out", compositions=str(dataset_folder), limit=3)
    test = data.rows("test")
    chosen = [test[0], test[2], test[3]]
    assert [row["target"] for row in rows(tmp_path / "out")] == [str(data.ids[k]) for k in chosen]
    loaded = load(predictor, device="cpu", precision="float32")
    made = loaded.generate(compositions=str(dataset_folder), split="val", steps=1, solver="ancestral")
    for row, (_, _, numbers) in zip(data.rows("val"), made.batch.crystals(), strict=True):
        first, last = data.offsets[row], data.offsets[row + 1]
        assert sorted(numbers) == sorted(data.atomic_numbers[first:last])


def test_a_run_is_scored_without_being_told_anything(predictor, dataset_folder, tmp_path) -> None:
    out = tmp_path / "out"
    prediction(predictor, out, compositions=str(dataset_folder), limit=2, samples=2)
    result = CliRunner().invoke(app, ["score", str(out), str(dataset_folder), "--jobs", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["targets"], found["run"]["matched_by"], found["samples"]) == (2, "target", {"least": 2, "most": 2})
    assert found["predictions_of_other_formula"] == found["targets_without_prediction"] == 0


def test_a_resumed_run_is_the_uninterrupted_one(predictor, table, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    wanted = {"compositions": str(table), "samples": 2}
    prediction(predictor, whole, **wanted)
    prediction(predictor, parts, **wanted)
    record = json.loads((parts / "manifest.json").read_text())
    record |= {"batches": [], "counts": {}, "status": "stopped"}
    (parts / "manifest.json").write_text(json.dumps(record))
    table.write_text("formula\nSi\n")  # the run knows what it was asked
    generate(parts, Options(), resume=True)
    for name in ("crystals.csv", "crystals.extxyz"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(InputError, match="started with --samples 2"):
        generate(parts, Options(steering=Steering(samples=3)), resume=True)


def test_a_request_survives_json(untrained, table) -> None:
    request = make_request(load_model(untrained), num=8, steering=Steering(compositions=str(table)))
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert sum(request.num_atoms.values()) == pytest.approx(1)
    assert request.num_atoms == {3: 1 / 8, 4: 1 / 4, 6: 3 / 8, 7: 1 / 4}
    values = dict(request.to_dict())
    values.pop("compositions")  # as in a run of an earlier version
    assert Request.from_dict(values).compositions is None


def test_formulas_in_python(untrained) -> None:
    loaded = load(untrained, device="cpu", precision="float32")
    made = loaded.generate(compositions=["NaCl", "NaCl", "Si2"], samples=2, steps=2, solver="ancestral")
    assert [row["target"] for row in made.table] == ["NaCl", "NaCl#2", "Si2"] * 2
    assert [s.composition.formula for s in made][:3] == ["Na1 Cl1", "Na1 Cl1", "Si2"]  # the commonest cells first
    assert [s.composition.formula for s in made][3:] == ["Na2 Cl2", "Na2 Cl2", "Si4"]


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("formula\nNaCl\n", {"formula": "NaCl"}, "leave --formula out"),
        ("formula\nNaCl\n", {"deny": "Pb"}, "leave --deny out"),
        ("formula\nNaCl\n", {"samples": 0}, "give 1 at least"),
        ("formula\nNaCl\n", {"limit": 0}, "give 1 at least"),
        ("formula\nNaCl\n", {"split": "test"}, "--split chooses rows of a prepared data set"),
        ("formula\n", {}, "no composition"),
        ("formula\nNaXx\n", {}, "line 2: 'Xx' is not a chemical symbol"),
        ("formula\nHe\n", {}, "does not know He"),
        ("formula,num_atoms\nNaCl,3\n", {}, "line 2: .*does not make a cell of 3 atoms"),
        ("formula,formula_units\nNaCl,many\n", {}, "line 2: .*not a number or range"),
    ],
)
def test_what_cannot_be_made_is_refused(untrained, tmp_path, text, more, sentence) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        prediction(untrained, tmp_path / "out", compositions=str(tmp_path / "list.csv"), **more)
    assert not (tmp_path / "out").exists()


def test_options_that_need_the_list(untrained, tmp_path, table) -> None:
    for options, sentence in (
        ({"samples": 2}, "--samples counts"),
        ({"limit": 2}, "--limit chooses"),
        ({"split": "val"}, "--split chooses"),
    ):
        with pytest.raises(InputError, match=sentence):
            prediction(untrained, tmp_path / "out", **options)
    with pytest.raises(InputError, match="leave --num out"):
        generate(tmp_path / "out", Options(model=str(untrained), num=2, steering=Steering(compositions=str(table))))
    assert not (tmp_path / "out").exists()
