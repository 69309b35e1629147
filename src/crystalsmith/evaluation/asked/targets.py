"""What crystals were asked to be against what they are, beside an unconditional control.

Rates count every crystal that has a target; what could not be measured has missed it. The control's crystals have no
targets: each is held against all targets of the set, weighted as they occur in it, so that its figures are those that
crystals made without any condition would reach with the same targets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crystalsmith.elements import chemical_system, parse_chemical_system
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.measures import COUNTED, Value, final_facts, kind_of
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.statistics import bootstrap, rate, wasserstein, wilson
from crystalsmith.properties import PROPERTIES, canonical_name

PREFIX = "target_"
"""How columns of targets begin in the table that generation writes."""

MOST_TARGETS = 30
"""Distinct targets that are told one by one; more of them were drawn from a range."""


@dataclass(frozen=True)
class Asked:
    """The targets of one property.

    Attributes:
        name: canonical.
        column: as the table calls it, without ``target_``.
        values: one per crystal; None where nothing was asked.
    """

    name: str
    column: str
    values: list[Value]


def read_targets(crystals: Sequence[Judged]) -> list[Asked]:
    """The targets that the input's table holds, by property.

    Raises:
        InputError: if a target is not what its property takes.
    """
    columns = list(dict.fromkeys(n for c in crystals for n in c.sample.columns if n.startswith(PREFIX)))
    found = []
    for column in columns:
        name = canonical_name(column.removeprefix(PREFIX))
        values = [_value(name, c.sample.columns.get(column, ""), c.sample.id) for c in crystals]
        if any(v is not None for v in values):
            found.append(Asked(name, column.removeprefix(PREFIX), values))
    return found


def _value(name: str, text: str, where: str) -> Value:
    if not text.strip():
        return None
    if kind_of(name) == "elements":
        return chemical_system(parse_chemical_system(text))
    try:
        return float(text)
    except ValueError:
        raise InputError(f"The target {name} of {where} is {text!r}, which is not a number; mend the table.") from None


def hits(name: str, target: Value, measured: Value) -> bool | None:
    """Whether a counted property is as asked; None for those whose error counts."""
    if name not in COUNTED and kind_of(name) not in ("category", "elements"):
        return None
    return measured is not None and target == measured


def judge_targets(
    crystals: Sequence[Judged], asked: Asked, control: Sequence[Judged] | None, relaxed: bool
) -> dict[str, Any]:
    """Adherence to the targets of one property: hit rates, or errors and correlations, per target and in all."""
    rows = [(c, t) for c, t in zip(crystals, asked.values, strict=True) if t is not None]
    counted = hits(asked.name, 0.0, 0.0) is not None
    known = PROPERTIES.get(asked.name)
    found: dict[str, Any] = {
        "kind": "counted" if counted else "scalar",
        "unit": "" if known is None else known.unit,
        "crystals": len(rows),
        "measured": sum(asked.name in c.measured for c, _ in rows),
    }
    summary = _counted if counted else _scalar
    found |= summary(asked.name, rows, control, relaxed)
    targets = Counter(t for _, t in rows)
    found["distinct_targets"] = len(targets)
    if len(targets) <= MOST_TARGETS:
        found["targets"] = [
            {"target": t, "crystals": n, **summary(asked.name, [r for r in rows if r[1] == t], control, relaxed)}
            for t, n in sorted(targets.items(), key=lambda item: item[0])
        ]
    return found


Rows = Sequence[tuple[Judged, Value]]
Rule = Callable[[Judged, Value], bool]


def _counted(name: str, rows: Rows, control: Sequence[Judged] | None, relaxed: bool) -> dict[str, Any]:
    rules: dict[str, Rule] = {"hit": lambda c, t: bool(hits(name, t, c.measured.get(name)))}
    if name == "space_group":
        rules |= {f"hit_{s:g}": _group_at(k, relaxed) for k, s in ((1, 0.01), (2, 1e-5))}
    if kind_of(name) == "elements":
        rules["subset"] = lambda c, t: name in c.measured and _set(c.measured[name]) <= _set(t)
    found: dict[str, Any] = {key: rate([rule(c, t) for c, t in rows]) for key, rule in rules.items()}
    if kind_of(name) not in ("category", "elements"):
        found |= _errors([(float(t), _number(c, name)) for c, t in rows])  # type: ignore[arg-type]
    if control is not None:
        weights = Counter(t for _, t in rows)
        found["control"] = {key: _expected(rule, weights, control) for key, rule in rules.items()}
    return found


def _group_at(index: int, relaxed: bool) -> Rule:
    def rule(crystal: Judged, target: Value) -> bool:
        facts = final_facts(crystal, relaxed)
        return facts is not None and facts.space_groups[index] == target

    return rule


def _set(system: Value) -> frozenset[str]:
    return frozenset(str(system).split("-"))


def _expected(rule: Rule, weights: Counter[Value], control: Sequence[Judged]) -> dict[str, Any]:
    """The hit rate of the control under targets of these weights.

    With several targets a crystal scores a share between 0 and 1. Its variance is at most that of a flag of the same
    mean, so Wilson's interval for flags is not too narrow.
    """
    total = sum(weights.values())
    score = sum(n / total * sum(rule(c, t) for c in control) for t, n in weights.items())
    low, high = wilson(score, len(control))
    of = len(control)
    return {"rate": score / of if of else math.nan, "low": low, "high": high, "count": round(score, 3), "of": of}


def _scalar(name: str, rows: Rows, control: Sequence[Judged] | None, relaxed: bool) -> dict[str, Any]:
    found = _errors([(float(t), _number(c, name)) for c, t in rows])  # type: ignore[arg-type]
    if control is None:
        return found
    theirs = np.array([v for c in control if (v := _number(c, name)) is not None])
    ours = np.array([v for c, _ in rows if (v := _number(c, name)) is not None])
    found["control"] = {"of": len(theirs)}
    if len(theirs):
        targets = np.array([float(t) for _, t in rows])  # type: ignore[arg-type]
        # Every control crystal against every target.
        errors = np.abs(theirs[:, None] - targets[None]).mean(1)
        low, high = bootstrap(errors, np.mean)
        found["control"] |= {"mae": float(errors.mean()), "mae_low": low, "mae_high": high, **_quantiles(theirs)}
        if len(ours):
            found["control"]["wasserstein"] = wasserstein(ours, theirs)
    return found


def _number(crystal: Judged, name: str) -> float | None:
    value = crystal.measured.get(name)
    return float(value) if isinstance(value, int | float) else None


def _errors(pairs: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    """Error and correlation of what was measured against its targets."""
    known = np.array([(t, v) for t, v in pairs if v is not None], dtype=np.float64).reshape(-1, 2)
    if not len(known):
        return {"of": 0}
    target, value = known[:, 0], known[:, 1]
    errors = np.abs(value - target)
    low, high = bootstrap(errors, np.mean)
    found = {"of": len(known), "mae": float(errors.mean()), "mae_low": low, "mae_high": high}
    found |= {"median_error": float(np.median(errors)), "bias": float((value - target).mean()), **_quantiles(value)}
    if len(set(target.tolist())) > 1 and len(set(value.tolist())) > 1:
        found["pearson"] = float(np.corrcoef(target, value)[0, 1])
        found["spearman"] = float(np.corrcoef(_ranks(target), _ranks(value))[0, 1])
    return found


def _quantiles(values: Any) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"median": middle, "q05": low, "q95": high}


def _ranks(values: Any) -> Any:
    """Ranks with ties shared."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[index]
