"""Plans of the number of atoms alone."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

from crystalsmith.generation.plans.plan import Plan

FIELD_NUM_ATOMS = 0
"""The field of the crystal's random stream that decides its number of atoms."""


def sized(plan: Plan, histogram: Mapping[int, float]) -> Plan:
    """The plan with a number of atoms drawn from a histogram of number to weight."""
    sizes, cumulative = _table(tuple(histogram.items()))
    place = bisect.bisect_right(cumulative, plan.uniform(FIELD_NUM_ATOMS) * cumulative[-1])
    return dataclasses.replace(plan, num_atoms=sizes[min(place, len(sizes) - 1)])


@lru_cache(maxsize=64)
def _table(histogram: tuple[tuple[int, float], ...]) -> tuple[tuple[int, ...], list[float]]:
    return tuple(n for n, _ in histogram), list(accumulate(weight for _, weight in histogram))
