"""Plans of rules on elements: a formula, or which elements may and must appear."""

from __future__ import annotations

import dataclasses

from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.rules import Rules


def ruled(plan: Plan, rules: Rules) -> Plan:
    """The plan within the rules; the formula units of a formula are taken in turn, where the size is still open."""
    if not rules.formula:
        return dataclasses.replace(plan, allowed=rules.allowed, required=rules.required)
    turn, place = divmod(plan.index, len(rules.formula_units))
    unit = plan.num_atoms // rules.formula_size if plan.num_atoms else rules.formula_units[place]
    counts = tuple((z, unit * n) for z, n in rules.formula)
    size, labels = unit * rules.formula_size, (*plan.labels, ("formula_units", unit))
    return dataclasses.replace(plan, counts=counts, num_atoms=size, turn=turn, labels=labels)
