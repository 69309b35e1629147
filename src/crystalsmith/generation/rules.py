"""What a request says about elements: systems, lists, formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crystalsmith.elements import deny_lists, parse_chemical_system, symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.num_atoms import MAX_ATOMS, Histogram

_MAX_UNITS = 64

MAX_FORMULA = 200
"""Characters of a formula."""


@dataclass(frozen=True)
class Rules:
    """Rules that every crystal of a request obeys.

    Attributes:
        allowed: atomic numbers that may appear.
        required: atomic numbers that must appear, each at least once.
        formula: atomic number and count of one formula unit, or empty for a free composition.
        formula_units: numbers of formula units per cell; crystal i takes number ``i % len``.
    """

    allowed: tuple[int, ...]
    required: tuple[int, ...] = ()
    formula: tuple[tuple[int, int], ...] = ()
    formula_units: tuple[int, ...] = ()

    @property
    def formula_size(self) -> int:
        """Atoms of one formula unit."""
        return sum(count for _, count in self.formula)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Rules:
        """The rules that ``dataclasses.asdict`` and JSON made plain."""
        return Rules(
            allowed=tuple(values["allowed"]),
            required=tuple(values["required"]),
            formula=tuple((int(z), int(count)) for z, count in values["formula"]),
            formula_units=tuple(values["formula_units"]),
        )


def make_rules(
    model_elements: Sequence[int],
    *,
    chemical_system: str | Sequence[str] | None = None,
    require_all: bool = False,
    allow: str | Sequence[str] | None = None,
    deny: str | Sequence[str] | None = None,
    require: str | Sequence[str] | None = None,
    formula: str | None = None,
    formula_units: str | int | None = None,
    deny_list: str | Sequence[str] | None = None,
    max_hhi: float | None = None,
) -> Rules | None:
    """Checked rules, or None where nothing is asked for. Formula units that are not given are left open (empty).

    Args:
        deny_list: names of :data:`crystalsmith.elements.DENY_LISTS`.
        max_hhi: only elements whose own index of supply (mean of production and reserves) is known and at most this.
            The index of a crystal is a mean over its elements, so every crystal's is at most this too.

    Raises:
        InputError: if the rules contradict one another or the model.
    """
    if require_all and chemical_system is None:
        raise InputError("--require-all makes every element of --chemical-system appear; give that too.")
    if formula_units is not None and formula is None:
        raise InputError("--formula-units counts formula units; give --formula too, for example --formula LiFePO4.")
    if not any((chemical_system, allow, deny, require, formula, deny_list)) and max_hhi is None:
        return None
    known = set(model_elements)
    wanted = {
        name: set(_elements(value, name))
        for name, value in (
            ("chemical-system", chemical_system),
            ("allow", allow),
            ("deny", deny),
            ("require", require),
        )
        if value is not None
    }
    allowed = set(known)
    for name in ("chemical-system", "allow"):
        if name in wanted:
            _within(wanted[name], known, f"--{name}", "is not among the elements of the model")
            allowed &= wanted[name]
    allowed -= wanted.get("deny", set())
    if deny_list:
        allowed -= deny_lists(deny_list)
    if max_hhi is not None:
        allowed &= _supplied(max_hhi)
    required = set(wanted.get("require", set())) | (wanted["chemical-system"] if require_all else set())
    _within(required, known, "--require", "is not among the elements of the model")
    _within(required, allowed, "--require", "is ruled out by the other element rules")
    counts = parse_formula(formula) if formula is not None else {}
    if counts:
        _within(set(counts), known, "--formula", "is not among the elements of the model")
        _within(set(counts), allowed, "--formula", "is ruled out by the other element rules")
        _within(required, set(counts), "--require", f"is not in the formula {formula}")
    if not allowed:
        raise InputError("The element rules leave no element; allow at least one.")
    units = () if formula_units is None else parse_formula_units(str(formula_units))
    return Rules(tuple(sorted(allowed)), tuple(sorted(required)), tuple(sorted(counts.items())), units)


def fit_sizes(rules: Rules, histogram: Histogram, asked: bool, formula: str) -> tuple[Rules, Histogram]:
    """Rules and numbers of atoms that agree with one another.

    Sizes too small for the required elements are left out. With a formula, sizes are multiples of it: those named by
    the formula units, or every multiple among the sizes of the histogram.

    Args:
        histogram: numbers of atoms asked for, or the model's own.
        asked: whether the request named numbers of atoms.
        formula: as written, for messages.

    Raises:
        InputError: if no size remains.
    """
    if not rules.formula:
        fitting = {n: weight for n, weight in histogram.items() if n >= len(rules.required)}
        if not fitting:
            names = ", ".join(symbol(z) for z in rules.required)
            raise InputError(
                f"{len(rules.required)} elements are required ({names}), but the crystals have at most "
                f"{max(histogram)} atoms; ask for more atoms or fewer elements."
            )
        total = sum(fitting.values())
        return rules, {n: weight / total for n, weight in fitting.items()}
    size = rules.formula_size
    units = rules.formula_units or tuple(n // size for n in sorted(histogram) if n % size == 0)
    if asked:
        units = tuple(u for u in units if u * size in histogram)
    if not units and not asked:
        units = (1,)  # larger than anything the model was trained on; the request says so
    if not units:
        sizes = f"{min(histogram)} to {max(histogram)}" if len(histogram) > 1 else str(max(histogram))
        raise InputError(
            f"{formula} has {size} atoms per formula unit and no fitting multiple within the {sizes} atoms asked for; "
            "leave --num-atoms out or change it."
        )
    if max(units) * size > MAX_ATOMS:
        raise InputError(f"{formula} in {max(units)} formula units has more than {MAX_ATOMS:,} atoms; ask for fewer.")
    share = {u * size: units.count(u) / len(units) for u in units}
    return dataclasses.replace(rules, formula_units=units), share


def parse_formula(text: str) -> dict[int, int]:
    """Atomic number -> count of one formula unit, exactly as written (``Li2O2`` is not reduced).

    Raises:
        InputError: if the text is no formula of whole numbers.
    """
    from pymatgen.core import Composition

    try:
        amounts = Composition(text.strip()).get_el_amt_dict() if 0 < len(text.strip()) <= MAX_FORMULA else {}
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError):
        amounts = {}
    if sum(amounts.values(), 0.0) > MAX_ATOMS:
        raise InputError(f"--formula {text[:40]!r} has more than {MAX_ATOMS:,} atoms, the most that are sampled.")
    if not amounts or any(abs(x - round(x)) > 1e-9 or round(x) < 1 for x in amounts.values()):
        raise InputError(f"--formula {text[:60]!r} is not a formula of whole numbers; write for example LiFePO4.")
    return {parse_chemical_system(name)[0]: round(x) for name, x in amounts.items()}


def _supplied(cap: float) -> set[int]:
    """The elements whose Herfindahl-Hirschman index of supply is at most ``cap``."""
    from crystalsmith.data.computed import hhi_of_elements

    if not 0 < cap <= 10000:
        raise InputError(f"--max-hhi is {cap:g}; give a number above 0 and up to 10000.")
    score = (hhi_of_elements(0) + hhi_of_elements(1)) / 2
    return {z for z, value in enumerate(score.tolist(), start=1) if value <= cap}


def parse_template_elements(text: str | Mapping[str, str] | None) -> tuple[tuple[int, int], ...]:
    """An element of the template and the one in its place, from ``Sr=Ba,O=O`` or a mapping of symbols.

    Raises:
        InputError: if it is neither.
    """
    if not text:
        return ()
    pairs = list(text.items()) if isinstance(text, Mapping) else [part.split("=") for part in text.split(",")]
    found: dict[int, int] = {}
    for pair in pairs:
        numbers = [_elements(str(x).strip(), "template-elements") for x in pair]
        if len(numbers) != 2 or any(len(one) != 1 for one in numbers) or numbers[0][0] in found:
            raise InputError(
                f"--template-elements {text!r} is not understood; write what stands in place of elements of the "
                "template, each once, for example Sr=Ba,O=O."
            )
        found[numbers[0][0]] = numbers[1][0]
    return tuple(sorted(found.items()))


def keeping(rules: Rules | None, elements: Sequence[int], instead: Sequence[tuple[int, int]]) -> Rules | None:
    """Rules that the elements in place of those of a template keep, which appear in every crystal.

    Args:
        elements: of the model.
        instead: of :func:`parse_template_elements`.

    Raises:
        InputError: if they contradict the rules.
    """
    if not instead:
        return rules
    rules = rules or Rules(tuple(sorted(elements)))
    if rules.formula:
        raise InputError("--formula says what stands where already; leave --template-elements or --formula out.")
    kept = {new for _, new in instead}
    _within(kept, set(elements), "--template-elements", "is not among the elements of the model")
    _within(kept, set(rules.allowed), "--template-elements", "is ruled out by the other element rules")
    return dataclasses.replace(rules, required=tuple(sorted({*rules.required, *kept})))


def parse_preference(text: str | Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Atomic numbers and the factors on their odds, from ``Li:3,Co:0.2`` or a mapping of symbols.

    Raises:
        InputError: if it is neither.
    """
    if not text:
        return ()
    pairs = list(text.items()) if isinstance(text, Mapping) else [part.split(":") for part in text.split(",")]
    found = {}
    for pair in pairs:
        name, factor = (str(x).strip() for x in pair) if len(pair) == 2 else ("", "")
        try:
            value = float(factor)
        except ValueError:
            value = 0.0
        if not 1e-6 <= value <= 1e6 or not name:
            raise InputError(
                f"--prefer {text!r} is not understood; write factors on the odds, for example Li:3,Co:0.2."
            )
        found[_elements(name, "prefer")[0]] = value
    return tuple(sorted(found.items()))


def _elements(value: str | Sequence[str], name: str) -> tuple[int, ...]:
    text = value if isinstance(value, str) else "-".join(value)
    try:
        return parse_chemical_system(text)
    except InputError as error:
        raise InputError(f"--{name}: {error}") from None


def _within(some: set[int], all_: set[int], flag: str, why: str) -> None:
    if outside := sorted(some - all_):
        raise InputError(f"{flag}: {symbol(outside[0])} {why}; leave it out.")


def parse_formula_units(text: str) -> tuple[int, ...]:
    """The numbers that ``4`` or ``1-4`` names.

    Raises:
        InputError: if it is no number or range within bounds.
    """
    low, dash, high = (part.strip() for part in text.partition("-"))
    if low.isdigit() and (high.isdigit() if dash else True):
        first, last = int(low), int(high or low)
        if 1 <= first <= last <= _MAX_UNITS:
            return tuple(range(first, last + 1))
    raise InputError(
        f"--formula-units {text!r} is not a number or range from 1 to {_MAX_UNITS}; write for example 1-4."
    )
