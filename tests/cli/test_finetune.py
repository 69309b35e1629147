"""The command finetune, from a user's table to steered crystals in three commands."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.formats import cif_text


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path):
    """A CSV file of 40 made-up rock salts with a column that this package has never heard of."""
    cell = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "hardness"])
        for i in range(40):
            numbers = np.array([[3, 11, 19, 37][i % 4], [9, 17, 35, 53][i // 4 % 4]])
            text = cif_text(f"salt-{i}", places, (4.0 + 0.07 * i) * cell, numbers)
            writer.writerow([f"salt-{i}", text, 1.0 + i / 10])
    return tmp_path / "mine.csv"


def test_from_a_column_to_steered_crystals(untrained, table, tmp_path) -> None:
    data, tuned = tmp_path / "data", tmp_path / "tuned"
    quick = ["--epochs", 2, "--batch-size", 8, "--set", "data.num_workers=0", "--set", "hardware.accelerator=cpu"]
    assert invoke("data", "prepare", table, data).exit_code == 0
    result = invoke("finetune", untrained, data, tuned, "--property", "hardness", *quick)
    assert result.exit_code == 0, result.output
    assert "Fine-tuning is complete." in result.stdout
    assert "hardness (scalar, column)" in result.stderr
    assert "below 2,000" in result.stderr
    model = tuned / ("best" if (tuned / "best").exists() else "last")
    wanted = ["--property", "hardness=1.5,3", "--num", 2, "--steps", 2, "--device", "cpu"]
    result = invoke("generate", tmp_path / "hard", "--model", model, *wanted)
    assert result.exit_code == 0, result.output
    with (tmp_path / "hard" / "crystals.csv").open(newline="") as file:
        assert [row["target_hardness"] for row in csv.DictReader(file)] == ["1.5", "3.0"]
    result = invoke("generate", tmp_path / "more", "--model", model, "--property", "hardnes=2")
    assert result.exit_code == 2
    assert "it knows hardness" in result.stderr


def test_raw_data_are_prepared_on_the_way(untrained, table, tmp_path) -> None:
    more = ["--epochs", 1, "--quiet", "--set", "hardware.accelerator=cpu"]
    result = invoke("finetune", untrained, table, tmp_path / "tuned", "--property", "hardness:log", *more)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "tuned-data" / "manifest.json").is_file()


def test_bad_requests_are_one_sentence(untrained, dataset_folder, tmp_path) -> None:
    for arguments in (["--property", "colour"], [], ["--property", "density", "--dropout", "sometimes"]):
        result = invoke("finetune", untrained, dataset_folder, tmp_path / "tuned", *arguments)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "tuned").exists()
