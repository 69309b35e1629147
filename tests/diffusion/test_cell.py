"""Laws of the cell's process."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.diffusion.cell import CellProcess, symmetric_noise

DT = torch.float64
PROCESS = CellProcess()
N = torch.tensor([1, 8, 20])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DT)


def times(value: float, count: int = 3) -> Tensor:
    return torch.full((count,), value, dtype=DT)


def test_signal_is_the_integral_of_the_noise_rate() -> None:
    for end in (0.1, 0.6, 1.0):
        grid = torch.linspace(0, end, 10_001, dtype=DT)
        rate = PROCESS.beta_min + (PROCESS.beta_max - PROCESS.beta_min) * grid
        expected = torch.exp(-0.5 * torch.trapezoid(rate, grid))
        torch.testing.assert_close(PROCESS.signal(torch.tensor(end, dtype=DT)), expected)


def test_limits_at_both_ends() -> None:
    clean = symmetric_polar(4 * torch.eye(3, dtype=DT) + randn(3, 3, 3))
    z = randn(3, 3, 3, seed=1)
    torch.testing.assert_close(PROCESS.corrupt(clean, times(0.0), N, z), clean)
    assert not PROCESS.std(times(0.0), N).any()
    # Prior equals the terminal marginal up to what is left of the data, a(1) = 6.6e-3.
    left = float(PROCESS.signal(torch.tensor(1.0, dtype=DT)))
    assert left == pytest.approx(6.6e-3, rel=0.01)
    difference = PROCESS.corrupt(clean, times(1.0), N, z) - PROCESS.prior(N, z)
    bound = (
        left * (clean - PROCESS.limit_mean(N, DT)).abs()
        + left**2 * (PROCESS.limit_std(N, DT) * symmetric_noise(z)).abs()
    )
    assert (difference.abs() <= bound).all()
    # The prior's mean is a cube at the limit density.
    mean = PROCESS.prior(N, torch.zeros(3, 3, 3, dtype=DT))
    torch.testing.assert_close(N / torch.linalg.det(mean), times(PROCESS.limit_density))
    torch.testing.assert_close(PROCESS.limit_std(N, DT).view(-1) ** 2, 0.25 * N.to(DT) ** (2 / 3))


def test_symmetric_noise_is_symmetric_with_unit_variance_everywhere() -> None:
    noise = symmetric_noise(randn(20_000, 3, 3))
    assert torch.equal(noise, noise.transpose(1, 2))
    tolerance = 4 * math.sqrt(2 / 20_000)
    assert ((noise.square().mean(0) - 1).abs() < tolerance).all()
    six = noise[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    covariance = six.T @ six / len(six)
    assert ((covariance - torch.eye(6, dtype=DT)).abs() < tolerance).all()


def test_polar_form_keeps_the_crystal_and_only_turns_it() -> None:
    cells = randn(50, 3, 3) + 2 * torch.eye(3, dtype=DT)
    polar = symmetric_polar(cells)
    torch.testing.assert_close(polar, polar.transpose(1, 2))
    assert torch.linalg.eigvalsh(polar).min() > 0
    gram = cells @ cells.transpose(1, 2)
    torch.testing.assert_close(polar @ polar.transpose(1, 2), gram)  # lengths and angles of the lattice vectors
    torch.testing.assert_close(torch.linalg.det(polar), torch.linalg.det(cells).abs())
    turned = cells @ torch.linalg.qr(randn(3, 3, seed=1)).Q
    torch.testing.assert_close(symmetric_polar(turned), polar)
    torch.testing.assert_close(symmetric_polar(polar), polar)


def test_polar_form_of_a_broken_matrix_breaks_no_other() -> None:
    cells = randn(3, 3, 3)
    cells[1, 0, 0] = float("nan")
    cells[2, 1, 2] = float("inf")
    polar = symmetric_polar(cells)
    assert torch.isfinite(polar[0]).all()
    assert torch.isnan(polar[1:]).all()


def propagate(process: CellProcess, t: Tensor, s: Tensor, output_of: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Gain and noise, element by element ``(3, 3)``, of an ancestral step that is linear in the cell."""
    n = torch.tensor([4, 4])
    centre = process.limit_mean(n, DT)
    x = centre + torch.stack([torch.zeros(3, 3, dtype=DT), torch.ones(3, 3, dtype=DT)])
    quiet, mean = process.predictor_step(x, output_of(x, t, n), t, s, n, torch.zeros(2, 3, 3, dtype=DT))
    z = symmetric_noise(torch.ones(2, 3, 3, dtype=DT))
    loud, _ = process.predictor_step(x, output_of(x, t, n), t, s, n, torch.ones(2, 3, 3, dtype=DT))
    torch.testing.assert_close(quiet, mean)
    return mean[1] - mean[0], (loud - quiet)[0] / z[0]


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.9), (0.7, 0.2), (0.2, 0.199), (0.05, 0.0)])
def test_ancestral_step_carries_the_marginal_over_exactly(start: float, end: float) -> None:
    # Data at one cell L_0: x_t ~ N(mean_t, std_t^2). The exact score must give N(mean_s, std_s^2), mean and variance.
    t, s, n = times(start, 2), times(end, 2), torch.tensor([4, 4])
    clean = symmetric_polar(4 * torch.eye(3, dtype=DT) + randn(1, 3, 3)).expand(2, 3, 3)

    def exact(x: Tensor, t: Tensor, n: Tensor) -> Tensor:
        return -(x - PROCESS.mean(clean, t, n)) / PROCESS.std(t, n)

    x = PROCESS.mean(clean, t, n)
    _, mean = PROCESS.predictor_step(x, exact(x, t, n), t, s, n, torch.zeros(2, 3, 3, dtype=DT))
    expected = clean if end == 0 else PROCESS.mean(clean, s, n)
    torch.testing.assert_close(mean, expected)
    gain, noise = propagate(PROCESS, t, s, exact)
    variance = gain.square() * PROCESS.std(t, n)[0] ** 2 + noise.square()
    torch.testing.assert_close(variance, (PROCESS.std(s, n)[0] ** 2).expand(3, 3))


def test_scalar_noise_is_one_number_per_crystal() -> None:
    published = CellProcess(scalar_noise=True)
    x, z = PROCESS.prior(N, randn(3, 3, 3)), randn(3, 3, 3, seed=1)
    output = torch.zeros_like(x)
    sample, mean = published.predictor_step(x, output, times(0.5), times(0.4), N, z)
    added = (sample - mean) / (sample - mean)[:, :1, :1]
    pattern = torch.full((3, 3), math.sqrt(2), dtype=DT).fill_diagonal_(1.0)
    torch.testing.assert_close(added, pattern.expand(3, 3, 3))


def test_corrector_keeps_a_symmetric_positive_cell() -> None:
    x = PROCESS.prior(N, randn(3, 3, 3))
    output = symmetric_noise(randn(3, 3, 3, seed=1))
    moved = PROCESS.corrector_step(x, output, times(0.3), N, times(0.05), randn(3, 3, 3, seed=2))
    torch.testing.assert_close(moved, moved.transpose(1, 2))
    assert torch.linalg.eigvalsh(moved).min() >= 0
    still = PROCESS.corrector_step(x, output, times(0.3), N, times(0.0), randn(3, 3, 3, seed=2))
    torch.testing.assert_close(still, symmetric_polar(x))


def test_gaussian_output_is_the_score_of_the_noised_gaussian() -> None:
    process = CellProcess(data_variance={"all": (0.3, 0.1), "8": (0.02, 0.5)})
    rows = {1: (0.3, 0.1), 8: (0.02, 0.5), 20: (0.3, 0.1)}
    t = times(0.35)
    x = process.prior(N, randn(3, 3, 3)).requires_grad_()
    a2 = process.signal(t) ** 2
    log_density = x.new_zeros(())
    for crystal, n in enumerate(N.tolist()):
        diagonal, off = (v * n ** (2 / 3) for v in rows[n])
        data = torch.full((3, 3), off, dtype=DT).fill_diagonal_(diagonal)
        variance = a2[crystal] * data + (1 - a2[crystal]) * 0.25 * n ** (2 / 3)
        log_density = log_density - ((x - process.limit_mean(N, DT))[crystal].square() / (2 * variance)).sum()
    (score,) = torch.autograd.grad(log_density, x)
    torch.testing.assert_close(process.gaussian_output(x.detach(), t, N), score * process.std(t, N))
    assert not PROCESS.gaussian_output(x.detach(), t, N).any()


@pytest.mark.parametrize("langevin", [False, True])
def test_sampling_a_gaussian_converges_to_it(langevin: bool) -> None:
    # With the exact score every step is linear, so the variance of the result follows without drawing a sample.
    process = CellProcess(data_variance={"all": (0.05, 0.02)})
    n, zero, one = torch.tensor([4, 4]), torch.zeros(2, 3, 3, dtype=DT), torch.ones(2, 3, 3, dtype=DT)
    target = torch.full((3, 3), 0.02, dtype=DT).fill_diagonal_(0.05) * 4 ** (2 / 3)
    centre = process.limit_mean(n, DT)
    unit = symmetric_noise(one)[0]

    def error(steps: int) -> float:
        ends = torch.linspace(1, 0, steps + 1, dtype=DT)
        variance = process.limit_std(n, DT)[0].square().expand(3, 3)
        # A symmetric unit step in all elements at once: element by element, as everything here is.
        small = 1e-3
        x = centre + torch.stack([zero[0], small * one[0]])
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            t, s = times(start, 2), times(end, 2)
            output = process.gaussian_output(x, t, n)
            if langevin:
                step = 2 * (0.2 * process.std(t, n).view(-1)) ** 2
                quiet = process.corrector_step(x, output, t, n, step, zero)
                loud = process.corrector_step(x, output, t, n, step, small * one)
                gain, noise = (quiet[1] - quiet[0]) / small, (loud - quiet)[0] / small / unit
                variance = gain.square() * variance + noise.square()
            quiet, mean = process.predictor_step(x, output, t, s, n, zero)
            loud, _ = process.predictor_step(x, output, t, s, n, one)
            gain, noise = (mean[1] - mean[0]) / small, (loud - quiet)[0] / unit
            variance = gain.square() * variance + noise.square()
        return float((variance / target - 1).abs().max())

    coarse, fine = error(100), error(400)
    assert coarse < 0.3
    assert fine < coarse / 2.5
