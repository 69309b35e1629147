"""Plans of symmetric crystals: the Wyckoff template of each, and which elements stand on its orbits."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple

from crystalsmith.checkpoints.arrangements import Choice
from crystalsmith.diffusion.orbit_counts import Counts, Ways, less
from crystalsmith.generation.plans.plan import Arrangement, Plan, Value
from crystalsmith.generation.space_groups import SpaceGroups
from crystalsmith.symmetry.wyckoff import Template, totals

LIKELY = 0.99
"""Probability of the arrangements that a composition takes in turn."""

FIELD_TEMPLATE, FIELD_ELEMENTS = 1024, 1025
"""Fields of a crystal's random stream: its template; which elements stand on which orbits."""


class Limits(NamedTuple):
    """What the template of a crystal must keep.

    Attributes:
        groups: its space group.
        sizes: number of atoms and weight, or None for any number.
        orbits: fewest orbits.
        counts: the composition that must fit on whole orbits, or empty.
    """

    groups: SpaceGroups
    sizes: tuple[tuple[int, float], ...] | None
    orbits: int
    counts: Counts


def limits_of(
    plan: Plan, groups: SpaceGroups, sizes: Mapping[int, float] | None, followed: Mapping[str, Value]
) -> Limits:
    """What the template of a plan without one must keep.

    Args:
        groups: that are asked for; of any, that which is a target of the crystal, if it has templates.
        sizes: number of atoms to weight, where sizes were asked for.
        followed: the targets of the crystal that it is guided to.
    """
    orbits, system = len(plan.required), followed.get("chemical_system")
    if isinstance(system, str):  # each element needs an orbit
        orbits = max(orbits, len(system.split("-")))
    orbits = 0 if plan.counts else orbits
    limits = Limits(groups, None if sizes is None or plan.counts else tuple(sorted(sizes.items())), orbits, plan.counts)
    target = followed.get("space_group")
    if not isinstance(target, float) or groups.numbers:
        return limits
    own = limits._replace(groups=dataclasses.replace(groups, numbers=(int(target),)))
    return own if weights(own) else limits._replace(groups=dataclasses.replace(groups, numbers=(1,)))


def arranged(plan: Plan, limits: Limits) -> Plan:
    """The plan with the template that its crystal gets, of which one at least must fit.

    Templates are drawn as often as known crystals have them. A composition takes its arrangements in turn, from the
    likeliest on, as far as they make up :data:`LIKELY` of the probability.
    """
    templates, counts = limits.groups.templates, plan.counts
    if counts and (ranked := _ranked(limits.groups, counts)):
        choice = ranked[(plan.turn + plan.attempt) % len(ranked)]
        template, elements = choice.template, choice.elements
    else:
        found, cumulative = _table(limits)
        drawn = plan.uniform(FIELD_TEMPLATE) * cumulative[-1]
        template = found[min(bisect.bisect_right(cumulative, drawn), len(found) - 1)]
        elements = _elements(template, templates.orbit_sizes(template), counts, plan.uniform(FIELD_ELEMENTS))
    held = limits.groups.held(template)
    arrangement = Arrangement(template, templates.orbit_points(template), elements, held)
    return dataclasses.replace(plan, arrangement=arrangement, num_atoms=templates.size(template))


def _elements(template: Template, sizes: tuple[int, ...], counts: Counts, uniform: float) -> tuple[int, ...]:
    """As in known crystals of the template, elements of equal counts in any order; else each way is equally likely."""
    if not counts:
        return ()
    known = follows(template, sizes, counts)
    return as_known(template.pattern, counts, uniform) if known else assign(sizes, counts, uniform)


@lru_cache(maxsize=4096)
def weights(limits: Limits) -> dict[Template, float]:
    """Templates that fit, with their weights: how many known crystals have them."""
    groups, sizes, orbits, counts = limits
    templates, wanted = groups.templates, None if sizes is None else dict(sizes)
    numbers = set(groups.numbers)
    found = [t for t in templates.counts if (not numbers or t.number in numbers) and len(t.letters) >= orbits]
    if wanted is not None:
        found = [t for t in found if wanted.get(templates.size(t), 0.0) > 0]
    if counts:
        total = sum(n for _, n in counts)
        sized = [t for t in found if templates.size(t) == total]
        found = [t for t in sized if follows(t, templates.orbit_sizes(t), counts)]
        if not found:  # no known crystal has such counts
            found = [t for t in sized if _number_of_ways(templates.orbit_sizes(t), counts)]
    known = {t: float(templates.counts[t]) for t in found}
    if not groups.of_crystals and (not numbers or numbers == {1}):
        # Where no known arrangement fits, every atom stands where it likes.
        asked = [sum(n for _, n in counts)] if counts else [n for n, share in sizes or () if share > 0 and n >= orbits]
        missing = set(asked) - {templates.size(t) for t in known}
        known |= {Template(1, "a" * n, (1, 0, 0, 0, 1, 0, 0, 0, 1)): 1.0 for n in sorted(missing)}
    if wanted is None:
        return known
    # The numbers of atoms are as asked; within a number, templates are as common as in known crystals.
    sums: dict[int, float] = {}
    for t, weight in known.items():
        sums[templates.size(t)] = sums.get(templates.size(t), 0.0) + weight
    return {t: weight * wanted[templates.size(t)] / sums[templates.size(t)] for t, weight in known.items()}


@lru_cache(maxsize=4096)
def _table(limits: Limits) -> tuple[list[Template], list[float]]:
    found = weights(limits)
    return list(found), list(accumulate(found.values()))


@lru_cache(maxsize=4096)
def learned_choices(groups: SpaceGroups, counts: Counts) -> tuple[Choice, ...]:
    """The known arrangements of a composition, best first; none where nothing was learned or known fits."""
    learned, templates = groups.learned, groups.templates
    if learned is None:
        return ()
    fitting = [t for t in weights(Limits(groups, None, 0, counts)) if follows(t, templates.orbit_sizes(t), counts)]
    return tuple(learned.ranked(templates, fitting, dict(counts)))


@lru_cache(maxsize=4096)
def _ranked(groups: SpaceGroups, counts: Counts) -> tuple[Choice, ...]:
    """Those that make up :data:`LIKELY` of the probability."""
    choices = learned_choices(groups, counts)
    before = accumulate((choice.probability for choice in choices), initial=0.0)
    return tuple(choice for choice, sum_before in zip(choices, before, strict=False) if sum_before < LIKELY)


def follows(template: Template, sizes: tuple[int, ...], counts: Counts) -> bool:
    """Whether known crystals of a template have these counts, of whichever elements."""
    return sorted(totals(template.pattern, sizes)) == sorted(n for _, n in counts)


def as_known(pattern: str, counts: Counts, uniform: float) -> tuple[int, ...]:
    """The element of each orbit: the rarest is A, and so on; elements of equal counts in an order drawn evenly."""
    order: list[int] = []
    for _, group in groupby(sorted(counts, key=lambda pair: (pair[1], pair[0])), key=lambda pair: pair[1]):
        left = [z for z, _ in group]
        while left:
            uniform *= len(left)
            k = min(int(uniform), len(left) - 1)
            uniform -= k
            order.append(left.pop(k))
    return tuple(order[ord(name) - ord("A")] for name in pattern)


def assign(orbits: tuple[int, ...], counts: Counts, uniform: float) -> tuple[int, ...]:
    """One of all the ways to give orbits one element each, all equally likely: the element of each orbit."""
    found = _ways(orbits, counts)
    left, elements = found.start, []
    rank = uniform * found.total(0, left)
    for i, size in enumerate(orbits):
        options = found.options(i, left)
        while rank >= options[0][0] and len(options) > 1:
            rank -= options.pop(0)[0]
        place = options[0][1]
        elements.append(found.elements[place])
        left = less(left, place, size)
    return tuple(elements)


@lru_cache(maxsize=65536)
def _number_of_ways(orbits: tuple[int, ...], counts: Counts) -> float:
    """In how many ways orbits of these sizes take one element each so that the counts come out."""
    found = Ways(orbits, counts, _equally)
    return found.total(0, found.start)


@lru_cache(maxsize=64)
def _ways(orbits: tuple[int, ...], counts: Counts) -> Ways:
    return Ways(orbits, counts, _equally)


def _equally(orbit: int, element: int) -> float:
    return 1.0
