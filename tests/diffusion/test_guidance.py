"""Laws of guidance and hard constraints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import allow_elements, bind_conditions, follow_chemical_system, sharpen_species
from crystalsmith.elements import ALLOWED, MASK, NUM_CLASSES
from crystalsmith.errors import InputError

Make = Callable[..., CrystalBatch]


class Toy:
    """A denoiser whose outputs depend on the crystal and, where it is labelled, on one condition."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        self.calls.append(len(batch))
        value = torch.zeros_like(t) if conditions is None else conditions["gap"].nan_to_num(nan=0.0)
        per_atom = (value + t)[batch.batch_index]
        index = torch.arange(NUM_CLASSES, dtype=t.dtype)
        return Scores(
            frac_coords=batch.frac_coords * per_atom.unsqueeze(-1),
            cell=batch.cell * value.view(-1, 1, 1).exp(),
            species_logits=per_atom.unsqueeze(-1) * index,
        )


def outputs(scores: Scores) -> list[torch.Tensor]:
    return [scores.frac_coords, scores.cell, scores.species_logits]


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, 0.3])
def test_guidance_is_linear_in_its_factor(make_batch: Make, factor: float) -> None:
    batch, toy = make_batch([2, 5]), Toy()
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    conditions = {"gap": torch.tensor([1.5, -0.7], dtype=torch.float64)}
    free, bound = toy(batch, t), toy(batch, t, conditions)
    toy.calls.clear()
    guided = bind_conditions(toy, conditions, factor)(batch, t)
    assert toy.calls == ([2] if factor in (0.0, 1.0) else [4])
    for f, b, g in zip(outputs(free), outputs(bound), outputs(guided), strict=True):
        torch.testing.assert_close(g, (1 - factor) * f + factor * b)


def test_an_unlabelled_crystal_is_not_moved_by_guidance(make_batch: Make) -> None:
    batch = make_batch([2, 5])
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    conditions = {"gap": torch.tensor([1.5, float("nan")], dtype=torch.float64)}
    guided = bind_conditions(Toy(), conditions, 3.0)(batch, t)
    torch.testing.assert_close(guided.cell[1], Toy()(batch, t).cell[1])


@pytest.mark.parametrize("allowed", [ALLOWED, {8}, {3, 8, 26}])
def test_forbidden_elements_and_the_mask_have_no_probability(make_batch: Make, allowed: set[int]) -> None:
    batch = make_batch([2, 5])
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    scores = allow_elements(Toy(), allowed)(batch, t)
    probs = torch.softmax(scores.species_logits, -1)
    index = torch.tensor(sorted(allowed)) - 1
    torch.testing.assert_close(probs[:, index].sum(-1), torch.ones(7, dtype=torch.float64))
    forbidden = torch.ones(NUM_CLASSES, dtype=torch.bool)
    forbidden[index] = False
    assert forbidden[MASK - 1]
    assert not probs[:, forbidden].any()
    # Among the allowed ones the odds are what they were.
    plain = Toy()(batch, t)
    expected = torch.softmax(plain.species_logits[:, index], -1)
    torch.testing.assert_close(probs[:, index], expected)
    torch.testing.assert_close(scores.cell, plain.cell)
    torch.testing.assert_close(scores.frac_coords, plain.frac_coords)


def test_allowing_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        allow_elements(Toy(), [])


def test_a_chemical_system_binds_only_the_crystals_that_carry_it(make_batch: Make) -> None:
    batch, t = make_batch([2, 5]), torch.tensor([0.3, 0.8], dtype=torch.float64)
    wanted = torch.zeros(2, NUM_CLASSES, dtype=torch.float64)
    wanted[0, [3, 8]] = 1.0
    conditions = {"gap": torch.zeros(2, dtype=torch.float64), "chemical_system": wanted}
    probs = torch.softmax(follow_chemical_system(Toy())(batch, t, conditions).species_logits, -1)
    assert set(probs[:2].sum(0).nonzero().view(-1).tolist()) == {2, 7}
    torch.testing.assert_close(probs[2:], torch.softmax(Toy()(batch, t).species_logits[2:], -1))


class Linear:
    """A denoiser that adds up what it is conditioned on."""

    def __call__(self, batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        known = {} if conditions is None else conditions
        total = sum((value.nan_to_num(nan=0.0) for value in known.values()), start=torch.zeros_like(t))
        cell = total.view(-1, 1, 1).expand(-1, 3, 3)
        return Scores(
            total[batch.batch_index, None].expand(-1, 3), cell, total[batch.batch_index, None].expand(-1, 101)
        )


def test_factors_by_property_compose(make_batch: Make) -> None:
    batch, t = make_batch([2, 3]), torch.tensor([0.5, 0.5], dtype=torch.float64)
    asked = {name: torch.tensor([x, 2 * x], dtype=torch.float64) for name, x in (("a", 1.0), ("b", 10.0), ("c", 100.0))}
    guided = bind_conditions(Linear(), asked, {"a": 2.0, "b": 0.5, "c": 0.0})(batch, t)
    assert guided.cell[:, 0, 0].tolist() == [2.0 + 5.0, 4.0 + 10.0]
    same = bind_conditions(Linear(), asked, {"a": 3.0, "b": 3.0, "c": 3.0})(batch, t)
    for one, other in zip(outputs(same), outputs(bind_conditions(Linear(), asked, 3.0)(batch, t)), strict=True):
        assert torch.equal(one, other)


def test_outside_its_interval_guidance_does_not_extrapolate(make_batch: Make) -> None:
    batch, asked = make_batch([2]), {"a": torch.tensor([1.0], dtype=torch.float64)}
    guided = bind_conditions(Linear(), asked, 4.0, (0.2, 0.8))
    for time, factor in ((0.1, 1.0), (0.2, 4.0), (0.5, 4.0), (0.9, 1.0)):
        assert float(guided(batch, torch.tensor([time], dtype=torch.float64)).cell[0, 0, 0]) == factor


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_raises_probabilities_to_its_inverse(make_batch: Make, temperature: float) -> None:
    batch = make_batch([2, 5])
    t = torch.full((batch.num_crystals,), 0.3, dtype=batch.cell.dtype)
    plain, sharp = Toy()(batch, t), sharpen_species(Toy(), temperature)(batch, t)
    expected = plain.species_logits.softmax(-1) ** (1 / temperature)
    assert torch.allclose(sharp.species_logits.softmax(-1), expected / expected.sum(-1, keepdim=True), atol=1e-6)
    assert torch.equal(sharp.frac_coords, plain.frac_coords)
    assert torch.equal(sharp.cell, plain.cell)
