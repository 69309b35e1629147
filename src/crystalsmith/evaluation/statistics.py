"""Rates with intervals, and distances between distributions: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
"""Half width of a 95 % interval in standard deviations of a normal distribution."""

RESAMPLES = 1000
"""Bootstrap resamples."""


def wilson(hits: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson, J. Am. Stat. Assoc. 22, 209, 1927); 0 to 1 without observations."""
    if total <= 0:
        return 0.0, 1.0
    rate, z2 = hits / total, Z95**2
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total**2))
    # Rounding must not push the limits past a rate of exactly 0 or 1.
    return min(max(0.0, centre - half), rate), max(min(1.0, centre + half), rate)


def rate(flags: Sequence[bool | None], total: int | None = None) -> dict[str, Any]:
    """Share of crystals for which something holds.

    Args:
        flags: one per crystal; None counts as not holding.
        total: the number of crystals if some have no flag.

    Returns:
        ``rate``, its 95 % interval ``low`` and ``high``, ``count`` and ``of``.
    """
    of = len(flags) if total is None else total
    count = sum(1 for flag in flags if flag)
    low, high = wilson(count, of)
    return {"rate": count / of if of else math.nan, "low": low, "high": high, "count": count, "of": of}


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Median, mean and quantiles of what is known, with bootstrap intervals of median and mean (95 %)."""
    known = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    if not len(known):
        return {"of": 0}
    quantiles = np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
    median_low, median_high = bootstrap(known, np.median)
    mean_low, mean_high = bootstrap(known, np.mean)
    return {
        "of": len(known),
        "median": float(quantiles[2]),
        "median_low": median_low,
        "median_high": median_high,
        "mean": float(known.mean()),
        "mean_low": mean_low,
        "mean_high": mean_high,
        "min": float(known.min()),
        "q05": float(quantiles[0]),
        "q25": float(quantiles[1]),
        "q75": float(quantiles[3]),
        "q95": float(quantiles[4]),
        "max": float(known.max()),
    }


def bootstrap(values: NDArray[np.float64], statistic: Callable[..., Any], seed: int = 0) -> tuple[float, float]:
    """The central 95 % of a statistic over resamples with replacement; the statistic takes ``axis``."""
    rng = np.random.default_rng(seed)
    block = max(1, 2**20 // max(1, len(values)))
    parts = [
        statistic(values[rng.integers(0, len(values), (min(block, RESAMPLES - k), len(values)))], axis=1)
        for k in range(0, RESAMPLES, block)
    ]
    low, high = np.quantile(np.concatenate(parts), [0.025, 0.975])
    return float(low), float(high)


def wasserstein(a: ArrayLike, b: ArrayLike) -> float:
    """Distance of two samples on a line, in their unit: the mean difference of their quantiles."""
    q = (np.arange(2000) + 0.5) / 2000
    return float(np.abs(np.quantile(np.asarray(a), q) - np.quantile(np.asarray(b), q)).mean())


def jensen_shannon(a: ArrayLike, b: ArrayLike) -> float:
    """Jensen-Shannon distance of two histograms (square root of the divergence in bits), 0 to 1."""
    p, q = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if not (p.sum() > 0 and q.sum() > 0):
        return math.nan
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / m), 0).sum() for x in (p, q)]
    return float(np.sqrt(max(sum(terms) / 2, 0.0)))


def entropy(counts: ArrayLike) -> float:
    """Shannon entropy of a histogram in bits."""
    p = np.asarray(counts, dtype=np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log2(p)).sum()) if len(p) else 0.0
