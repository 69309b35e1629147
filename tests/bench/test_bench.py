"""Laws of the bench: work is counted right, and its figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from crystalsmith.bench.measure import count_work
from crystalsmith.bench.network import crystals
from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.checkpoints.store import save_model
from crystalsmith.cli.main import app
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig


def test_work_of_a_product_and_of_a_sum_is_counted():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_work(lambda: a @ b) == (2 * 3 * 5 * 7, 0)
    assert count_work(lambda: a.t() + a.t()) == (0, 3 * 15 * 4)  # two read, one written; views are free


def test_test_crystals_have_the_published_size():
    batch = crystals(16)
    assert batch.num_atoms.double().mean() == pytest.approx(10.6, abs=0.05)
    assert torch.equal(crystals(32).num_atoms[16:], batch.num_atoms)


def test_the_command_measures_a_model(tmp_path: Path):
    torch.manual_seed(0)
    config = DenoiserConfig(
        GemNetConfig(
            width=16,
            num_blocks=1,
            cutoff=4.0,
            max_neighbors=6,
            num_radial=8,
            num_spherical=3,
            width_triplet=8,
            width_bilinear=8,
            width_rbf=4,
            width_cbf=4,
            head_residuals=1,
        )
    )
    sampling = {"solver": "ancestral", "steps": 40}
    model = Model(GemNetDenoiser(config), Process(ProcessConfig()), ModelMetadata(sampling=sampling))
    save_model(model, tmp_path / "model")
    arguments = ["bench", "--model", str(tmp_path / "model"), "--batch-sizes", "2,3", "--repeats", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert [g["crystals"] for g in figures["generation"]] == [2, 3]
    for made in figures["generation"]:
        assert made["evaluations"] == 40
        assert made["seconds_per_crystal"] * made["crystals"] == pytest.approx(40 * made["step_s"] + made["writing_s"])
    for row in figures["network"]:
        forward, train = row["forward"], row["train"]
        # A backward pass multiplies twice for each product of the forward pass, less the gradient of the inputs.
        assert 2 * forward["gflop"] < train["gflop"] <= 3 * forward["gflop"]
        # Processor time of a process with one thread; the clocks tick in steps of their own.
        assert 0 < forward["processor_seconds"] <= 1.5 * torch.get_num_threads() * forward["seconds"] + 0.02
        assert forward["share_of_floor"] == pytest.approx(forward["products_s"] / forward["seconds"])
    start = figures["start_up"]
    assert start["total_s"] > start["import_s"] + start["load_s"] + start["first_step_s"] > 0


def test_a_batch_size_that_is_no_number_is_refused():
    result = CliRunner().invoke(app, ["bench", "--batch-sizes", "16,x"])
    assert result.exit_code == 2
    assert "--batch-sizes" in result.output
