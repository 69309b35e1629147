"""Which arrangements the samples of one composition take, where everything but the composition is open.

Known crystals say how often a cell of so many formula units occurs, and what was learned of arrangements how likely
each is within such cells; a sample of an arrangement finds its crystal the more often the fewer coordinates are free.
Samples are given out one by one to where the chance of finding the right crystal grows most, which is best for any
number of them: an arrangement without a free coordinate is visited once, a likely one with many again and again.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalsmith.checkpoints.arrangements import Choice
from crystalsmith.generation.compositions import formula_counts
from crystalsmith.generation.plans.plan import Arrangement, Plan
from crystalsmith.generation.plans.templates import Limits, learned_choices, weights
from crystalsmith.generation.space_groups import SpaceGroups
from crystalsmith.symmetry.wyckoff import Template, Templates

if TYPE_CHECKING:
    from crystalsmith.generation.request import Request

FOUND, LOST = 0.9, 0.85
"""A sample finds the crystal of an arrangement with the chance ``FOUND * LOST**f``, where f coordinates are free."""


DOUBT = 0.2
"""How much of the probability goes by how common an arrangement is alone, should the network be wrong."""


@dataclass(frozen=True)
class Possible:
    """An arrangement that a composition may have.

    Attributes:
        units: formula units in its cell.
        choice: template, elements on its orbits, probability among all that are possible.
        free: coordinates that its Wyckoff positions leave open.
    """

    units: int
    choice: Choice
    free: int

    @property
    def found(self) -> float:
        """The chance that one sample of it is the crystal, if this is its arrangement."""
        return FOUND * LOST**self.free


def possible(formula: str, units: Sequence[int], groups: SpaceGroups) -> list[Possible]:
    """The known arrangements of a composition, the likeliest first; of the unlikely ones of each cell none.

    Args:
        formula: one formula unit.
        units: formula units per cell that are looked at.
        groups: the space groups asked for and their templates.
    """
    templates, found, total = groups.templates, [], 0.0
    for unit in units:
        counts = tuple((z, unit * n) for z, n in formula_counts(formula))
        ranked = learned_choices(groups, counts)
        known = weights(Limits(groups, None, 0, counts)) if ranked else {}
        total += sum(known.values())
        ways = Counter(choice.template for choice in ranked)
        for choice in ranked:
            plain = known[choice.template] / ways[choice.template]
            learned = sum(known.values()) * choice.probability
            share = dataclasses.replace(choice, probability=DOUBT * plain + (1.0 - DOUBT) * learned)
            found.append(Possible(unit, share, free_coordinates(templates, choice.template)))
    scaled = [
        dataclasses.replace(one, choice=dataclasses.replace(one.choice, probability=one.choice.probability / total))
        for one in found
    ]
    return sorted(scaled, key=lambda one: -one.choice.probability)


def free_coordinates(templates: Templates, template: Template) -> int:
    """How many coordinates the Wyckoff positions of a template leave open."""
    sites = templates.sites(template)
    return sum(int(np.linalg.matrix_rank(sites.slope[atom], tol=1e-6)) for atom in set(sites.first.tolist()))


def allotted(some: Sequence[Possible], samples: int) -> list[Possible]:
    """The arrangement of each sample, those first that matter most; fewer where there are none."""
    queue = [(-one.choice.probability * one.found, place) for place, one in enumerate(some)]
    heapq.heapify(queue)
    given = []
    for _ in range(samples if queue else 0):
        gain, place = heapq.heappop(queue)
        given.append(some[place])
        heapq.heappush(queue, (gain * (1.0 - some[place].found), place))
    return given


def allot(request: Request, samples: int) -> list[Plan]:
    """The plans of a request for one composition, within the arrangements that serve it best.

    Empty where nothing is known or learned of such compositions, or the request is not one.
    """
    compositions, groups = request.compositions, request.space_groups
    if compositions is None or groups is None or len(compositions) != 1:
        return []
    some = possible(compositions.formulas[0], compositions.units[0], groups)
    plans = []
    for index, one in enumerate(allotted(some, samples)):
        template = one.choice.template
        arrangement = Arrangement(template, groups.templates.orbit_points(template), one.choice.elements)
        plan = request.without_symmetry(index)
        labels = tuple((name, one.units if name == "formula_units" else value) for name, value in plan.labels)
        counts = tuple((z, one.units * n) for z, n in formula_counts(compositions.formulas[0]))
        size = groups.templates.size(template)
        plans.append(dataclasses.replace(plan, counts=counts, num_atoms=size, arrangement=arrangement, labels=labels))
    return plans
