"""Laws of work that is saved: copies of a crystal share what conditions do not touch; activations need not be kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import bind_conditions
from crystalsmith.neighbors import build_edges
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

Make = Callable[..., CrystalBatch]
DT = torch.float64
SMALL = GemNetConfig(
    width=24,
    num_blocks=2,
    cutoff=5.0,
    max_neighbors=10,
    num_radial=16,
    num_spherical=3,
    width_triplet=8,
    width_bilinear=7,
    width_rbf=6,
    width_cbf=5,
    head_residuals=1,
    crystal_context=True,
)


def network(place: str = "adapter") -> GemNetDenoiser:
    """Every weight drawn, also those that start at zero, so that every path carries something."""
    torch.manual_seed(0)
    model = GemNetDenoiser(DenoiserConfig(SMALL, (ConditionConfig("gap", "scalar", place),))).to(DT)  # type: ignore[arg-type]
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def fields(scores: Scores) -> list[Tensor]:
    return [scores.frac_coords, scores.cell, scores.species_logits]


@pytest.mark.parametrize("place", ["adapter", "base"])
@pytest.mark.parametrize("max_neighbors", [3, 10])
def test_copies_have_the_scores_of_separate_calls(make_batch: Make, place: str, max_neighbors: int) -> None:
    model = network(place).eval()
    batch, t = make_batch([5, 1, 8], seed=2), torch.tensor([0.3, 0.9, 0.3], dtype=DT)
    gaps = [
        torch.full((3,), torch.nan, dtype=DT),
        torch.tensor([1.0, 2.0, torch.nan], dtype=DT),
        torch.ones(3, dtype=DT),
    ]
    with torch.no_grad():
        together = model(batch.repeat(3), t.repeat(3), {"gap": torch.cat(gaps)})
        for k, gap in enumerate(gaps):
            alone = model(batch, t, {"gap": gap})
            for all_of_them, one in zip(fields(together), fields(alone), strict=True):
                torch.testing.assert_close(all_of_them.chunk(3)[k], one, rtol=1e-10, atol=1e-12)


def test_guidance_through_adapters_costs_less_than_two_evaluations(make_batch: Make) -> None:
    model = network("adapter").eval()
    batch, t = make_batch([5, 8], seed=2), torch.tensor([0.3, 0.9], dtype=DT)
    conditions = {"gap": torch.tensor([1.0, 2.0], dtype=DT)}
    work = []
    for factor in (1.0, 2.0):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bind_conditions(model, conditions, factor)(batch, t)
        work.append(counter.get_total_flops())
    assert work[0] < work[1] < 2 * work[0]


def test_repeated_edges_are_the_edges_of_the_repeated_crystals(make_batch: Make) -> None:
    batch = make_batch([5, 1, 8], seed=2)
    repeated, built = build_edges(batch, 5.0, 6).repeat(2), build_edges(batch.repeat(2), 5.0, 6)
    for name in ("source", "target", "vector", "distance", "mirror", "image", "first", "slot", "mask"):
        assert torch.equal(getattr(repeated, name), getattr(built, name)), name


def test_a_changed_batch_no_longer_counts_as_copies(make_batch: Make) -> None:
    batch = make_batch([2, 3])
    twice = batch.repeat(2)
    assert twice.copies == 2
    assert torch.equal(twice.one.frac_coords, batch.frac_coords)
    assert twice.replace(cell=torch.rand_like(twice.cell)).copies == 1
    assert batch.repeat(2).repeat(3).copies == 6


def gradients(model: GemNetDenoiser, batch: CrystalBatch, t: Tensor) -> tuple[list[Tensor], int]:
    """Gradients of a loss that reads all outputs, and the bytes that the forward pass kept for them."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = sum((x.square().sum() for x in fields(model(batch, t))), torch.zeros((), dtype=DT))
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], sum(kept.values())


def test_gradients_without_kept_activations_are_the_same(make_batch: Make) -> None:
    model, batch = network(), make_batch([9, 12], seed=3)
    t = torch.tensor([0.4, 0.7], dtype=DT)
    plain, plain_bytes = gradients(model, batch, t)
    model.checkpoint_activations = True
    again, again_bytes = gradients(model, batch, t)
    assert len(plain) == len(again)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert again_bytes < 0.5 * plain_bytes
