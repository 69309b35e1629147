"""What a column of labels says: numbers as people write them, classes, and cells that are neither.

Readers keep plain numbers apart from all other cells, which stay text until the whole column is known: ``1,234`` alone
could be two things, beside ``0,05`` it is one. Nothing is dropped in silence: :class:`Reading` says of each column how
many cells are no plain number, shows one, and tells what became of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.properties import PROPERTIES, canonical_name, unit_factor

KINDS = ("number", "comma", "thousands", "category")
"""How ``--label NAME:KIND`` can say a column is meant."""

MAX_CLASSES = 230
"""Most classes of a column of words; as many as there are space groups."""

LARGEST, SMALLEST = 3e38, 1.2e-38
"""Labels are stored in float32: what it cannot hold is no measurement."""

LONGEST = 80
"""Characters of a cell that are kept."""

BLANK = frozenset(("", "nan", "none", "null", "<na>"))
"""Cells that say nothing, in any case of letters."""

_MISSING = frozenset(("na", "n/a", "n.a.", "#n/a", "-", "--", "?", "nil", "missing", "unknown", "n.d."))
_BOOLEAN = {"false": 0.0, "true": 1.0}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_QUANTITY = re.compile(
    r"(?P<number>[+-]?\d[\d.,]*([eE][+-]?\d+)?)(?P<space>\s*)(?P<unit>[^\W\d_%][^\s,;()\[\]]{0,19}|%)"
)


@dataclass(frozen=True)
class Cell:
    """One cell that is no plain number: its style, its value where it has one, and the unit or word."""

    style: str
    value: float = math.nan
    word: str = ""


def plain_number(value: Any) -> float | None:
    """The value as a finite number that float32 holds; None for anything else, booleans and blanks included."""
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return None
        number = float(text)
    elif isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") or value is None:
        return None
    else:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
    return number if number == 0 or SMALLEST <= abs(number) < LARGEST else None


def odd_text(value: Any) -> str:
    """A cell that is no plain number as text of bounded length; empty for one that says nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Mapping):
        return "{...}"
    if isinstance(value, bytes | list | tuple | set) or bool(getattr(value, "shape", None)):
        return "[...]"
    text = " ".join(str(value)[: 4 * LONGEST].split())
    if text.lower() in BLANK:
        return ""
    return "".join(c if c.isprintable() else "?" for c in text[:LONGEST])


def read_cell(text: str) -> Cell:
    """What a cell means by itself: missing, true or false, a number with a comma or a unit, or a word."""
    lowered = text.lower()
    if lowered in _MISSING:
        return Cell("missing", word=text)
    if lowered in _BOOLEAN:
        return Cell("boolean", _BOOLEAN[lowered], lowered)
    if text in ("[...]", "{...}"):
        return Cell("list", word=text)
    if _NUMBER.fullmatch(text) or lowered.lstrip("+-") in ("inf", "infinity"):
        return Cell("range", word=text)
    if _THOUSANDS.fullmatch(text):
        several = text.count(",") > 1 or "." in text
        return Cell("thousands" if several else "either", float(text.replace(",", "")), text)
    if _COMMA.fullmatch(text):
        return Cell("comma", float(text.replace(",", ".")), text)
    if (found := _QUANTITY.fullmatch(text)) and (found["space"] or found["unit"] in _UNITS):
        number = read_cell(found["number"]) if "," in found["number"] else None
        if number is None and _NUMBER.fullmatch(found["number"]):
            return Cell("unit", float(found["number"]), found["unit"])
        if number is not None and number.style in ("comma", "thousands"):
            return Cell("unit", number.value, found["unit"])
    return Cell("word", word=text)


_UNITS = frozenset(
    ("eV", "meV", "keV", "eV/atom", "meV/atom", "Ha", "Ry", "J", "kJ", "kJ/mol", "kcal/mol", "Pa", "kPa", "MPa", "GPa")
    + ("TPa", "bar", "kbar", "K", "°C", "C", "nm", "pm", "Å", "cm-1", "THz", "GHz", "g/cm3", "g/cm^3", "g/cc", "kg/m3")
    + ("%", "S/cm", "S/m", "W/mK", "mS/cm", "T", "emu/g", "V", "mV", "mAh/g", "Wh/kg", "1/K", "ppm", "Å3", "A^3")
)
"""Units that are understood without a space before them (``2D`` is no length of two)."""


@dataclass
class Reading:
    """What a column turned out to be.

    Attributes:
        name: of the column, as written.
        kind: ``number``, ``boolean``, ``category`` or ``none`` (nothing of it is kept).
        numbers: cells that are plain numbers.
        odd: cells that are not, blanks apart.
        read: of those, how many got a value all the same.
        example: one of them, unread ones first.
        classes: words by their codes, in order from ``first`` on.
        first: code of the first class: 0 for false and true, 1 otherwise.
        unit: that the cells carry, where they do.
        why: what was decided, for people.
    """

    name: str
    kind: str
    numbers: int
    odd: int
    read: int = 0
    example: str = ""
    classes: tuple[str, ...] = ()
    first: int = 1
    unit: str = ""
    why: str = ""
    rule: dict[str, float] = field(default_factory=dict, repr=False)

    def facts(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        told: dict[str, Any] = {"kind": self.kind, "numbers": self.numbers, "odd": self.odd, "read": self.read}
        told |= {"example": self.example, "why": self.why}
        told |= {"classes": list(self.classes), "first": self.first} if self.classes else {}
        return told | ({"unit": self.unit} if self.unit else {})


def sentence(name: str, facts: Mapping[str, Any]) -> str:
    """One line about a column that is not all numbers, from :meth:`Reading.facts`."""
    cells = facts["numbers"] + facts["odd"]
    return f"{name}: {facts['odd']:,} of {cells:,} cells are no plain number ('{facts['example']}'); {facts['why']}"


def parse_label_kinds(items: Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Column name to kind, from ``["gap:number", "class:category"]``.

    Raises:
        InputError: if one is not of that form or no such kind exists.
    """
    if items is None:
        return {}
    pairs = items.items() if isinstance(items, Mapping) else (tuple(item.rpartition(":")[::2]) for item in items)
    found: dict[str, str] = {}
    for name, kind in pairs:
        if not name or kind not in KINDS:
            written = f"{name}:{kind}" if name else kind
            raise InputError(
                f"--label {written!r} is not NAME:KIND with a kind of {', '.join(KINDS)}; write gap:number."
            )
        found[canonical_name(name)] = kind
    return found


class Column:
    """The cells of one column that are no plain numbers, gathered over the whole input."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: list[int] = []
        self.texts: list[str] = []
        self.cells: dict[str, Cell] = {}
        self.counts: Counter[str] = Counter()

    def add(self, place: int, text: str) -> None:
        """One more cell, of crystal ``place``."""
        if text not in self.cells:
            if len(self.cells) > 50_000 and self.counts["word"] > 0.5 * sum(self.counts.values()):
                self.counts["word"] += 1  # free text: only how much there is matters
                return
            self.cells[text] = read_cell(text)
        self.counts[self.cells[text].style] += 1
        self.places.append(place)
        self.texts.append(text)

    def settle(self, numbers: Sequence[float] | Any, asked: str = "") -> tuple[Reading, dict[int, float]]:
        """What the column is, and the values of its odd cells by crystal.

        Args:
            numbers: the plain numbers of the column.
            asked: a kind in :data:`KINDS`, or empty to decide by the cells.

        Raises:
            InputError: if the kind asked for leaves the cells ambiguous.
        """
        count = len(numbers)
        reading = Reading(self.name, "number" if count else "none", count, sum(self.counts.values()))
        self._decide(reading, numbers, asked)
        values = {p: reading.rule[t] for p, t in zip(self.places, self.texts, strict=True) if t in reading.rule}
        reading.read = len(values)
        unread = next((t for t in self.texts if t not in reading.rule), "")
        reading.example = unread or (self.texts[0] if self.texts else "")
        return reading, values

    def _decide(self, reading: Reading, numbers: Sequence[float] | Any, asked: str) -> None:
        count, styles = reading.numbers, self.counts
        pointed = any(not float(x).is_integer() for x in numbers)
        if asked == "category":
            self._classes(reading, numbers)
            return
        wordless = not count and not any(styles[s] for s in ("comma", "thousands", "either", "unit", "list", "range"))
        if asked == "" and styles["boolean"] and not styles["word"] and wordless:
            reading.rule = {t: c.value for t, c in self.cells.items() if c.style == "boolean"}
            reading.kind, reading.classes, reading.first = "boolean", ("false", "true"), 0
            reading.why = "read as 0 and 1"
            return
        if asked == "" and styles["word"] and wordless:
            self._words(reading)
            return
        parts = [*self._commas(reading, pointed, asked), *self._units(reading)]
        if styles["boolean"] and set(map(float, numbers)) <= {0.0, 1.0} and count:
            reading.rule |= {t: c.value for t, c in self.cells.items() if c.style == "boolean"}
            parts.append("true and false are read as 1 and 0")
        unread = sum(n for t, n in Counter(self.texts).items() if t not in reading.rule) + max(
            0, reading.odd - len(self.texts)
        )
        reading.kind = "number" if count or reading.rule else "none"
        if unread and reading.kind == "number":
            parts.append(f"{unread:,} of them are taken as unlabelled")
        elif not parts or reading.kind == "none":
            parts.append(self._left_out())
        reading.why = "; ".join(parts)

    def _left_out(self) -> str:
        if self.counts["list"]:
            return "left out: lists are no labels"
        return f"left out; --label '{self.name}:number' or '{self.name}:category' reads it"

    def _commas(self, reading: Reading, pointed: bool, asked: str) -> list[str]:
        styles = self.counts
        if not any(styles[s] for s in ("comma", "thousands", "either")):
            return []
        decimal = asked == "comma" or (not asked.startswith("t") and styles["comma"] and not styles["thousands"])
        thousands = asked == "thousands" or (not decimal and (styles["thousands"] or pointed) and not styles["comma"])
        if decimal and pointed and asked != "comma":
            decimal = False  # points and commas in one column: which is which cannot be known
        if not decimal and not thousands:
            if asked == "number":
                raise InputError(
                    f"The numbers of column '{self.name}' hold commas that could be decimal signs or thousands; say "
                    f"--label '{self.name}:comma' or '{self.name}:thousands'."
                )
            return [f"a comma could be a decimal sign or thousands, say --label '{self.name}:comma' or ':thousands'"]
        for text, cell in self.cells.items():
            if decimal and cell.style in ("comma", "either"):
                reading.rule[text] = float(text.replace(",", "."))
            elif thousands and cell.style in ("thousands", "either"):
                reading.rule[text] = cell.value
        return ["the comma is read as the decimal sign" if decimal else "commas are read as thousands"]

    def _units(self, reading: Reading) -> list[str]:
        found = {t: c for t, c in self.cells.items() if c.style == "unit"}
        if not found:
            return []
        known = PROPERTIES.get(canonical_name(self.name))
        units = sorted({c.word for c in found.values()})
        if known is not None and known.unit:
            factors = {u: unit_factor(u, known.unit) for u in units}
            if wrong := [u for u, factor in factors.items() if factor is None]:
                return [f"numbers in '{wrong[0]}' are not read, as {known.name} is in {known.unit}"]
            for text, cell in found.items():
                reading.rule[text] = cell.value * (factors[cell.word] or 1.0)
            reading.unit = known.unit
            changed = [u for u in units if factors[u] != 1.0]
            return [f"read in {known.unit}" + (f", converted from {', '.join(changed)}" if changed else "")]
        plain = reading.numbers + len(reading.rule)
        if len(units) > 1 or plain:
            what = (
                f"units differ ({', '.join(units[:4])})" if len(units) > 1 else f"some are in '{units[0]}', some bare"
            )
            return [f"{what}, so those with a unit are not read"]
        reading.rule |= {t: c.value for t, c in found.items()}
        reading.unit = units[0]
        return [f"read as numbers in {units[0]}"]

    def _words(self, reading: Reading) -> None:
        """A column of words: classes if they repeat, free text otherwise."""
        words = {t for t, c in self.cells.items() if c.style in ("word", "boolean")}
        cells = self.counts["word"] + self.counts["boolean"]
        if len(words) == 1:
            reading.why = f"left out: every cell is the same; --label '{self.name}:category' keeps it"
        elif len(words) > MAX_CLASSES or cells < 2 * len(words):
            reading.why = f"left out as free text; --label '{self.name}:category' makes classes of it"
        else:
            self._classes(reading, ())

    def _classes(self, reading: Reading, numbers: Sequence[float] | Any) -> None:
        """Codes from 1 for the words, in their order; numbers keep theirs."""
        if reading.numbers and not any(self.counts[s] for s in ("word", "boolean")):
            reading.kind, reading.why = "category", "taken as unlabelled"
            return
        if reading.numbers:
            raise InputError(
                f"Column '{self.name}' mixes numbers and words, so it cannot be made classes; mend its cells."
            )
        said = {t: c.word for t, c in self.cells.items() if c.style not in ("missing", "list")}
        said = {t: t if self.cells[t].style != "boolean" else word for t, word in said.items()}
        words = sorted(set(said.values()))
        if len(words) > MAX_CLASSES or self.counts.total() > len(self.texts):
            raise InputError(
                f"Column '{self.name}' has more than {MAX_CLASSES} different words, too many for classes; leave "
                "--label out for it."
            )
        codes = {word: float(code) for code, word in enumerate(words, start=1)}
        reading.rule = {text: codes[word] for text, word in said.items()}
        reading.kind, reading.classes = ("category", tuple(words)) if words else ("none", ())
        shown = ", ".join(f"{word} {code}" for code, word in enumerate(words[:4], start=1))
        reading.why = f"read as classes: {shown}{', ...' if len(words) > 4 else ''}"
