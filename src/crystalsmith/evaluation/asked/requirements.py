"""Requirements such as ``bulk_modulus>300``: read without evaluating anything, and counted per budget.

The published protocol of property targets counts, among the first N crystals, those that are stable, unique and novel
and meet the requirement (Zeni et al., Nature 639, 624, 2025): what a budget of N generated crystals, or of N property
calculations, finds.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crystalsmith.elements import chemical_system, parse_chemical_system
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.measures import OF_ENERGIES, OF_THE_CRYSTAL, Predictor, Value, kind_of, why_not
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.metrics import THRESHOLDS
from crystalsmith.evaluation.statistics import rate
from crystalsmith.properties import canonical_name

BUDGETS = tuple(m * 10**k for k in range(7) for m in (1, 2, 5))

_EXAMPLES = 'write for example "bulk_modulus>300", "space_group==225" or "density 5..7"'
_COMPARISON = re.compile(r"^\s*([\w.]+)\s*(<=|>=|==|!=|<|>|=)\s*(\S.*?)\s*$")
_RANGE = re.compile(r"^\s*([\w.]+)\s*=?\s*(\S+?)\s*\.\.\s*(\S+)\s*$")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Requirement:
    """One requirement.

    Attributes:
        text: as given.
        name: canonical name of the property.
        tests: comparisons, all of which must hold.
    """

    text: str
    name: str
    tests: tuple[tuple[str, float | str], ...]

    def met(self, value: Value) -> bool:
        """Whether a measured value meets it; what is not known does not."""
        if value is None:
            return False
        return all(_OPERATORS[sign](value, bound) for sign, bound in self.tests)


def parse_requirement(text: str) -> Requirement:
    """A requirement from ``NAME > NUMBER`` (also >=, <, <=, ==, !=), ``NAME LOW..HIGH`` or ``chemical_system==Li-O``.

    Raises:
        InputError: if it is none of these.
    """
    if found := _RANGE.match(text):
        name = canonical_name(found[1])
        low, high = _number(found[2], text), _number(found[3], text)
        if kind_of(name) == "elements" or not low <= high:
            raise InputError(f"The range in --require {text!r} is empty; {_EXAMPLES}.")
        return Requirement(text.strip(), name, ((">=", low), ("<=", high)))
    found = _COMPARISON.match(text)
    if found is None:
        raise InputError(f"--require {text!r} is not understood; {_EXAMPLES}.")
    name, sign = canonical_name(found[1]), "==" if found[2] == "=" else found[2]
    if kind_of(name) == "elements":
        if sign not in ("==", "!="):
            raise InputError(f"--require {text!r}: a set of elements is equal or not; write {name}==Li-Fe-O.")
        return Requirement(text.strip(), name, ((sign, chemical_system(parse_chemical_system(found[3]))),))
    return Requirement(text.strip(), name, ((sign, _number(found[3], text)),))


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{word!r} in --require {text!r} is not a number; {_EXAMPLES}.")
    return value


def check_requirements(
    requirements: Sequence[Requirement], energies: bool, hull: bool, bulk_modulus: bool, predictors: Sequence[Predictor]
) -> None:
    """Refuse a requirement on what will not be measured, before anything runs.

    Args:
        energies: whether energies will be known (a potential or a file).
        hull: whether a reference has a hull.
        bulk_modulus: whether equations of state are computed.

    Raises:
        InputError: naming it and what it takes.
    """
    measured = {*OF_THE_CRYSTAL, *(p.name for p in predictors), *(["bulk_modulus"] if bulk_modulus else [])}
    if energies:
        measured |= set(OF_ENERGIES) if hull else {"energy_per_atom"}
    for requirement in requirements:
        if requirement.name not in measured:
            raise InputError(
                f"--require {requirement.text!r} cannot be judged here: {why_not(requirement.name)}; measured are "
                f"{', '.join(sorted(measured))}."
            )


def judge_requirements(crystals: Sequence[Judged], requirements: Sequence[Requirement]) -> dict[str, Any]:
    """How many crystals meet each requirement, all of them, and all of them while stable, unique and novel.

    Sets ``meets`` of every crystal. ``budgets`` counts among the first N crystals in the order they were made;
    ``calls`` counts among the first N of those that are stable (0.1 eV/atom), unique and novel, which are the ones a
    property calculation would be spent on.
    """
    for crystal in crystals:
        crystal.meets = all(r.met(crystal.measured.get(r.name)) for r in requirements)
    found: dict[str, Any] = {
        "requirements": [r.text for r in requirements],
        "each": {r.text: rate([r.met(c.measured.get(r.name)) for c in crystals]) for r in requirements},
        "all": rate([c.meets for c in crystals]),
    }
    flags = {"all": [bool(c.meets) for c in crystals]}
    if sun_is_known(crystals):
        found["sun_and_all"] = {}
        for threshold in THRESHOLDS:
            passed = [bool(c.meets and _sun(c, threshold)) for c in crystals]
            found["sun_and_all"][f"{threshold:g}"] = rate(passed)
            flags[f"sun_{threshold:g}"] = passed
        candidates = [bool(c.meets) for c in crystals if _sun(c, THRESHOLDS[-1])]
        found["calls"] = [{"calls": n, "met": sum(candidates[:n])} for n in _budgets(len(candidates))]
    found["budgets"] = [
        {"crystals": n, **{name: sum(values[:n]) for name, values in flags.items()}} for n in _budgets(len(crystals))
    ]
    return found


def sun_is_known(crystals: Sequence[Judged]) -> bool:
    """Whether stability and novelty were judged at all."""
    return any(c.energy_above_hull is not None for c in crystals) and any(c.novel is not None for c in crystals)


def _sun(crystal: Judged, threshold: float) -> bool:
    return bool(crystal.stable(threshold) and crystal.unique and crystal.novel)


def _budgets(total: int) -> list[int]:
    return [*(n for n in BUDGETS if n < total), *([total] if total else [])]
