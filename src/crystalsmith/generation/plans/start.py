"""Plans that start from a known crystal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from crystalsmith.generation.plans.plan import Plan, Start
from crystalsmith.generation.start import Starts


def started(plan: Plan, starts: Starts, histogram: Mapping[int, float]) -> Plan:
    """The plan with crystal ``i % len`` to start from; one number of atoms may be more than that crystal has."""
    frac, cell, numbers = starts.crystals[plan.index % len(starts.crystals)]
    size = max(len(numbers), *histogram) if len(histogram) == 1 else len(numbers)
    start = Start(
        tuple(map(tuple, frac)),
        tuple(map(tuple, cell)),
        tuple(numbers),
        starts.fix_sites,
        starts.fix_cell,
        starts.fix_elements,
        starts.redecorate,
    )
    return dataclasses.replace(plan, num_atoms=size, start=start)
