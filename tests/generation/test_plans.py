"""Laws of plans: a plan is data and decides its crystal; further attempts are further crystals."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.diffusion.noise import CrystalNoise, crystal_number, crystal_uniform
from crystalsmith.generation.making import make_request
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.sampler import sample_batch
from crystalsmith.generation.sampling import Sampling
from crystalsmith.generation.steering import Steering

CPU = torch.device("cpu")
SALT = ([[0, 0, 0], [0.5, 0.5, 0.5]], [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], [11, 17])
ASKED = {
    "free": {},
    "rules": {"chemical_system": "Li-Fe-O", "require": "Li"},
    "formula": {"formula": "SrTiO3", "formula_units": "1-2"},
    "symmetric": {"space_group": "cubic", "require": "O"},
    "symmetric formula": {"formula": "SrTiO3", "space_group": "any"},
    "compositions": {"compositions": ("NaCl", "TiO2"), "samples": 3, "space_group": "any"},
    "start": {"start_from": (SALT,), "fix_sites": "0", "fix_cell": True},
    "relatives": {"start_from": (SALT,), "strength": 0.5},
    "targets": {"properties": {"band_gap": "0.5..3", "chemical_system": "Li-O,"}},
}


@pytest.fixture(scope="module")
def model(conditional):
    return load_model(conditional)


def ask(model, name: str, **more):
    return make_request(
        model, num=6, seed=8, solver="ancestral", **{"steps": 3} | more, steering=Steering(**ASKED[name])
    )


@pytest.mark.parametrize("name", ASKED)
def test_a_plan_goes_to_json_and_back_and_makes_the_same_crystal(model, name) -> None:
    """A worker that has the model and plans needs nothing else of the request."""
    request = ask(model, name)
    plans = request.plans(range(6))
    sent = [Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) for plan in plans]
    assert sent == plans
    assert hash(tuple(sent)) == hash(tuple(plans))
    way = Sampling(**json.loads(json.dumps(dataclasses.asdict(request.sampling))))
    expected, made = sample_batch(model, request.sampling, plans, CPU), sample_batch(model, way, sent, CPU)
    assert torch.equal(made.frac_coords, expected.frac_coords)
    assert torch.equal(made.cell, expected.cell)
    assert torch.equal(made.atomic_numbers, expected.atomic_numbers)
    assert made.num_atoms.tolist() == [plan.num_atoms for plan in plans]


@pytest.mark.parametrize("name", ASKED)
def test_what_a_plan_says_comes_out(model, name) -> None:
    request = ask(model, name)
    plans = request.plans(range(6))
    for plan, (_, _, numbers) in zip(plans, sample_batch(model, request.sampling, plans, CPU).crystals(), strict=True):
        if plan.counts:
            assert sorted(Counter(numbers.tolist()).items()) == sorted(plan.counts)
            assert plan.arrangement is None or sorted(plan.arrangement.numbers()) == sorted(numbers.tolist())
        if plan.allowed:
            assert set(plan.required) <= set(numbers.tolist()) <= set(plan.allowed)
        if plan.arrangement is not None:
            assert sum(plan.arrangement.sizes) == len(numbers)


@pytest.mark.parametrize("name", ["free", "rules", "symmetric", "symmetric formula", "start", "targets"])
def test_a_further_attempt_is_another_crystal_of_the_same_request(model, name) -> None:
    request = ask(model, name, num_atoms=None)
    first, again = ([request.plan(i, k) for i in range(6)] for k in (0, 1))
    assert first == request.plans(range(6))
    assert [plan.attempt for plan in again] == [1] * 6
    assert again == [request.plan(i, 1) for i in range(6)]
    made, other = (sample_batch(model, request.sampling, plans, CPU) for plans in (first, again))
    for (frac, cell, _), (frac_again, cell_again, _) in zip(made.crystals(), other.crystals(), strict=True):
        assert frac.shape != frac_again.shape or not (frac == frac_again).all() or not (cell == cell_again).all()


def test_attempts_of_one_batch_are_those_of_batches_of_their_own(model) -> None:
    request = ask(model, "free", num_atoms=4)
    mixed = sample_batch(model, request.sampling, [request.plan(i, i % 3) for i in range(6)], CPU)
    for i, (frac, _, numbers) in enumerate(mixed.crystals()):
        alone = sample_batch(model, request.sampling, [request.plan(i, i % 3)], CPU)
        assert abs((alone.frac_coords.numpy() - frac + 0.5) % 1 - 0.5).max() < 1e-3
        assert alone.atomic_numbers.tolist() == numbers.tolist()


def test_random_numbers_of_attempts_are_their_own() -> None:
    index, sizes = torch.tensor([3, 3, 3]), torch.tensor([2, 2, 2])
    draw = CrystalNoise(5, index, sizes, attempts=torch.tensor([0, 1, 2])).at(4, 1)
    numbers = torch.cat(
        [draw.atoms().flatten(), draw.cell().flatten(), draw.uniform(0).float(), draw.uniform(1).float()]
    )
    assert len(set(numbers.tolist())) == len(numbers)
    plain = CrystalNoise(5, index[:1], sizes[:1]).at(4, 1)
    assert torch.equal(draw.atoms()[:2], plain.atoms())
    alone = [crystal_number(7, i, 3) for i in range(50)]
    assert alone == crystal_uniform(7, torch.arange(50), 3).tolist()
    assert not set(alone) & {crystal_number(7, i, 3, attempt=1) for i in range(50)}


def test_plans_of_different_requests_are_no_batch(model) -> None:
    free, held = ask(model, "free"), ask(model, "start")
    with pytest.raises(ValueError, match="one request"):
        sample_batch(model, free.sampling, [free.plan(0), held.plan(1)], CPU)
