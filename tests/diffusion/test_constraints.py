"""Laws of composition bounds and of parts that are given, with denoisers that know nothing about them."""

from __future__ import annotations

import math

import pytest
import torch

from crystalsmith.cells import symmetric_polar
from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.composition import CountBounds, remask, scaled_probabilities
from crystalsmith.diffusion.constraints import ConstrainedProcess, Given, hold_given
from crystalsmith.diffusion.guidance import allow_elements
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import SOLVERS, resampled, schedule
from crystalsmith.elements import ALLOWED, MASK
from crystalsmith.errors import InputError

CONFIG = ProcessConfig(cell_variance={"all": (0.1, 0.1)})


class Opinion:
    """Pulls no atom anywhere and has fixed, strong opinions about elements."""

    def __init__(self, process: Process, seed: int = 0, strength: float = 6.0) -> None:
        self.process, self.strength = process, strength
        self.table = torch.randn(64, 101, generator=torch.Generator().manual_seed(seed))

    def __call__(self, batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        first = torch.cumsum(batch.num_atoms, 0) - batch.num_atoms
        position = torch.arange(len(batch.frac_coords)) - first[batch.batch_index]
        cell = self.process.cell.gaussian_output(batch.cell, t, batch.num_atoms)
        return Scores(torch.zeros_like(batch.frac_coords), cell, self.strength * self.table[position % 64])


def bounds_of(sizes: torch.Tensor, low: dict[int, int], high: dict[int, int] | None = None) -> CountBounds:
    least, most = torch.zeros(len(sizes), 100, dtype=torch.int64), torch.zeros(len(sizes), 100, dtype=torch.int64)
    if high is None:
        most[:, torch.tensor(sorted(ALLOWED)) - 1] = sizes[:, None]
    for z, n in low.items():
        least[:, z - 1] = n
    for z, n in (high or {}).items():
        most[:, z - 1] = n
    return CountBounds(least, most)


def sample(bounds: CountBounds, sizes: torch.Tensor, solver: str, steps: int, seed: int = 0) -> CrystalBatch:
    process = ConstrainedProcess(CONFIG, bounds, torch.zeros(int(sizes.sum()), dtype=torch.int64))
    noise = CrystalNoise(seed, torch.arange(len(sizes)), sizes)
    denoiser = allow_elements(Opinion(process, seed), ALLOWED)
    first = process.prior(sizes, noise.at(0, 0))
    return SOLVERS[solver](denoiser, process, first, schedule(steps), noise)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("steps", [1, 7])
def test_no_crystal_breaks_its_bounds(solver: str, steps: int) -> None:
    sizes = torch.randint(4, 13, (100,), generator=torch.Generator().manual_seed(1))
    cases = [
        bounds_of(sizes, {3: 1, 26: 1, 8: 2}),
        bounds_of(sizes, {}, {3: 100, 8: 3, 14: 100}),
        bounds_of(sizes, {83: 2, 1: 1}, {83: 2, 1: 100, 9: 1}),
    ]
    for bounds in cases:
        bounds.check(sizes)
        assert bool(bounds.kept_by(sample(bounds, sizes, solver, steps)).all())


def test_exact_formulas_come_out_exactly() -> None:
    units = torch.arange(120) % 4 + 1
    bounds = CountBounds(*(torch.zeros(120, 100, dtype=torch.int64) for _ in range(2)))
    for z, count in ((3, 1), (26, 1), (15, 1), (8, 4)):
        bounds.low[:, z - 1] = bounds.high[:, z - 1] = count * units
    assert bool(bounds.kept_by(sample(bounds, 7 * units, "ancestral", 9)).all())


def test_a_bound_that_does_not_bind_changes_no_probability() -> None:
    probs = torch.softmax(torch.randn(12, 100, dtype=torch.float64), -1)
    index = torch.arange(12) // 4
    room = torch.full((3, 100), 4)
    got = scaled_probabilities(probs, torch.ones(12, dtype=torch.bool), torch.zeros(3, 100).long(), room, index, 3)
    torch.testing.assert_close(got, probs)


def test_scaled_probabilities_meet_exact_counts_in_expectation() -> None:
    probs = torch.softmax(2 * torch.randn(6, 100, dtype=torch.float64), -1)
    needed = torch.zeros(1, 100, dtype=torch.int64)
    needed[0, [2, 7, 25]] = torch.tensor([1, 3, 2])
    got = scaled_probabilities(probs, torch.ones(6, dtype=torch.bool), needed, needed, torch.zeros(6).long(), 1)
    torch.testing.assert_close(
        got.sum(0)[[2, 7, 25]], torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64), atol=0.02, rtol=0
    )


def test_counts_are_assigned_where_the_model_wants_them() -> None:
    """Two atoms, one Li and one O to give: the odds of the scaled 2 x 2 table, whose cross ratio is the model's."""
    sizes = torch.full((600,), 2)
    bounds = bounds_of(sizes, {3: 1, 8: 1}, {3: 1, 8: 1})
    process = ConstrainedProcess(CONFIG, bounds, torch.zeros(1200, dtype=torch.int64))
    wish = torch.full((2, 101), -20.0)
    wish[0, [2, 7]] = torch.tensor([0.8, 0.2]).log()
    wish[1, [2, 7]] = torch.tensor([0.6, 0.4]).log()

    def denoiser(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        return Scores(torch.zeros_like(batch.frac_coords), torch.zeros_like(batch.cell), wish.repeat(600, 1))

    noise = CrystalNoise(3, torch.arange(600), sizes)
    first = process.prior(sizes, noise.at(0, 0))
    # Many steps: few atoms are left to the last one, which takes the most probable element.
    done = SOLVERS["ancestral"](denoiser, process, first, schedule(80), noise)
    share = float((done.atomic_numbers.view(-1, 2)[:, 0] == 3).double().mean())
    odds = math.sqrt((0.8 * 0.4) / (0.2 * 0.6))
    expected = odds / (1 + odds)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 600) + 0.01


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(InputError, match="cannot hold"):
        bounds_of(torch.tensor([4]), {1: 1, 3: 1, 4: 1, 5: 1, 6: 1}).check(torch.tensor([4]))
    with pytest.raises(InputError, match="room for 3"):
        bounds_of(torch.tensor([4]), {}, {8: 3}).check(torch.tensor([4]))
    with pytest.raises(InputError, match="Fe must appear"):
        bounds_of(torch.tensor([4]), {26: 1}, {8: 4}).check(torch.tensor([4]))


def test_remasking_makes_bounds_possible_and_touches_nothing_else(make_batch) -> None:
    batch = make_batch([4, 4])
    batch = batch.replace(atomic_numbers=torch.tensor([26, 26, 8, 8, 3, 8, 8, MASK]))
    bounds = bounds_of(batch.num_atoms, {3: 1}, {3: 4, 8: 4, 26: 1})
    done = remask(bounds, batch, torch.zeros(8, dtype=torch.int64))
    assert done.atomic_numbers.tolist() == [26, MASK, 8, 8, 3, 8, 8, MASK]
    with pytest.raises(InputError, match="kept hold 2 Fe"):
        remask(bounds, batch, torch.tensor([26, 26, 0, 0, 0, 0, 0, 0]))


def given_of(batch: CrystalBatch, sites: list[int], hold_cell: bool) -> Given:
    held = torch.zeros(len(batch.frac_coords), dtype=torch.bool)
    held[sites] = True
    numbers = torch.where(held, batch.atomic_numbers, torch.zeros_like(batch.atomic_numbers))
    return Given(batch.frac_coords, held, batch.cell, symmetric_polar(batch.cell), hold_cell, numbers)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_given_parts_are_reached_by_the_process_itself(solver: str, make_batch) -> None:
    """Before anything is imposed, kept sites and cells have come to where they must be."""
    clean = make_batch([3, 5, 6], dtype=torch.float64)
    clean = clean.replace(atomic_numbers=torch.tensor([3, 8, 8, 26, 3, 8, 8, 8, 14, 14, 8, 8, 8, 8]))
    given = given_of(clean, [0, 1, 4, 8, 9], hold_cell=True)
    bounds = bounds_of(clean.num_atoms, {})
    process = ConstrainedProcess(CONFIG, bounds, given.numbers)
    noise = CrystalNoise(0, torch.arange(3), clean.num_atoms, torch.float64)
    first = process.prior(clean.num_atoms, noise.at(0, 0))
    denoiser = hold_given(allow_elements(Opinion(process), ALLOWED), process, given)
    times = resampled(schedule(60, dtype=torch.float64), 2)
    done = SOLVERS[solver](denoiser, process, first, times, noise)
    away = (done.frac_coords - clean.frac_coords)[given.sites]
    assert float((away - away.round()).abs().max()) < 1e-6
    torch.testing.assert_close(symmetric_polar(done.cell), given.upright, atol=1e-6, rtol=0)
    assert torch.equal(done.atomic_numbers[given.sites], clean.atomic_numbers[given.sites])
    imposed = given.impose(done)
    assert torch.equal(imposed.frac_coords[given.sites], clean.frac_coords[given.sites])
    assert torch.equal(imposed.cell, clean.cell)


def test_a_kept_cell_has_the_noise_of_its_level_on_the_way() -> None:
    """The network must see what it saw in training: the marginal of the process at every time."""
    process, count = Process(CONFIG), 3000
    sizes = torch.full((count,), 2)
    cell = torch.tensor([[4.0, 0.3, 0.0], [0.3, 3.0, -0.2], [0.0, -0.2, 3.5]], dtype=torch.float64).expand(count, 3, 3)
    given = Given(
        torch.zeros(2 * count, 3, dtype=torch.float64),
        torch.ones(2 * count, dtype=torch.bool),
        cell,
        cell,
        True,
        torch.zeros(2 * count, dtype=torch.int64),
    )
    noise = CrystalNoise(1, torch.arange(count), sizes, torch.float64)
    seen: list[CrystalBatch] = []
    times = schedule(40, dtype=torch.float64)
    first = process.prior(sizes, noise.at(0, 0))
    held = hold_given(Opinion(process), process, given)
    SOLVERS["ancestral"](held, process, first, times, noise, lambda step, batch, mean: seen.append(batch))
    at = 24
    t = times[at + 1].expand(count)
    mean, std = process.cell.mean(cell, t, sizes)[0], process.cell.std(t, sizes)[0]
    torch.testing.assert_close(seen[at].cell.mean(0), mean, atol=5 * float(std) / count**0.5, rtol=0)
    assert abs(float((seen[at].cell - mean)[:, 0, 0].std() / std) - 1) < 5 / (2 * count) ** 0.5
    away = seen[at].frac_coords - seen[at].frac_coords.round()
    sigma = process.coordinates.std(t[:1], sizes[:1])
    assert float(sigma) < 0.2
    assert abs(float(away.std() / sigma) - 1) < 0.05


def test_renoising_gives_the_marginal_of_the_later_time() -> None:
    process, count = Process(CONFIG), 4000
    sizes = torch.full((count,), 1)
    clean = CrystalBatch(
        torch.full((count, 3), 0.5, dtype=torch.float64),
        3 * torch.eye(3, dtype=torch.float64).expand(count, 3, 3),
        torch.full((count,), 8),
        sizes,
    )
    noise = CrystalNoise(2, torch.arange(count), sizes, torch.float64)
    early, late = torch.full((count,), 0.2, dtype=torch.float64), torch.full((count,), 0.35, dtype=torch.float64)
    there = process.renoise(process.corrupt(clean, early, noise.at(0, 0)), early, late, noise.at(1, 0))
    std = process.coordinates.std(late, sizes)[0]
    assert abs(float((there.frac_coords - 0.5).std() / std) - 1) < 0.03
    cell_std = process.cell.std(late, sizes)[0]
    off = there.cell - process.cell.mean(clean.cell, late, sizes)
    assert abs(float(off[:, 0, 1].std() / cell_std) - 1) < 0.05
    assert abs(float((there.atomic_numbers == MASK).double().mean()) - 0.35) < 0.03


def test_resampled_times_pass_every_level_and_rise_between() -> None:
    times = schedule(25)
    assert torch.equal(resampled(times, 1), times)
    path = resampled(times, 3, jump=10)
    assert sorted(set(path.tolist())) == sorted(times.tolist())
    assert int((path.diff() > 0).sum()) == 4
    assert path[-1] == times[-1]
