"""A widened network is the same function, and its twins part as soon as it trains."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.registry import PRESETS, build_network
from crystalsmith.training.build import build_model
from crystalsmith.training.config import Recipe
from crystalsmith.training.widen import widened

SIZES = GemNetConfig(
    width=16,
    num_blocks=2,
    cutoff=5.0,
    max_neighbors=8,
    num_radial=16,
    width_triplet=8,
    width_bilinear=4,
    head_residuals=1,
    crystal_context=True,
    attention_heads=2,
)
CONDITIONS = (
    ConditionConfig("band_gap", "scalar", "base"),
    ConditionConfig("chemical_system", "elements", "base"),
    ConditionConfig("space_group", "category", "base"),
)


@pytest.fixture
def network() -> GemNetDenoiser:
    """A network whose layers all do something: those that begin at zero are given weights."""
    torch.manual_seed(1)
    network = GemNetDenoiser(DenoiserConfig(SIZES, CONDITIONS))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return network.double()


def scores(network, batch):
    elements = torch.zeros(2, 101)
    elements[0, [2, 7]] = 1.0
    labels = {
        "band_gap": torch.tensor([1.5, math.nan], dtype=torch.float64),
        "chemical_system": elements.double(),
        "space_group": torch.tensor([math.nan, 225.0], dtype=torch.float64),
    }
    found = network(batch, torch.tensor([0.2, 0.9], dtype=torch.float64), labels)
    return found.frac_coords, found.cell, found.species_logits


def test_a_widened_network_is_the_same_function(network, make_batch) -> None:
    batch = make_batch([3, 5], dtype=torch.float64)
    wide = widened(network)
    assert wide.config.width == 32
    assert sum(p.numel() for p in wide.parameters()) > 3 * sum(p.numel() for p in network.parameters())
    for new, old in zip(scores(wide.double(), batch), scores(network, batch), strict=True):
        assert torch.allclose(new, old, rtol=1e-5, atol=1e-6 * float(old.detach().abs().max()))


def test_twins_part_in_training_only_where_their_readers_differ(network, make_batch) -> None:
    batch = make_batch([3, 5], dtype=torch.float64)
    for spread, apart in ((0.0, False), (0.5, True)):
        wide = widened(network, spread).double()
        sum(x.square().sum() for x in scores(wide, batch)).backward()
        gradient = wide.blocks[0].dense.weight.grad
        one, other = gradient.chunk(2)
        assert (float((one - other).norm() / gradient.norm()) > 1e-2) == apart


def test_what_cannot_be_widened_is_refused(network) -> None:
    with pytest.raises(InputError, match="GemNet"):
        widened(build_network(PRESETS["transformer-tiny"]))
    adapters = dataclasses.replace(CONDITIONS[0], place="adapter")
    with pytest.raises(InputError, match="adapters"):
        widened(GemNetDenoiser(DenoiserConfig(SIZES, (adapters,))))


def test_a_run_from_a_base_takes_twice_its_width_and_no_other(untrained, make_batch) -> None:
    manifest = {"elements": {}}
    narrow = build_model(Recipe(base=str(untrained)), manifest)
    wide = build_model(Recipe(base=str(untrained), model={"width": 32}), manifest)
    assert (narrow.network.config.width, wide.network.config.width) == (16, 32)
    batch, t = make_batch([3, 5], dtype=torch.float32), torch.tensor([0.3, 0.6])
    with torch.no_grad():
        old, new = narrow.network(batch, t), wide.network(batch, t)
    assert torch.allclose(new.species_logits, old.species_logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="16 wide"):
        build_model(Recipe(base=str(untrained), model={"width": 48}), manifest)
