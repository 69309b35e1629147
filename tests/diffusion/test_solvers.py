"""Laws of the solvers: exactly solvable data, independence of the batch, constraints."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
import torch

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import allow_elements
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP, PRIOR, SETTINGS, SOLVERS, WARPS, schedule
from crystalsmith.elements import ALLOWED, NUM_CLASSES

DT = torch.float64
VARIANCE = (0.05, 0.02)
CENTRE = torch.tensor([0.3, 0.62, 0.97], dtype=DT)
WIDTH = 0.07
ELEMENTS = {8: 0.5, 11: 0.3, 26: 0.2}


def exact_denoiser(process: Process) -> Denoiser:
    """Scores of the data N(M_n, VARIANCE n^(2/3)) x wrapped N(CENTRE, WIDTH^2) x independent elements."""
    log_probs = torch.full((NUM_CLASSES,), -100.0, dtype=DT)
    for number, probability in ELEMENTS.items():
        log_probs[number - 1] = math.log(probability)
    images = torch.arange(-20, 21, dtype=DT)

    def denoise(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        std = process.coordinates.std(t, batch.num_atoms)[batch.batch_index].view(-1, 1)
        variance = (std.square() + WIDTH**2).unsqueeze(-1)
        delta = (batch.frac_coords - CENTRE).unsqueeze(-1) + images
        weight = torch.softmax(-delta.square() / (2 * variance), -1)
        return Scores(
            frac_coords=-(weight * delta / variance).sum(-1) * std,
            cell=process.cell.gaussian_output(batch.cell, t, batch.num_atoms),
            species_logits=log_probs.expand(len(std), -1),
        )

    return denoise


def sample(
    solver: str,
    denoiser: Denoiser,
    process: Process,
    indices: list[int],
    sizes: list[int],
    steps: int = 0,
    times: torch.Tensor | None = None,
    **settings: Any,
) -> CrystalBatch:
    n = torch.tensor(sizes)
    times = schedule(steps, dtype=DT) if times is None else times
    noise = CrystalNoise(11, torch.tensor(indices), n, DT)
    prior = process.prior(n, noise.at(0, PRIOR))
    return SOLVERS[solver](denoiser, process, prior, times, noise, **settings)


# A finite number of steps leaves the variances a few per cent off; test_cell follows the limit without sampling.
@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        ("ancestral", {}),
        ("predictor_corrector", {}),
        ("predictor_corrector", {"corrector_every": 4}),
        ("heun", {}),
        ("multistep", {}),
        ("multistep", {"churn": 1.0}),
    ],
)
def test_exact_scores_give_the_data_back(solver: str, settings: dict[str, Any]) -> None:
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))
    crystals, n = 600, 2
    steps = 40 if solver in ("multistep", "heun") else 200
    times = schedule(steps, dtype=DT, kind=WARPS[solver])
    result = sample(
        solver, exact_denoiser(process), process, list(range(crystals)), [n] * crystals, times=times, **settings
    )
    three_sigma = 3 / math.sqrt(3 * crystals)
    delta = result.frac_coords - CENTRE
    delta = delta - delta.round()
    assert abs(delta.mean()) < three_sigma * WIDTH
    assert abs(delta.square().mean() / WIDTH**2 - 1) < 0.05 + three_sigma
    cell = (result.cell - process.cell.limit_mean(result.num_atoms, DT)) / n ** (1 / 3)
    diagonal, off = cell.diagonal(dim1=1, dim2=2), cell[:, [0, 0, 1], [1, 2, 2]]
    assert abs(diagonal.mean()) < (three_sigma + 0.02) * math.sqrt(VARIANCE[0])
    assert abs(off.mean()) < (three_sigma + 0.02) * math.sqrt(VARIANCE[1])
    assert abs(diagonal.square().mean() / VARIANCE[0] - 1) < 0.1 + three_sigma * math.sqrt(2)
    assert abs(off.square().mean() / VARIANCE[1] - 1) < 0.1 + three_sigma * math.sqrt(2)
    for number, probability in ELEMENTS.items():
        found = (result.atomic_numbers == number).double().mean()
        assert abs(found - probability) < 3 * math.sqrt(probability * (1 - probability) / (crystals * n))
    assert set(result.atomic_numbers.tolist()) == set(ELEMENTS)


def test_less_noise_gathers_the_crystals_about_the_same_middle() -> None:
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))
    crystals = 400
    spread: list[tuple[float, float]] = []
    for scale in (1.0, 0.7, 0.4):
        settings = {"steps": 100, "noise_scale": scale}
        many = list(range(crystals))
        out = sample("predictor_corrector", exact_denoiser(process), process, many, [2] * crystals, **settings)
        from_centre = out.frac_coords - CENTRE
        from_centre = from_centre - from_centre.round()
        assert abs(from_centre.mean()) < 3 / math.sqrt(3 * crystals) * WIDTH
        spread.append((float(from_centre.std()), float(out.cell[:, 0, 1].std())))
    for before, after in itertools.pairwise(spread):
        assert all(small < 0.85 * large for small, large in zip(after, before, strict=True))


@pytest.mark.parametrize("solver", ["ancestral", "predictor_corrector", "multistep", "heun"])
def test_a_crystal_is_the_same_in_any_batch(solver: str) -> None:
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))
    denoiser = exact_denoiser(process)
    together = sample(solver, denoiser, process, [5, 6, 7], [4, 1, 9], 12)
    alone = sample(solver, denoiser, process, [6], [1], 12)
    torch.testing.assert_close(alone.frac_coords, together.frac_coords[4:5], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.cell, together.cell[1:2], rtol=0, atol=1e-12)
    assert torch.equal(alone.atomic_numbers, together.atomic_numbers[4:5])


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_only_allowed_elements_and_finite_cells_come_out(solver: str) -> None:
    # A denoiser that knows nothing and would love to answer with a mask or a noble gas.
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))

    def ignorant(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        logits = torch.zeros(len(batch.frac_coords), NUM_CLASSES, dtype=DT)
        logits[:, [1, 9, NUM_CLASSES - 1]] = 20.0
        cell = process.cell.gaussian_output(batch.cell, t, batch.num_atoms)
        return Scores(torch.zeros_like(batch.frac_coords), cell, logits)

    seen: list[set[int]] = []

    def watch(step: int, batch: CrystalBatch, mean: CrystalBatch) -> None:
        assert step == len(seen)
        seen.append(set(batch.atomic_numbers.tolist()))

    denoiser = allow_elements(ignorant, ALLOWED)
    result = sample(solver, denoiser, process, list(range(60)), [5] * 60, 15, callback=watch)
    assert len(seen) == 15
    assert set().union(*seen) <= ALLOWED | {NUM_CLASSES}
    assert set(result.atomic_numbers.tolist()) <= ALLOWED
    assert len(set(result.atomic_numbers.tolist())) > 60  # nothing else was shut out
    assert torch.isfinite(result.cell).all()
    assert result.frac_coords.min() >= 0
    assert result.frac_coords.max() < 1


@pytest.mark.parametrize("solver", ["ancestral", "predictor_corrector", "multistep", "heun"])
def test_a_zero_network_with_preconditioning_returns_sane_upright_cells(solver: str) -> None:
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))

    def zero(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        logits = torch.zeros(len(batch.frac_coords), NUM_CLASSES, dtype=DT)
        return Scores(torch.zeros_like(batch.frac_coords), torch.zeros_like(batch.cell), logits)

    result = sample(solver, process.precondition(zero), process, list(range(200)), [8] * 200, 60)
    torch.testing.assert_close(result.cell, result.cell.transpose(1, 2))
    assert torch.linalg.eigvalsh(result.cell).min() > 0
    density = result.num_atoms / result.volume
    assert abs(density.median() / process.config.limit_density - 1) < 0.1
    assert density.min() > 0.02
    cell = (result.cell - process.cell.limit_mean(result.num_atoms, DT)) / 2
    assert abs(cell.diagonal(dim1=1, dim2=2).square().mean() / VARIANCE[0] - 1) < 0.3


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_the_network_is_called_as_often_as_stated_and_at_the_right_times(solver: str) -> None:
    process = Process(ProcessConfig(cell_variance={"all": VARIANCE}))
    inner, times = exact_denoiser(process), []

    def counting(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
        assert torch.equal(t, t[:1].expand(len(batch)))
        times.append(float(t[0]))
        return inner(batch, t)

    sample(solver, counting, process, [0, 1], [2, 3], 10)
    expected = [x for x in schedule(10, dtype=DT).tolist() for _ in range(NETWORK_CALLS_PER_STEP[solver])]
    # Heun looks at both ends of a step, but at 0 nothing is left to see.
    assert times == (expected[1:] if solver == "heun" else expected)


def test_schedule_ends_one_step_before_zero() -> None:
    torch.testing.assert_close(schedule(4), torch.tensor([1.0, 0.75, 0.5, 0.25]))
    assert schedule(1).tolist() == [1.0]
    torch.testing.assert_close(schedule(1000), torch.linspace(1, 0.001, 1000))


def test_every_solver_takes_the_settings_that_it_is_said_to_have():
    for name, solver in SOLVERS.items():
        keywords = {k for k, p in inspect.signature(solver).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert set(SETTINGS[name]) == keywords
