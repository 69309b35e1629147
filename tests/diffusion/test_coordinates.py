"""Laws of the wrapped coordinates' process."""

from __future__ import annotations

import math

import pytest
import torch

from crystalsmith.diffusion.coordinates import CoordinateProcess, wrapped_score

PROCESS = CoordinateProcess()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_std_runs_from_sigma_min_to_sigma_max() -> None:
    n = torch.tensor([1, 8, 27])
    for t, sigma in ((1e-12, 0.01), (0.5, math.sqrt(0.05)), (1.0, 5.0)):
        expected = torch.tensor([sigma, sigma / 2, sigma / 3], dtype=torch.float64)
        torch.testing.assert_close(PROCESS.std(torch.full((3,), t, dtype=torch.float64), n), expected)
    assert not PROCESS.std(torch.zeros(3), n).any()


@pytest.mark.parametrize("std", [0.005, 0.1, 0.7, 5.0])
def test_wrapped_score_is_the_gradient_of_the_log_of_the_truncated_sum(std: float) -> None:
    x, mean = rand(20, 3).requires_grad_(), rand(20, 3, seed=1)
    images = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3)  # all 343 at once, not by axis
    delta = (x - mean).unsqueeze(1) + images
    log_density = torch.logsumexp(-delta.square().sum(-1) / (2 * std**2), dim=1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    score = wrapped_score(x.detach(), mean, torch.full((20, 1), std, dtype=torch.float64))
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-9 / std)


def test_wrapped_score_is_periodic_and_odd() -> None:
    std = torch.full((20, 1), 0.3, dtype=torch.float64)
    x, mean = rand(20, 3), rand(20, 3, seed=1)
    score = wrapped_score(x, mean, std)
    torch.testing.assert_close(wrapped_score(mean, x, std), -score)
    torch.testing.assert_close(wrapped_score(torch.remainder(x + 0.4, 1), torch.remainder(mean + 0.4, 1), std), score)


def test_wrapped_score_of_little_noise_is_that_of_the_nearest_image() -> None:
    std = torch.full((1, 1), 0.01, dtype=torch.float64)
    x = torch.tensor([[0.99, 0.02, 0.5]], dtype=torch.float64)
    mean = torch.tensor([[0.01, 0.0, 0.48]], dtype=torch.float64)
    expected = torch.tensor([[0.02, -0.02, -0.02]], dtype=torch.float64) / 0.01**2
    torch.testing.assert_close(wrapped_score(x, mean, std), expected)


def test_prior_is_the_terminal_marginal() -> None:
    n, z = torch.tensor([1, 4, 20]), randn(3, 3)
    corrupted = PROCESS.corrupt(torch.zeros(3, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), n, z)
    torch.testing.assert_close(PROCESS.prior(n, z), corrupted)
    # The data are forgotten: every Fourier coefficient of the widest crystals' marginal, exp(-2 pi^2 std^2), is gone.
    assert math.exp(-2 * math.pi**2 * float(PROCESS.std(torch.ones(1), torch.tensor([20]))) ** 2) < 1e-28


def test_corruption_stays_in_the_cell_and_has_its_spread() -> None:
    clean, t, n = rand(4000, 3), torch.full((4000,), 0.35, dtype=torch.float64), torch.full((4000,), 3)
    noisy = PROCESS.corrupt(clean, t, n, randn(4000, 3, seed=2))
    assert noisy.min() >= 0
    assert noisy.max() < 1
    delta = noisy - clean
    delta = delta - delta.round()
    std = float(PROCESS.std(t[:1], n[:1]))
    assert abs(float(delta.std()) / std - 1) < 4 / math.sqrt(2 * delta.numel())


def test_ancestral_step_carries_the_marginal_over_exactly() -> None:
    # Data at one point far from the walls: x_t = f_0 + std_t z. The step is linear in x; with gain g and noise h its
    # result has the variance g^2 std_t^2 + h^2, which must be std_s^2, and the mean f_0.
    f0, n = 0.5, torch.tensor([2, 2])
    for start, end in ((0.4, 0.3), (0.3, 0.05), (0.1, 0.0)):
        t, s = (torch.full((2,), value, dtype=torch.float64) for value in (start, end))
        std, std_next = PROCESS.std(t, n)[0], PROCESS.std(s, n)[0]
        x = f0 + torch.tensor([[0.0, 0.0, 0.0], [0.01, 0.01, 0.01]], dtype=torch.float64)
        output = -(x - f0) / std
        quiet, mean = PROCESS.predictor_step(x, output, t, s, n, torch.zeros(2, 3, dtype=torch.float64))
        loud, _ = PROCESS.predictor_step(x, output, t, s, n, torch.full((2, 3), 0.1, dtype=torch.float64))
        torch.testing.assert_close(quiet, mean)
        torch.testing.assert_close(mean[0], torch.full((3,), f0, dtype=torch.float64))
        gain, noise = (mean[1] - mean[0]) / 0.01, (loud - quiet)[0] / 0.1
        variance = gain.square() * std.square() + noise.square()
        torch.testing.assert_close(variance, std_next.square().expand(3), rtol=1e-9, atol=1e-15)


def test_corrector_keeps_the_marginal_up_to_its_step() -> None:
    # Langevin: x' = x + e s + sqrt(2 e) z turns variance v into (1 - e/v)^2 v + 2 e = v (1 + (e/v)^2).
    n, t = torch.tensor([1, 1]), torch.full((2,), 0.3, dtype=torch.float64)
    std = PROCESS.std(t, n)
    x = 0.5 + torch.tensor([[0.0, 0.0, 0.0], [0.01, 0.01, 0.01]], dtype=torch.float64)
    step = 0.02 * std.square()
    output = -(x - 0.5) / std[0]
    quiet = PROCESS.corrector_step(x, output, t, n, step, torch.zeros(2, 3, dtype=torch.float64))
    loud = PROCESS.corrector_step(x, output, t, n, step, torch.full((2, 3), 0.1, dtype=torch.float64))
    gain, noise = (quiet[1] - quiet[0]) / 0.01, (loud - quiet)[0] / 0.1
    variance = gain.square() * std[0].square() + noise.square()
    torch.testing.assert_close(variance, std[:1].square().expand(3) * (1 + 0.02**2))


def test_the_exact_output_has_no_loss() -> None:
    clean, t, n = rand(6, 3), torch.full((6,), 0.4, dtype=torch.float64), torch.full((6,), 6)
    noisy = PROCESS.corrupt(clean, t, n, randn(6, 3))
    std = PROCESS.std(t, n).unsqueeze(-1)
    exact = std * wrapped_score(noisy, clean, std)
    assert PROCESS.loss(exact, clean, noisy, t, n).abs().max() < 1e-25
    off = PROCESS.loss(exact + torch.tensor([0.3, 0.0, 0.0]), clean, noisy, t, n)
    torch.testing.assert_close(off, torch.full((6,), 0.03, dtype=torch.float64))
