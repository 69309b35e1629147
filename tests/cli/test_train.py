"""``crystalsmith train``: what people type, and one sentence with exit code 2 where it cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crystalsmith.checkpoints.find import load_model
from crystalsmith.cli.main import app
from crystalsmith.training.config import NO_LICENCE, load_recipe

pytest.importorskip("lightning")

RECIPE = "mp20-tiny"  # of the package
SMALL = [
    *("width=16", "num_blocks=1", "cutoff=4", "max_neighbors=6", "num_radial=8", "num_spherical=3", "width_rbf=4"),
    *("width_triplet=8", "width_bilinear=8", "width_cbf=4"),
]


def train(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def small(*settings: str) -> list[str]:
    """Flags of a run of two steps of a small network on the CPU."""
    assignments = [f"model.{size}" for size in SMALL] + ["limits.max_steps=2", "data.batch_size=8", *settings]
    return [part for a in assignments for part in ("--set", a)] + ["--accelerator", "cpu", "--quiet"]


def test_help_shows_examples() -> None:
    result = train("--help")
    assert result.exit_code == 0
    for word in ("--recipe", "--set", "--resume", "--max-time", "--devices", "--precision", "crystalsmith train mp20/"):
        assert word in result.output


def test_train_then_resume(dataset_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(dataset_folder, run, "--recipe", RECIPE, "--max-time", "1h", *small())
    assert result.exit_code == 0, result.output
    assert "Training is complete. 2 steps" in result.output
    metadata = load_model(run / "last").metadata
    assert (metadata.name, metadata.licence) == ("run", NO_LICENCE)  # the data are not ours: neither name nor licence
    card = (run / "last" / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# run\n")
    assert "MP-20" not in card
    assert "CC BY" not in card
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.limits.max_time, recipe.hardware.precision) == ("1h", "bf16-mixed")
    result = train(dataset_folder, run, "--resume", "--set", "limits.max_steps=3", "--quiet")
    assert result.exit_code == 0, result.output
    assert "Training is complete. 3 steps" in result.output


def test_tensorboard_gets_the_log(dataset_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = train(dataset_folder, tmp_path / "run", *small("model.preset=tiny"), "--tensorboard")
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--set", "optimizer.learning_rate=1"], "Valid settings"),
        (["--set", "optimizer.lr"], "key=value"),
        (["--set", "model.preset=huge"], "tiny, small, base"),
        (["--max-time", "soon"], "max_time must be a duration"),
        (["--precision", "8"], "32, tf32, bf16-mixed"),
        (["--devices", "0"], "devices must be at least 1"),
        (["--accelerator", "abacus"], "hardware"),
        (["--recipe", "nowhere.yaml"], "no recipe"),
        (["--resume"], "no run to resume"),
    ],
)
def test_mistakes_are_one_sentence(flags: list[str], says: str, dataset_folder: Path, tmp_path: Path) -> None:
    result = train(dataset_folder, tmp_path / "run", *flags)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_data_set_is_one_sentence(tmp_path: Path) -> None:
    result = train(tmp_path, tmp_path / "run", *small("model.preset=tiny"))
    assert result.exit_code == 2
    assert "prepared data set" in result.stderr


def test_a_run_starts_from_a_model(untrained: Path, dataset_folder: Path, tmp_path: Path) -> None:
    flags = ["--set", "limits.max_steps=1", "--set", "data.batch_size=8", "--accelerator", "cpu", "--quiet"]
    result = train(dataset_folder, tmp_path / "run", "--task", "csp", "--base", untrained, *flags)
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "run" / "last")
    assert (model.process.config.task, model.metadata.training["base"]) == ("csp", str(untrained))
    result = train(dataset_folder, tmp_path / "no", "--base", tmp_path / "nothing", *flags)
    assert result.exit_code == 2
    assert not (tmp_path / "no").exists()
