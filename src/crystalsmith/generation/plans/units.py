"""How many formula units a cell has, where a list of compositions does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from crystalsmith.diffusion.orbit_counts import Counts
from crystalsmith.generation.compositions import Compositions, formula_counts
from crystalsmith.generation.plans.templates import Limits, follows, weights
from crystalsmith.generation.request import Request
from crystalsmith.generation.space_groups import SpaceGroups

ANY = SpaceGroups()


def with_units(request: Request, sizes: Mapping[int, float]) -> Request:
    """The request with the formula units of its compositions decided where they are open.

    Those are taken that known crystals of such counts have, the commonest first, among the sizes of the model: Si is no
    cell of one atom. Where none is known, the model's sizes that are multiples of the formula, from the smallest on.

    Args:
        sizes: numbers of atoms that the model was trained on, with weights.
    """
    compositions = request.compositions
    if compositions is None or all(compositions.units):
        return request
    groups = ANY if request.space_groups is None else request.space_groups
    units = tuple(
        own or _units(formula_counts(formula), sizes, groups)
        for formula, own in zip(compositions.formulas, compositions.units, strict=True)
    )
    found = Compositions(compositions.ids, compositions.formulas, units)
    return dataclasses.replace(request, compositions=found, num_atoms=found.histogram())


def _units(formula: Counts, sizes: Mapping[int, float], groups: SpaceGroups) -> tuple[int, ...]:
    atoms = sum(n for _, n in formula)
    fitting = [n // atoms for n in sorted(sizes) if sizes[n] > 0 and n % atoms == 0] or [1]
    known = {unit: _known(tuple((z, unit * n) for z, n in formula), groups) for unit in fitting}
    ranked = sorted((unit for unit in fitting if known[unit] > 0), key=lambda unit: (-known[unit], unit))
    return tuple(ranked or fitting)


def _known(counts: Counts, groups: SpaceGroups) -> float:
    """How many known crystals have these counts, of whichever elements."""
    found = weights(Limits(groups, None, 0, counts))
    templates = groups.templates
    return sum(
        weight
        for template, weight in found.items()
        if template in templates.counts and follows(template, templates.orbit_sizes(template), counts)
    )
