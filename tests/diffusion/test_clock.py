"""Laws of the two clocks: elements and geometry at times of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.clock import Clock, ClockedProcess
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import SOLVERS, schedule
from crystalsmith.elements import MASK

Make = Callable[..., CrystalBatch]


def noise_of(batch: CrystalBatch) -> CrystalNoise:
    return CrystalNoise(3, torch.arange(batch.num_crystals), batch.num_atoms)


def test_elements_are_noised_to_their_own_time_and_geometry_to_its(make_batch: Make) -> None:
    process, batch = Process(ProcessConfig()), make_batch([5, 8], dtype=torch.float32)
    t, zero, one = torch.tensor([0.3, 0.6]), torch.zeros(2), torch.ones(2)
    plain = process.corrupt(batch, t, noise_of(batch).at(0, 0))
    known = process.corrupt(batch, t, noise_of(batch).at(0, 0), zero)
    masked = process.corrupt(batch, t, noise_of(batch).at(0, 0), one)
    assert torch.equal(known.atomic_numbers, batch.atomic_numbers)
    assert (masked.atomic_numbers == MASK).all()
    for other in (known, masked):
        assert torch.equal(other.frac_coords, plain.frac_coords)
        assert torch.equal(other.cell, plain.cell)


def test_the_loss_of_known_elements_is_that_of_structure_prediction(make_batch: Make) -> None:
    batch, t = make_batch([5, 8], dtype=torch.float32), torch.tensor([0.3, 0.6])
    process = Process(ProcessConfig())
    noisy = process.corrupt(batch, t, noise_of(batch).at(0, 0), torch.zeros(2))
    logits = torch.zeros(13, 101)
    scores = Scores(torch.zeros(13, 3), torch.zeros(2, 3, 3), logits)
    both = process.loss(scores, batch, noisy, t, torch.zeros(2))
    given = Process(ProcessConfig(task="csp")).loss(scores, batch, noisy, t)
    assert torch.equal(both.frac_coords, given.frac_coords)
    assert torch.equal(both.cell, given.cell)


def test_at_level_one_nothing_changes_and_below_the_network_is_told_less(make_batch: Make) -> None:
    batch = make_batch([4, 6], dtype=torch.float32)
    told: list[float] = []

    def denoiser(noisy: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        told.append(float(t[0]))
        return Scores(0.1 * noisy.frac_coords, -0.1 * noisy.cell, 50 * torch.eye(101)[noisy.atomic_numbers % 90])

    process, noise = Process(ProcessConfig()), noise_of(batch)
    first = process.prior(batch.num_atoms, noise.at(0, 0))
    for name, solver in SOLVERS.items():
        if name == "published":
            continue
        clocked = ClockedProcess(process, Clock(1.0))
        plain = solver(denoiser, process, first, schedule(5), noise)
        same = solver(Clock(1.0).tell(denoiser), clocked, first, schedule(5), noise)
        assert torch.equal(plain.frac_coords, same.frac_coords)
        assert torch.equal(plain.atomic_numbers, same.atomic_numbers)
        told.clear()
        start = ClockedProcess(process, Clock(0.25)).corrupt(batch, torch.ones(2), noise.at(0, 0))
        done = solver(Clock(0.25).tell(denoiser), ClockedProcess(process, Clock(0.25)), start, schedule(5), noise)
        assert max(told) == 0.25
        assert (done.atomic_numbers != MASK).all()


def test_a_low_level_keeps_the_geometry_while_elements_are_drawn_anew(make_batch: Make) -> None:
    batch, noise = make_batch([4, 6], dtype=torch.float32), noise_of(make_batch([4, 6]))

    def still(noisy: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        return Scores(0 * noisy.frac_coords, 0 * noisy.cell, torch.eye(101)[7].expand(10, 101) * 50)

    clock = Clock(0.01)
    clocked = ClockedProcess(Process(ProcessConfig()), clock)
    start = clocked.corrupt(batch, torch.ones(2), noise.at(0, 0))
    done = SOLVERS["ancestral"](clock.tell(still), clocked, start, schedule(20), noise)
    moved = done.frac_coords - batch.frac_coords
    assert (moved - moved.round()).abs().max() < 0.1
    assert (done.atomic_numbers == 8).all()
