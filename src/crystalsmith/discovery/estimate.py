"""What relaxing a candidate is likely to give and to cost, learned from the relaxations done so far.

The chance of success is a logistic regression on one energy of the potential before relaxation (eV/atom above the hull,
an upper bound to what relaxation reaches) and on the largest force there; the number of steps is a linear one. Both
start from priors that are stated here and are fitted by maximum posterior, so that the first round has an order already
and no number of outcomes can make them diverge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalsmith.evaluation.asked.requirements import Requirement

Floats = NDArray[np.float64]

CHANCE_MEAN = np.array([1.0, -6.0, -0.5])
CHANCE_STD = np.array([1.0, 2.0, 0.5])
"""Prior of the logistic regression: intercept, per eV/atom beyond what is asked, per unit of log(1 + force)."""

STEPS_MEAN = np.array([3.0, 0.4])
STEPS_STD = np.array([1.0, 0.4])
STEPS_NOISE = 0.6
"""Prior of log(steps): intercept and per unit of log(1 + force); the scatter about it."""

HIGHEST = 3.0
"""eV/atom beyond which an estimate is as bad as any."""


@dataclass(frozen=True)
class Estimate:
    """One energy of the potential, before relaxation.

    Attributes:
        excess: eV/atom above what is asked of the hull.
        force: largest force, eV/angstrom.
        num_atoms: in the cell.
    """

    excess: float
    force: float
    num_atoms: int

    @property
    def features(self) -> Floats:
        """``(3,)``: 1, the excess within bounds, log(1 + force)."""
        return np.array([1.0, min(max(self.excess, -1.0), HIGHEST), math.log1p(max(self.force, 0.0))])


def fit_chance(outcomes: Sequence[tuple[Estimate, bool]]) -> Floats:
    """``(3,)`` coefficients of the logistic regression at the maximum of the posterior, by Newton's method."""
    weights, precision = CHANCE_MEAN.copy(), CHANCE_STD**-2.0
    if not outcomes:
        return weights
    x = np.stack([one.features for one, _ in outcomes])
    y = np.array([float(success) for _, success in outcomes])
    for _ in range(50):
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - y) + precision * (weights - CHANCE_MEAN)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(precision)
        step = np.linalg.solve(curvature, slope)
        weights = weights - step / max(1.0, float(np.abs(step).max()))  # at most 1, so that it cannot overshoot
        if np.abs(step).max() < 1e-10:
            break
    return weights


def chance(weights: Floats, one: Estimate) -> float:
    """The probability that relaxing a candidate gives what is asked of it."""
    return float(_sigmoid(one.features @ weights))


def fit_steps(outcomes: Sequence[tuple[Estimate, int]]) -> Floats:
    """``(2,)`` coefficients of log(steps): ridge regression about the prior."""
    precision = STEPS_STD**-2.0
    if not outcomes:
        return STEPS_MEAN.copy()
    x = np.stack([one.features[[0, 2]] for one, _ in outcomes])
    y = np.log([max(1, steps) for _, steps in outcomes])
    left = x.T @ x / STEPS_NOISE**2 + np.diag(precision)
    return np.linalg.solve(left, x.T @ y / STEPS_NOISE**2 + precision * STEPS_MEAN)


def price(weights: Floats, one: Estimate) -> float:
    """Expected work of a relaxation: steps times atoms. A number of the crystal alone, the same on every machine."""
    return float(np.exp(np.clip(one.features[[0, 2]] @ weights, 0.0, 7.0))) * one.num_atoms


def chance_to_meet(test: Requirement, predicted: float, error: float) -> float:
    """The probability that a property meets a requirement, given a prediction and its standard error (normal)."""
    low, high = -math.inf, math.inf
    for sign, bound in test.tests:
        if not isinstance(bound, float | int) or sign == "!=":
            continue
        if sign in (">", ">=", "=="):
            low = max(low, float(bound))
        if sign in ("<", "<=", "=="):
            high = min(high, float(bound))
    if error <= 0:
        return float(test.met(predicted))
    return max(0.0, _normal((high - predicted) / error) - _normal((low - predicted) / error))


def _normal(z: float) -> float:
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _sigmoid(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0)))
