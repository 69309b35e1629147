"""Plans of exact compositions, from a list."""

from __future__ import annotations

import dataclasses

from crystalsmith.generation.compositions import Compositions, formula_counts
from crystalsmith.generation.plans.plan import Plan


def composed(plan: Plan, compositions: Compositions) -> Plan:
    """The plan with a composition of the list: of C, crystal i is sample ``i // C + 1`` of composition ``i % C``."""
    sample, place = divmod(plan.index, len(compositions))
    units = compositions.units[place]
    unit = units[sample % len(units)]
    counts = tuple((z, unit * n) for z, n in formula_counts(compositions.formulas[place]))
    return dataclasses.replace(
        plan,
        counts=counts,
        num_atoms=sum(n for _, n in counts),
        turn=sample // len(units),
        labels=(("target", compositions.ids[place]), ("sample", sample + 1), ("formula_units", unit)),
    )
