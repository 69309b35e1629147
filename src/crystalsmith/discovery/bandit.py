"""Which choice to make next, learned from what earlier choices gave: Thompson sampling with a floor for exploration.

Each level of a factor (a source, a number of elements, a size) has a Beta posterior of the share of its candidates that
succeed, from the prior Beta(1, 1), which is even over all shares. A draw from each posterior decides, the largest wins
(Thompson, Biometrika 25, 285, 1933). Factors are learned apart from one another: a run has hundreds of candidates, not
the thousands that their combinations would take. With the probability of the floor all levels are equally likely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

PRIOR = (1.0, 1.0)
"""Successes and failures that every level starts with."""


@dataclass
class Posterior:
    """The Beta posteriors of the levels of one factor.

    Attributes:
        counts: level to successes and failures, the prior included; both may be fractions.
    """

    counts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def of(levels: Sequence[str], outcomes: Iterable[tuple[str, float]]) -> Posterior:
        """The posterior of levels after outcomes ``(level, success)``, success a probability from 0 to 1."""
        counts = dict.fromkeys(levels, PRIOR)
        for level, success in outcomes:
            if level in counts:
                won, lost = counts[level]
                counts[level] = (won + success, lost + 1.0 - success)
        return Posterior(counts)

    def draw(self, rng: np.random.Generator, floor: float, prices: Mapping[str, float] | None = None) -> str:
        """One level.

        Args:
            rng: consumed the same whatever comes out.
            floor: probability of an even draw.
            prices: what a candidate of a level costs; successes per price are compared. None for equal prices.
        """
        levels = list(self.counts)
        shares = [rng.beta(won, lost) for won, lost in self.counts.values()]
        even, place = rng.random(), int(rng.integers(len(levels)))
        if even < floor:
            return levels[place]
        worth = [share / (prices or {}).get(level, 1.0) for level, share in zip(levels, shares, strict=True)]
        return levels[int(np.argmax(worth))]

    def means(self) -> dict[str, float]:
        """The expected share of successes of each level."""
        return {level: won / (won + lost) for level, (won, lost) in self.counts.items()}
