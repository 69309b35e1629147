"""Laws of property embeddings and adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import NUM_CLASSES
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import Adapter, ConditionConfig, PropertyEmbedding
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

Make = Callable[..., CrystalBatch]
DT = torch.float64
NAN = float("nan")
SMALL = GemNetConfig(
    width=16,
    num_blocks=2,
    cutoff=5.0,
    max_neighbors=10,
    num_radial=12,
    num_spherical=3,
    width_triplet=6,
    width_bilinear=5,
    width_rbf=4,
    width_cbf=3,
    head_residuals=1,
)
KINDS = {
    "scalar": torch.tensor([0.7, -1.2], dtype=DT),
    "log": torch.tensor([120.0, 3.5], dtype=DT),
    "category": torch.tensor([225.0, 62.0], dtype=DT),
    "elements": torch.nn.functional.one_hot(torch.tensor([8, 26]), NUM_CLASSES).to(DT),
}


def network(kind: str, place: str) -> GemNetDenoiser:
    torch.manual_seed(0)
    config = ConditionConfig("target", kind, place)  # type: ignore[arg-type]
    return GemNetDenoiser(DenoiserConfig(SMALL, (config,))).double().eval()


def mix(model: GemNetDenoiser) -> None:
    """Give the adapters weight, as training does."""
    for adapter in (m for m in model.modules() if isinstance(m, Adapter)):
        torch.nn.init.normal_(adapter.mix.weight, std=0.3)


def unlabelled(values: Tensor) -> Tensor:
    return torch.full_like(values, NAN) if values.dim() == 1 else torch.zeros_like(values)


def difference(a: Scores, b: Scores) -> float:
    pairs = ((a.frac_coords, b.frac_coords), (a.cell, b.cell), (a.species_logits, b.species_logits))
    return min(float((x - y).detach().abs().max() / y.detach().abs().max()) for x, y in pairs)


@pytest.fixture
def batch(make_batch: Make) -> CrystalBatch:
    return make_batch([3, 5], seed=3)


T = torch.tensor([0.3, 0.8], dtype=DT)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_start_as_the_identity(batch: CrystalBatch, kind: str) -> None:
    model = network(kind, "adapter")
    plain, conditioned = model(batch, T), model(batch, T, {"target": KINDS[kind]})
    assert torch.equal(plain.frac_coords, conditioned.frac_coords)
    assert torch.equal(plain.cell, conditioned.cell)
    assert torch.equal(plain.species_logits, conditioned.species_logits)


@pytest.mark.parametrize("place", ["adapter", "base"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_changes_every_output_and_its_absence_none(batch: CrystalBatch, kind: str, place: str) -> None:
    model = network(kind, place)
    before = model(batch, T)
    mix(model)
    values = KINDS[kind]
    free = model(batch, T)
    # An adapter says nothing about a crystal without its property, whatever it has learned.
    assert torch.equal(free.species_logits, before.species_logits)
    bound = model(batch, T, {"target": values})
    assert difference(bound, free) > 1e-5
    absent = model(batch, T, {"target": unlabelled(values)})
    assert torch.equal(absent.species_logits, free.species_logits)
    assert torch.equal(absent.cell, free.cell)
    # Crystal by crystal: the labelled one follows its condition, the other does not know of it.
    half = torch.stack([values[0], unlabelled(values)[1]])
    mixed = model(batch, T, {"target": half})
    torch.testing.assert_close(mixed.species_logits[:3], bound.species_logits[:3])
    torch.testing.assert_close(mixed.species_logits[3:], free.species_logits[3:])
    # Another value gives another crystal.
    other = model(batch, T, {"target": values.flip(0)})
    assert difference(other, bound) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_unlabelled_crystals_are_finite(batch: CrystalBatch, kind: str) -> None:
    model = network(kind, "adapter")
    mix(model)
    values = torch.stack([KINDS[kind][0], unlabelled(KINDS[kind])[1]])
    model(batch, T, {"target": values}).species_logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_an_unknown_property_is_named(batch: CrystalBatch) -> None:
    with pytest.raises(InputError, match=r"'hardness'.*target"):
        network("scalar", "adapter")(batch, T, {"hardness": torch.zeros(2, dtype=DT)})


def test_scalars_are_standardised_and_logs_are_logs() -> None:
    scalar = PropertyEmbedding(ConditionConfig("x"), 16).double()
    scalar.mean.fill_(5.0)
    scalar.std.fill_(2.0)
    standard = PropertyEmbedding(ConditionConfig("x"), 16).double()
    values = torch.tensor([5.0, 7.0, 1.0], dtype=DT)
    torch.testing.assert_close(scalar(values)[0], standard((values - 5) / 2)[0])
    log = PropertyEmbedding(ConditionConfig("x", "log"), 16).double()
    torch.testing.assert_close(log(10**values)[0], standard(values)[0])
    assert torch.isfinite(log(torch.zeros(1, dtype=DT))[0]).all()


def test_categories_count_from_one() -> None:
    embedding = PropertyEmbedding(ConditionConfig("space_group", "category"), 8).double()
    vectors, labelled = embedding(torch.tensor([1.0, 230.0, NAN], dtype=DT))
    torch.testing.assert_close(vectors[:2], embedding.table.weight[[0, 229]])
    assert labelled.tolist() == [True, True, False]


@pytest.mark.parametrize(("kind", "place"), [("colour", "adapter"), ("scalar", "roof")])
def test_a_wrong_kind_or_place_is_refused(kind: str, place: str) -> None:
    with pytest.raises(InputError, match=r"colour|roof"):
        ConditionConfig("x", kind, place)  # type: ignore[arg-type]
