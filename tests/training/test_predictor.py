"""A predictor learns what can be learned, comes back from disk as it was, and says what it cannot do."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.predictor import load_predictor
from crystalsmith.errors import InputError
from crystalsmith.training.predictor import _network, property_recipe, train_predictor
from crystalsmith.training.run import resume_recipe

TINY = [
    "model.width=16", "model.num_blocks=1", "model.cutoff=4.0", "model.max_neighbors=8", "model.num_radial=8",
    "model.num_spherical=3", "model.width_triplet=8", "model.width_bilinear=8", "model.width_rbf=4",
    "model.width_cbf=4", "data.batch_size=16", "data.num_workers=0", "hardware.accelerator=cpu", "optimizer.lr=1e-2",
    "schedule.warmup_steps=5", "ema.decay=0.9", "limits.max_epochs=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A predictor of density: sixty steps on simple cubic crystals of six elements and random lattice constants."""
    from crystalsmith.data.prepare import prepare
    from crystalsmith.formats import cif_text

    place = tmp_path_factory.mktemp("predictor")
    rng = np.random.default_rng(0)
    (place / "cifs").mkdir()
    for k in range(160):
        z, a = int(rng.choice([3, 12, 14, 26, 47, 79])), rng.uniform(2.4, 3.6)
        text = cif_text(f"c{k}", np.zeros((1, 3)), a * np.eye(3), np.array([z]))
        (place / "cifs" / f"c{k}.cif").write_text(text)
    prepare(place / "cifs", place / "data", split_fractions=(0.8, 0.2, 0.0), progress=False, jobs=1)
    recipe = property_recipe(None, [*TINY, "limits.max_steps=60"])
    return place, train_predictor(place / "data", place / "run", "density", recipe, quiet=True)


def test_it_learns(trained) -> None:
    _, fitted = trained
    assert fitted.mae is not None
    assert fitted.mae < 0.4 * fitted.baseline


def test_it_comes_back_with_what_was_measured_of_it(trained) -> None:
    from crystalsmith.data.dataset import CrystalDataset

    place, fitted = trained
    predictor = load_predictor(place / "run")
    assert predictor.name == "density"
    assert f"{fitted.mae:.3g} g/cm^3" in predictor.note
    dataset = CrystalDataset.open(place / "data")
    rows = dataset.rows("val")
    crystals = dataset.batch(rows).crystals()
    values = np.array(predictor(crystals))
    from crystalsmith.data.computed import density

    assert np.abs(values - density(dataset.batch(rows))).mean() == pytest.approx(fitted.mae, rel=1e-3)
    # In any order and any company.
    np.testing.assert_allclose(predictor(crystals[::-1], batch_size=3)[::-1], values, rtol=1e-4)


def test_it_says_nothing_about_elements_it_never_saw(trained) -> None:
    predictor = load_predictor(trained[0] / "run")
    cell = 3.0 * np.eye(3)
    values = predictor([(np.zeros((1, 3)), cell, np.array([z])) for z in (26, 92)])
    assert math.isfinite(values[0])
    assert math.isnan(values[1])


def test_what_cannot_be_predicted_is_refused(trained, tmp_path) -> None:
    place, _ = trained
    recipe = property_recipe(None, [*TINY, "limits.max_steps=5"])
    for name, complaint in {"space_group": "numbers", "band_gap": "no label"}.items():
        with pytest.raises(InputError, match=complaint):
            train_predictor(place / "data", tmp_path / name, name, recipe, quiet=True)
    with pytest.raises(InputError, match="not empty"):
        train_predictor(place / "data", place / "run", "density", recipe, quiet=True)
    with pytest.raises(InputError, match="no predictor"):
        load_predictor(tmp_path)
    config = json.loads((place / "run" / "best" / "config.json").read_text())
    (tmp_path / "broken").mkdir()
    del config["facts"]["mean"]
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="damaged"):
        load_predictor(tmp_path / "broken")


def test_predict_writes_a_table_and_evaluate_uses_the_predictor(trained, tmp_path) -> None:
    from typer.testing import CliRunner

    from crystalsmith.cli.main import app

    place, _ = trained
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for name in ("c0", "c1"):
        (cifs / f"{name}.cif").write_text((place / "cifs" / f"{name}.cif").read_text())
    (cifs / "broken.cif").write_text("data_broken\n_cell_length_a ?\n")
    out = tmp_path / "table.csv"
    result = CliRunner().invoke(app, ["predict", str(place / "run"), str(cifs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "mean absolute error" in result.output
    lines = out.read_text().splitlines()
    assert lines[0] == "id,formula,density,failure"
    assert [line.split(",")[2] != "" for line in lines[1:]] == [False, True, True]

    arguments = ["evaluate", str(cifs), "--predictor", str(place / "run"), "--require", "density>0", "--out"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "evaluation"), "--jobs", "1", "--json"])
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert metrics["metrics"]["requirements"]["all"]["count"] == 2
    assert "density" in metrics["run"]["request"]["predictors"]


def test_it_may_begin_with_what_a_denoiser_has_learned(untrained) -> None:
    network, base = _network(property_recipe(None, [f"base={untrained}"])), load_model(untrained).network.state_dict()
    shared = [name for name in network.state_dict() if name in base]
    assert {name.split(".")[0] for name in shared} == {"species", "basis", "edges", "blocks"}
    for name in shared:
        assert torch.equal(network.state_dict()[name], base[name]), name


def told(run) -> tuple[list[list[str]], dict]:
    """The log without its times, and the weights of the best network."""
    with (run / "log.csv").open(newline="") as file:
        rows = [[cell for name, cell in row.items() if name != "seconds"] for row in csv.DictReader(file)]
    return rows, load_file(run / "best" / "model.safetensors")


def assert_same(one, other) -> None:
    (rows, weights), (others, expected) = told(one), told(other)
    assert rows == others
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


RESUMED = [*TINY, "limits.max_steps=30", "validation.every_steps=7", "output.save_every_minutes=0.0001"]

CRYSTALS = 454
"""In thirty batches, of which the last of an epoch are smaller."""


@pytest.fixture(scope="module")
def whole(trained):
    run = trained[0] / "whole"
    fitted = train_predictor(trained[0] / "data", run, "density", property_recipe(None, RESUMED), quiet=True)
    assert fitted.crystals == CRYSTALS
    return run


@pytest.mark.parametrize("stop", [3, 7, 19])
def test_a_resumed_training_is_the_uninterrupted_one(trained, whole, tmp_path, monkeypatch, stop: int) -> None:
    """Stopped before the first validation, at it, and in the middle of an epoch."""
    from crystalsmith.training import predictor

    real, data, run = predictor._Fit.run, trained[0] / "data", tmp_path / "run"
    monkeypatch.setattr(predictor._Fit, "run", lambda self, _, resume: real(self, lambda: self.step >= stop, resume))
    first = train_predictor(data, run, "density", property_recipe(None, RESUMED), quiet=True)
    assert (first.interrupted, first.step) == (True, stop)
    assert load_predictor(run).name == "density"
    monkeypatch.setattr(predictor._Fit, "run", real)
    recipe = resume_recipe(run, None, [])
    again = train_predictor(data, run, "density", recipe, quiet=True, resume=True)
    assert (again.interrupted, again.step, again.crystals) == (False, 30, CRYSTALS)
    assert_same(run, whole)
    with pytest.raises(InputError, match="or the property is not that of the run"):
        train_predictor(data, run, "num_elements", recipe, quiet=True, resume=True)
    with pytest.raises(InputError, match=r"optimizer\.lr changed"):
        resume_recipe(run, None, ["optimizer.lr=1"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")
def test_a_killed_training_goes_on_by_the_command(trained, whole, tmp_path) -> None:
    run = tmp_path / "run"
    settings = [word for setting in RESUMED for word in ("--set", setting)]
    command = [sys.executable, "-m", "crystalsmith", "train", str(trained[0] / "data"), str(run), "--task", "property"]
    command += ["--property", "density", "--quiet", *settings]
    codes = []
    for moment in (1, 3):  # rows of the log
        more = ["--resume"] if run.exists() else []
        process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            if (run / "log.csv").exists() and len((run / "log.csv").read_text().splitlines()) > moment:
                process.kill()
                break
        codes.append(process.wait())
        assert codes[-1] in (-9, 0), process.communicate()[1]
        load_predictor(run)
    assert -9 in codes
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert_same(run, whole)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())
