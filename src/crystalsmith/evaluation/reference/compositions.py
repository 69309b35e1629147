"""Compositions as files write them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from crystalsmith.elements import NUMBERS

MAX_AMOUNT = 1e6
"""Atoms of one element in a composition."""

_GROUP = re.compile(r"([A-Z][a-z]?)([0-9.]*)")


def parse_composition(value: Any) -> dict[int, float]:
    """Atomic number to amount, from ``{"Li": 1, "O": 2}``, its JSON text, or a formula such as ``Li2O`` or ``Li2 O1``.

    Raises:
        ValueError: if it is none of them.
    """
    if isinstance(value, str):
        text = value.strip()[:1000]
        value = json.loads(text) if text.startswith("{") else _formula(text)
    if not isinstance(value, Mapping):
        raise ValueError("no composition")
    amounts: dict[int, float] = {}
    for symbol, amount in value.items():
        number, count = NUMBERS[_symbol(str(symbol))], float(amount)
        if not 0 <= count <= MAX_AMOUNT:
            raise ValueError(f"{count} atoms of {symbol}")
        if count > 0:
            amounts[number] = amounts.get(number, 0.0) + count
    if not amounts:
        raise ValueError("no elements")
    return _whole(amounts)


def _symbol(text: str) -> str:
    """The symbol of a species that may carry its oxidation state (``Fe2+``)."""
    found = re.match(r"[A-Z][a-z]?", text)
    return found[0] if found else text


def _formula(text: str) -> dict[str, float]:
    compact = text.replace(" ", "")
    if "".join(m.group(0) for m in _GROUP.finditer(compact)) != compact:
        return _by_pymatgen(text)
    amounts: dict[str, float] = {}
    for name, count in _GROUP.findall(compact):
        amounts[name] = amounts.get(name, 0.0) + float(count or 1)
    return amounts


def _by_pymatgen(text: str) -> dict[str, float]:
    """Formulas with brackets, as in ``Ca(OH)2``."""
    from pymatgen.core import Composition

    return {str(name): float(amount) for name, amount in Composition(text).get_el_amt_dict().items()}


def _whole(amounts: dict[int, float]) -> dict[int, float]:
    """Rounded atomic fractions as the whole numbers they came from, where there are such up to 400 atoms."""
    total = sum(amounts.values())
    if not math.isfinite(total):
        raise ValueError("no finite amounts")
    if all(a == round(a) for a in amounts.values()):
        return amounts
    for atoms in range(1, 401):
        counts = {z: a / total * atoms for z, a in amounts.items()}
        if all(abs(c - round(c)) < 2e-6 * atoms + 1e-9 and round(c) >= 1 for c in counts.values()):
            return {z: float(round(c)) for z, c in counts.items()}
    return amounts
