"""The network on formula weights, with a few numbers of the published code that travel with this repository."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.published.export import published_config
from crystalsmith.checkpoints.published.mattergen import import_model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig
from crystalsmith.network.gemnet import GemNetConfig

TESTS = Path(__file__).resolve().parents[1]
SMALL = GemNetConfig(width=32, num_blocks=2, edge_rule="published")
CONDITIONS = {"base": (), "mag": (ConditionConfig("dft_mag_density"),)}


@pytest.fixture(scope="module")
def formula():
    spec = importlib.util.spec_from_file_location("crystalsmith_test_formula", TESTS / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def worst(network, path, dtype, difference, times=None):
    """Largest relative difference of any output in a file."""
    with np.load(path) as arrays:
        file = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    batch = CrystalBatch(file["pos"], file["cell"], file["atomic_numbers"], file["num_atoms"]).to(dtype=dtype)
    conditions = {
        name.removeprefix("in."): values.to(dtype).masked_fill(file["use_unconditional"].view(-1), float("nan"))
        for name, values in file.items()
        if name.startswith("in.")
    }
    found = []
    for title in times or sorted({name.split("/")[0] for name in file if name.startswith("t=")}):
        with torch.no_grad():
            scores = network(batch, file[f"{title}/t"].to(dtype), conditions)
        outputs = {"pos": scores.frac_coords, "cell": scores.cell, "atomic_numbers": scores.species_logits}
        found += [difference(value, file[f"{title}/out.{name}"]) for name, value in outputs.items()]
    assert found
    return max(found)


@pytest.mark.parametrize("name", ["base", "mag"])
def test_small_float64(name, formula, difference):
    network = formula.formula_model(DenoiserConfig(SMALL, CONDITIONS[name])).network.double()
    path = TESTS / "data" / f"formula_small_{name}_f64.npz"
    assert worst(network, path, torch.float64, difference) < 1e-9


@pytest.mark.parametrize("name", ["base", "mag"])
def test_small_float32(name, formula, difference, shared):
    network = formula.formula_model(DenoiserConfig(SMALL, CONDITIONS[name])).network
    path = shared(f"golden/formula/small_{name}_f32.npz")
    assert worst(network, path, torch.float32, difference) < 2e-5


@pytest.fixture(scope="module")
def full_size(formula, tmp_path_factory):
    """A full-size checkpoint in the published layout, and the model that it was imported as, with the times it took."""
    folder = tmp_path_factory.mktemp("full")
    model = formula.formula_model(DenoiserConfig(GemNetConfig(edge_rule="published")))
    (folder / "source" / "checkpoints").mkdir(parents=True)
    config = published_config(model)
    (folder / "source" / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(
        {"state_dict": formula.formula_checkpoint(model), "config": config},
        folder / "source" / "checkpoints" / "last.ckpt",
    )
    del model
    begin = time.process_time()
    report = import_model(folder / "source", folder / "model")
    imported = time.process_time()
    loaded = load_model(folder / "model")
    return loaded, report, imported - begin, time.process_time() - imported


def test_full_size_import(full_size):
    _, report, import_seconds, load_seconds = full_size
    assert (report.parameters, report.parameters_used) == (44_562_043, 35_343_483)
    assert import_seconds < 10
    assert load_seconds < 3


def test_full_size_float32(full_size, shared, difference):
    network = full_size[0].network
    path = shared("golden/formula/full_base_f32.npz")
    assert worst(network, path, torch.float32, difference, ["t=0.3", "t=mixed"]) < 2e-5


def test_full_size_generates(full_size):
    from crystalsmith.diffusion.guidance import allow_elements
    from crystalsmith.diffusion.noise import CrystalNoise
    from crystalsmith.diffusion.solvers import PRIOR, ancestral, schedule

    model = full_size[0]
    sizes = torch.tensor([2, 3])
    noise = CrystalNoise(0, torch.arange(2), sizes)
    start = model.process.prior(sizes, noise.at(0, PRIOR))
    denoiser = allow_elements(model.denoiser, model.metadata.elements)
    made = ancestral(denoiser, model.process, start, schedule(2), noise)
    assert set(made.atomic_numbers.tolist()) <= set(model.metadata.elements)
    assert bool(torch.isfinite(made.frac_coords).all())


def test_full_size_float64(full_size, shared, difference):
    network = full_size[0].network.double()
    path = shared("golden/formula/full_base_f64.npz")
    assert worst(network, path, torch.float64, difference, ["t=0.3"]) < 1e-9
