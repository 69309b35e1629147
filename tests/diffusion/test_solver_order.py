"""How fast each solver converges, on data whose reverse process is known in closed form, and what churn keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.composition import CountBounds
from crystalsmith.diffusion.constraints import ConstrainedProcess
from crystalsmith.diffusion.noise import CrystalNoise, Draw
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import SOLVERS, schedule
from crystalsmith.elements import MASK, NUM_CLASSES

DT = torch.float64
VARIANCE = (0.05, 0.02)
CENTRE = 0.3
WIDTH = 0.07
IMAGES = torch.arange(-12, 13, dtype=DT)
PROCESS = Process(ProcessConfig(cell_variance={"all": VARIANCE}))
LAST = 0.1  # times stop here, away from the step to 0, whose error is another


def exact(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
    """Scores of the data N(M_1, VARIANCE) x wrapped N(CENTRE, WIDTH^2), crystals of one atom."""
    std = PROCESS.coordinates.std(t, batch.num_atoms).view(-1, 1)
    variance = (std.square() + WIDTH**2).unsqueeze(-1)
    delta = (batch.frac_coords - CENTRE).unsqueeze(-1) + IMAGES
    weight = torch.softmax(-delta.square() / (2 * variance), -1)
    frac = -(weight * delta / variance).sum(-1) * std
    cell = PROCESS.cell.gaussian_output(batch.cell, t, batch.num_atoms)
    return Scores(frac, cell, torch.zeros(len(std), NUM_CLASSES, dtype=DT))


class Silence:
    """Noise that is nothing but the impulses it is given: ``impulses[step]`` = crystals whose cell gets a 1."""

    def __init__(self, num: int, impulses: dict[int, list[int]]) -> None:
        self.num, self.impulses = num, impulses

    def at(self, step: int, stage: int) -> Draw:
        return _SilentDraw(self.num, self.impulses.get(step, []))


class _SilentDraw:
    def __init__(self, num: int, hit: list[int]) -> None:
        self.num, self.hit = num, hit

    def atoms(self) -> Tensor:
        return torch.zeros(self.num, 3, dtype=DT)

    def cell(self) -> Tensor:
        z = torch.zeros(self.num, 3, 3, dtype=DT)
        z[self.hit, 0, 0] = 1.0
        return z

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return log_probs.argmax(-1)

    def uniform(self, word: int) -> Tensor:
        return torch.full((self.num,), 0.5, dtype=DT)


def start(num: int) -> CrystalBatch:
    n = torch.ones(num, dtype=torch.int64)
    return PROCESS.prior(n, CrystalNoise(3, torch.arange(num), n, DT).at(0, 0))


def at_last(solver: str, first: CrystalBatch, steps: int, noise: Any = None, **settings: Any) -> CrystalBatch:
    """The sample at time LAST."""
    times, seen = torch.linspace(1.0, LAST, steps + 1, dtype=DT), []
    noise = noise or Silence(first.num_crystals, {})
    SOLVERS[solver](exact, PROCESS, first, times, noise, lambda step, batch, mean: seen.append(batch), **settings)
    return seen[-2]


def cell_error(solver: str, steps: int, **settings: Any) -> float:
    """Distance to the exact flow, which scales M-centred cells by the ratio of the marginal standard deviations."""
    first = start(8)
    found = at_last(solver, first, steps, **settings)
    limit = PROCESS.cell.limit_mean(first.num_atoms, DT)
    ends = torch.tensor([1.0, LAST], dtype=DT)
    a2 = PROCESS.cell.signal(ends).square()
    variance = torch.where(torch.eye(3, dtype=torch.bool), *torch.tensor(VARIANCE, dtype=DT))[None]
    marginal = a2.view(2, 1, 1) * variance + (1 - a2.view(2, 1, 1)) * PROCESS.cell.limit_variance
    flow = limit + (first.cell - limit) * (marginal[1] / marginal[0]).sqrt()
    return float((found.cell - flow).square().mean().sqrt())


def coordinate_error(solver: str, steps: int, **settings: Any) -> float:
    """The flow keeps the probability between the centre and an atom: how much of it was lost."""
    first = start(8)
    found = at_last(solver, first, steps, **settings)

    def mass(batch: CrystalBatch, t: float) -> Tensor:
        spread = float((PROCESS.coordinates.std(torch.tensor(t, dtype=DT), torch.tensor(1)) ** 2 + WIDTH**2).sqrt())
        x = batch.frac_coords - CENTRE
        ends = torch.stack([x - x.round(), torch.zeros_like(x)]).unsqueeze(-1) + IMAGES
        cumulative = 0.5 * torch.erf(ends / (spread * math.sqrt(2))).sum(-1)
        return cumulative[0] - cumulative[1]

    # Atoms opposite the centre, where two ways lead there, converge last: the median tells the order.
    return float((mass(found, LAST) - mass(first, 1.0)).abs().median())


def variance_error(solver: str, steps: int, **settings: Any) -> float:
    """Error of the variance of the first cell element, exact: the sampler is linear in its noise for Gaussian data."""
    first = start(steps + 1)
    limit = PROCESS.cell.limit_mean(first.num_atoms, DT)
    prior = limit.clone()
    prior[0, 0, 0] += PROCESS.cell.limit_variance**0.5
    noise = Silence(steps + 1, {k: [k] for k in range(1, steps + 1)})
    found = at_last(solver, first.replace(cell=prior), steps, noise, **settings)
    a2 = float(PROCESS.cell.signal(torch.tensor(LAST, dtype=DT))) ** 2
    truth = a2 * VARIANCE[0] + (1 - a2) * PROCESS.cell.limit_variance
    return abs(float((found.cell - limit)[:, 0, 0].square().sum()) - truth)


def order(error: Callable[[int], float], steps: tuple[int, int]) -> float:
    return math.log(error(steps[0]) / error(steps[1])) / math.log(steps[1] / steps[0])


@pytest.mark.parametrize("solver", ["multistep", "heun"])
def test_cells_follow_the_flow_to_second_order(solver: str) -> None:
    assert order(lambda n: cell_error(solver, n), (20, 60)) > 1.9
    assert cell_error(solver, 60) < 1e-3


@pytest.mark.parametrize("solver", ["multistep", "heun"])
def test_coordinates_follow_the_flow_to_second_order(solver: str) -> None:
    assert order(lambda n: coordinate_error(solver, n), (40, 120)) > 1.8
    assert coordinate_error(solver, 120) < 1e-3


def test_without_the_past_it_is_of_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    second = cell_error("multistep", 60)
    monkeypatch.setattr(Process, "extrapolate", lambda self, batch, scores, *rest: (scores, None))
    assert 0.85 < order(lambda n: cell_error("multistep", n), (20, 60)) < 1.15
    assert 0.8 < order(lambda n: coordinate_error("multistep", n), (40, 120)) < 1.2
    assert cell_error("multistep", 60) > 20 * second


def test_the_ancestral_variance_is_of_first_order_and_that_of_a_churned_multistep_is_closer() -> None:
    ancestral = order(lambda n: variance_error("ancestral", n), (20, 60))
    assert 0.8 < ancestral < 1.2
    for churn in (0.5, 1.0):
        assert variance_error("multistep", 60, churn=churn) < 0.4 * variance_error("ancestral", 60)


@pytest.mark.parametrize("churn", [0.0, 0.3, 0.7, 1.0])
def test_whatever_the_churn_a_point_keeps_the_noise_of_its_level(churn: float) -> None:
    n = torch.ones(2, dtype=torch.int64)
    t, s = torch.tensor([0.5, 0.4], dtype=DT), torch.tensor([0.4, 0.1], dtype=DT)
    eps = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=DT)
    eps = eps + eps.mT
    clean = 3.0 * torch.eye(3, dtype=DT).expand(2, 3, 3)
    cell = PROCESS.cell
    x = cell.mean(clean, t, n) + cell.std(t, n) * eps
    quiet, mean = cell.predictor_step(x, -eps, t, s, n, torch.zeros_like(x), churn)
    loud, _ = cell.predictor_step(x, -eps, t, s, n, torch.ones_like(x), churn)
    torch.testing.assert_close(quiet, mean)
    kept = ((mean - cell.mean(clean, s, n)) / eps)[:, 0, 0]
    added = (loud - mean)[:, 0, 0]
    torch.testing.assert_close(kept.square() + added.square(), cell.std(s, n).view(-1).square())
    assert bool((added == 0).all()) == (churn == 0)
    frac, eps = PROCESS.coordinates, 0.1 * eps
    quiet, mean = frac.predictor_step(0.5 + 1e-3 * eps[:, 0], -eps[:, 0], t, s, n, torch.zeros(2, 3, dtype=DT), churn)
    loud, _ = frac.predictor_step(0.5 + 1e-3 * eps[:, 0], -eps[:, 0], t, s, n, torch.full((2, 3), 0.01), churn)
    kept = (1e-3 * eps[:, 0] - (quiet - 0.5)) / eps[:, 0]  # std_t - what is carried
    carried = frac.std(t, n).unsqueeze(-1) - kept
    torch.testing.assert_close(
        carried.square() + ((loud - quiet) / 0.01).square(), frac.std(s, n).square().unsqueeze(-1).expand(2, 3)
    )


@pytest.mark.parametrize("solver", ["multistep", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_single_point_is_reached_in_any_number_of_steps(solver: str, steps: int) -> None:
    clean = start(4)

    def point(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        delta = batch.frac_coords - clean.frac_coords
        frac = -(delta - delta.round()) / PROCESS.coordinates.std(t, batch.num_atoms).unsqueeze(-1)
        mean = PROCESS.cell.mean(clean.cell, t, batch.num_atoms)
        cell = -(batch.cell - mean) / PROCESS.cell.std(t, batch.num_atoms)
        return Scores(frac, cell, torch.zeros(4, NUM_CLASSES, dtype=DT))

    first = start(8)
    first = first.replace(frac_coords=first.frac_coords[4:], cell=first.cell[4:], num_atoms=clean.num_atoms,
                          atomic_numbers=clean.atomic_numbers)  # fmt: skip
    result = SOLVERS[solver](point, PROCESS, first, schedule(steps, dtype=DT, kind="cosine"), Silence(4, {}))
    delta = result.frac_coords - clean.frac_coords
    torch.testing.assert_close(delta - delta.round(), torch.zeros_like(delta), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.cell, clean.cell, rtol=1e-9, atol=1e-9)


def test_cosine_times_fall_from_one_and_are_densest_at_the_end() -> None:
    times = schedule(50, dtype=DT, kind="cosine")
    steps = -torch.cat([times, torch.zeros(1, dtype=DT)]).diff()
    assert 1 - 1e-12 < times[0] <= 1
    assert (steps.diff() < 0).all()
    assert steps[0] < math.pi / 2 / 50
    torch.testing.assert_close(times, 1 - torch.cos(0.5 * math.pi * schedule(50, dtype=DT)))


@pytest.mark.parametrize("confidence", [None, 0.0, 1.0])
def test_as_many_atoms_leave_the_mask_in_whatever_order(confidence: float | None) -> None:
    sizes = torch.tensor([3, 1, 20, 7])
    noise = CrystalNoise(5, torch.arange(4), sizes, DT)
    batch = PROCESS.prior(sizes, noise.at(0, 0))
    batch = batch.replace(atomic_numbers=torch.where(torch.arange(31) % 3 == 0, 8, batch.atomic_numbers))
    logits = torch.full((31, NUM_CLASSES), -30.0, dtype=DT)
    logits[:, 25], logits[:, 10] = torch.linspace(0, 6, 31, dtype=DT), 0.0  # later atoms are surer of Fe
    scores = Scores(batch.frac_coords, batch.cell, logits)
    t, s = torch.full((4,), 0.6, dtype=DT), torch.full((4,), 0.3, dtype=DT)

    def after(confidence: float | None) -> Tensor:
        return PROCESS.predict_species(batch, scores, t, s, noise.at(1, 2), confidence=confidence)[0]

    found, plain = after(confidence), after(None)
    index, masked = batch.batch_index, batch.atomic_numbers == MASK
    for crystal in range(4):
        assert (found == MASK)[index == crystal].sum() == (plain == MASK)[index == crystal].sum()
    assert torch.equal(found[~masked], batch.atomic_numbers[~masked])
    assert set(found.tolist()) <= {8, 11, 26, MASK}
    assert (found[masked] == MASK).any()
    assert (found[masked] != MASK).any()


def test_the_surest_atoms_leave_the_mask_first() -> None:
    sizes = torch.tensor([12, 12])
    noise = CrystalNoise(6, torch.arange(2), sizes, DT)
    batch = PROCESS.prior(sizes, noise.at(0, 0))
    logits = torch.full((24, NUM_CLASSES), -1e3, dtype=DT)
    sure = torch.linspace(0, 5, 12, dtype=DT).repeat(2)
    logits[:, 0:40] = 0.0
    logits[:, 25] = 8 + sure
    scores = Scores(batch.frac_coords, batch.cell, logits)
    t, s = torch.full((2,), 1.0, dtype=DT), torch.full((2,), 0.5, dtype=DT)
    found, _ = PROCESS.predict_species(batch, scores, t, s, noise.at(1, 2), confidence=0.0)
    for half in ((found == MASK)[:12], (found == MASK)[12:]):
        left = int((~half).sum())
        assert 0 < left < 12
        assert not half[12 - left :].any()


@pytest.mark.parametrize("remask", [0.3, 1.0])
def test_remasking_keeps_the_law_of_every_time(remask: float) -> None:
    # One step of the posterior carries the marginal at t into the marginal at s, whatever is remasked.
    data = torch.zeros(NUM_CLASSES, dtype=DT)
    data[7], data[10], data[25] = 0.5, 0.3, 0.2
    classes = torch.arange(1, NUM_CLASSES + 1)
    for now, then in ((1.0, 0.7), (0.7, 0.4), (0.4, 0.1), (0.1, 0.0)):
        t, s = torch.full((NUM_CLASSES,), now, dtype=DT), torch.full((NUM_CLASSES,), then, dtype=DT)
        step = PROCESS.species.posterior_logits(classes, data.expand(NUM_CLASSES, -1), t, s, remask).softmax(-1)
        before, after = (1 - now) * data, (1 - then) * data
        before[MASK - 1], after[MASK - 1] = now, then
        torch.testing.assert_close(before @ step, after, rtol=0, atol=1e-12)
        assert bool(step[7, MASK - 1] > 0.01) == (then > 0)


@pytest.mark.parametrize(
    ("solver", "settings"),
    [("multistep", {"confidence": 0.5, "remask": 0.8}), ("predictor_corrector", {"remask": 0.8})],
)
def test_remasking_and_confidence_keep_the_bounds(solver: str, settings: dict[str, float]) -> None:
    sizes = torch.tensor([4, 9, 6, 12] * 4)
    low, high = torch.zeros(16, 100, dtype=torch.int64), torch.zeros(16, 100, dtype=torch.int64)
    high[:, 7], high[:, 10], high[:, 25] = sizes // 2, sizes, 2
    low[:, 7], low[:, 25] = 1, 2
    bounds = CountBounds(low, high)
    process = ConstrainedProcess(PROCESS.config, bounds, torch.zeros(int(sizes.sum()), dtype=torch.int64))
    noise = CrystalNoise(9, torch.arange(16), sizes, DT)
    masked: list[Tensor] = [torch.ones(int(sizes.sum()), dtype=torch.bool)]
    back = 0

    def watch(step: int, batch: CrystalBatch, mean: CrystalBatch) -> None:
        nonlocal back
        masked.append(batch.atomic_numbers == MASK)
        back += int((masked[-1] & ~masked[-2]).sum())

    def wants_iron(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        logits = torch.zeros(len(batch.frac_coords), NUM_CLASSES, dtype=DT)
        logits[:, 25] = 5.0
        cell = PROCESS.cell.gaussian_output(batch.cell, t, batch.num_atoms)
        return Scores(torch.zeros_like(batch.frac_coords), cell, logits)

    first = process.prior(sizes, noise.at(0, 0))
    times = schedule(15, dtype=DT)
    result = SOLVERS[solver](wants_iron, process, first, times, noise, watch, **settings)
    assert bounds.kept_by(result).all()
    assert back > 0
    assert not masked[-1].any()
