"""Laws of the elements' process."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crystalsmith.diffusion.species import SpeciesProcess
from crystalsmith.elements import MASK, NUM_CLASSES

DT = torch.float64
CONTINUOUS, DISCRETE = SpeciesProcess(), SpeciesProcess(levels=1000)


def probabilities(count: int, seed: int = 0, mask: bool = False) -> Tensor:
    logits = 2 * torch.randn(count, NUM_CLASSES, generator=torch.Generator().manual_seed(seed), dtype=DT)
    if not mask:
        logits[:, -1] = -math.inf
    return torch.softmax(logits, -1)


def column(value: float, count: int) -> Tensor:
    return torch.full((count,), value, dtype=DT)


def test_prior_is_the_terminal_marginal() -> None:
    clean = torch.arange(1, 101)
    prior = CONTINUOUS.prior(100)
    assert (prior == MASK).all()
    for process in (CONTINUOUS, DISCRETE):
        probs = process.corruption_logits(clean, column(1.0, 100)).exp()
        assert torch.equal(probs[:, MASK - 1], column(1.0, 100))


def test_corruption_keeps_or_masks() -> None:
    probs = CONTINUOUS.corruption_logits(torch.tensor([1, 26, 100]), torch.tensor([0.0, 0.3, 0.9], dtype=DT)).exp()
    torch.testing.assert_close(probs.sum(-1), column(1.0, 3))
    torch.testing.assert_close(probs[[0, 1, 2], [0, 25, 99]], torch.tensor([1.0, 0.7, 0.1], dtype=DT))
    torch.testing.assert_close(probs[:, -1], torch.tensor([0.0, 0.3, 0.9], dtype=DT))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrete_levels_are_the_thousandths(dtype: torch.dtype) -> None:
    # schedule(1000) visits t = i / 1000, where the 1000-level chain must stand at level i - 1 and survive 1 - i / 1000.
    t = torch.linspace(1.0, 0.001, 1000, dtype=dtype)
    torch.testing.assert_close(DISCRETE.survival(t), CONTINUOUS.survival(t), rtol=0, atol=1e-6)


def brute_posterior(noisy: int, clean_probs: Tensor, k: int) -> Tensor:
    """q(x_k | x_{k+1}, p(x_0)) of the 1000-level chain from products of its one-step matrices (D3PM eq. 3)."""

    def one_step(level: int) -> Tensor:
        beta = 1.0 / (1000 - level)
        matrix = torch.eye(NUM_CLASSES, dtype=DT) * (1 - beta)
        matrix[:, MASK - 1] += beta
        matrix[MASK - 1] = torch.eye(NUM_CLASSES, dtype=DT)[MASK - 1]
        return matrix

    at_k = clean_probs
    for level in range(k):
        at_k = at_k @ one_step(level)
    joint = at_k * one_step(k)[:, noisy - 1]
    return joint / joint.sum()


@pytest.mark.parametrize("process", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("level", [0, 1, 37, 499, 998, 999])
def test_posterior_at_thousandths_is_that_of_the_discrete_chain(process: SpeciesProcess, level: int) -> None:
    clean_probs = probabilities(1)
    for noisy in (MASK, 8):
        logits = process.posterior_logits(
            torch.tensor([noisy]), clean_probs, column((level + 1) / 1000, 1), column(level / 1000, 1)
        )
        found = torch.softmax(logits, -1)[0]
        if level == 999 and noisy != MASK:
            continue  # nothing survives to the last level
        torch.testing.assert_close(found, brute_posterior(noisy, clean_probs[0], level), rtol=1e-6, atol=1e-12)


def test_posterior_averages_to_the_marginal() -> None:
    # sum over x_t of q(x_s | x_t, x_0) q(x_t | x_0) = q(x_s | x_0), for steps of any length.
    for start, end in ((1.0, 0.93), (0.8, 0.1), (0.31, 0.3), (0.2, 0.0)):
        truth = torch.nn.functional.one_hot(torch.tensor([25, 25]), NUM_CLASSES).to(DT)
        states = torch.tensor([26, MASK])
        posterior = torch.softmax(
            CONTINUOUS.posterior_logits(states, truth, column(start, 2), column(end, 2)), -1
        )  # (x_t, x_s)
        torch.testing.assert_close(posterior.sum(-1), column(1.0, 2))
        mixed = (1 - start) * posterior[0] + start * posterior[1]
        expected = CONTINUOUS.corruption_logits(torch.tensor([26]), column(end, 1)).exp()[0]
        torch.testing.assert_close(mixed, expected, rtol=1e-9, atol=1e-12)


def test_an_unmasked_atom_stays_what_it_is() -> None:
    logits = CONTINUOUS.posterior_logits(torch.tensor([14]), probabilities(1), column(0.5, 1), column(0.2, 1))
    assert torch.softmax(logits, -1)[0, 13] == pytest.approx(1.0, abs=1e-15)


def test_no_mask_is_left_at_time_zero() -> None:
    # In float32 probabilities do not quite sum to 1; what is missing must not become a mask at the smallest step.
    logits = torch.randn(500, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = -1e10
    logits[:250] = logits[:250] * 1e-3  # nearly uniform
    clean_probs = torch.softmax(logits, -1)
    for steps in (10, 1000):
        t = torch.full((500,), 1 / steps)
        posterior = CONTINUOUS.posterior_logits(torch.full((500,), MASK), clean_probs, t, torch.zeros(500))
        assert (posterior.argmax(-1) != MASK - 1).all()


def test_loss_is_the_evidence_bound_of_the_chain() -> None:
    # The KL of the two posteriors from the brute-force chain, plus the weighted cross-entropy.
    clean, noisy, level = 26, MASK, 399
    probs = probabilities(1, mask=True)
    loss, nll = DISCRETE.loss(probs.log(), torch.tensor([clean]), torch.tensor([noisy]), column(0.4, 1))
    truth = torch.nn.functional.one_hot(torch.tensor(clean - 1), NUM_CLASSES).to(DT)
    q, p = brute_posterior(noisy, truth, level), brute_posterior(noisy, probs[0], level)
    kl = torch.where(q > 0, q * (q.clamp(min=1e-300).log() - p.log()), 0.0).sum()
    torch.testing.assert_close(nll, -probs[:, clean - 1].log())
    torch.testing.assert_close(loss[0], kl + 0.01 * nll[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("process", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("t", [0.0005, 0.001, 0.4, 1.0])
def test_the_truth_has_the_lowest_loss(process: SpeciesProcess, t: float) -> None:
    clean = torch.tensor([26, 8])
    noisy = torch.tensor([MASK, MASK])
    logits = torch.full((2, NUM_CLASSES), -60.0, dtype=DT)
    logits[[0, 1], clean - 1] = 0.0
    best, nll = process.loss(logits, clean, noisy, column(t, 2))
    assert best.abs().max() < 1e-9
    assert nll.abs().max() < 1e-9
    unsure, _ = process.loss(logits / 30, clean, noisy, column(t, 2))
    assert (unsure > best + 1e-4).all()


def test_continuous_loss_is_the_discrete_one_between_the_levels() -> None:
    logits, clean = probabilities(1, mask=True).log(), torch.tensor([26])
    noisy = torch.tensor([MASK])
    for i in (2, 250, 1000):
        a, _ = CONTINUOUS.loss(logits, clean, noisy, column(i / 1000, 1))
        b, _ = DISCRETE.loss(logits, clean, noisy, column(i / 1000, 1))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
