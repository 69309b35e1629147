"""Plans of what the properties of a crystal shall be."""

from __future__ import annotations

import dataclasses

from crystalsmith.generation.plans.plan import Plan, Value
from crystalsmith.generation.targets import Target, Targets

FIELD_TARGET = 8
"""The first field of the crystal's random stream for targets."""


def targeted(plan: Plan, targets: Targets) -> Plan:
    """The plan with one target for each property: values in turn, or drawn from a range."""
    values = tuple((one.name, _value(plan, one, FIELD_TARGET + k)) for k, one in enumerate(targets.targets))
    return dataclasses.replace(plan, targets=values)


def _value(plan: Plan, target: Target, field: int) -> Value:
    if target.bounds is None:
        return target.values[plan.index % len(target.values)]
    low, high = target.bounds
    u = plan.uniform(field)
    if target.kind == "log":
        return float(f"{low * (high / low) ** u:.6g}")
    if target.kind == "category":
        return float(min(int(low + u * (high - low + 1)), int(high)))
    return float(f"{low + u * (high - low):.6g}")
