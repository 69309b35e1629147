"""Space groups by Hall symbol, Hermann-Mauguin symbol or number, in any setting, as lists of operations.

The tables are gemmi's. What a symbol leaves open, the origin of 24 groups and the axes of the rhombohedral ones, comes
back as several groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_OPERATIONS = 1024
"""Symmetry operations of one crystal; 192 is the most in a conventional cell."""

FITS = 0.02
"""How far the metric of a cell may be off its symmetry, relative to the lengths (2 %, about one degree)."""

_HALL = re.compile(r"-?[PABCIRSTFH]( -?[12346][xyzabcnuvwd12345'\"*]{0,5}){1,4}( ?\([^()]{1,40}\))?", re.IGNORECASE)
_EXTENSION = re.compile(
    r"(.*?)\s*(?::\s*|\(?\s*origin(?:\s*choice)?\s*|\s(?=O[12]$)|(?=[SZHR]$))([\w-]{1,6})\s*\)?", re.IGNORECASE
)
_AXIS = re.compile(r"(?:21?|4[123]?|6[1-5]?)/([abcdenm])")
_ORIGIN = {"s": "1", "z": "2", "o1": "1", "o2": "2"}


@dataclass(frozen=True, eq=False)
class Group:
    """A space group in one setting.

    Attributes:
        name: as a person knows it.
        number: 1 to 230, or None where it is not known.
        rotations: ``(m, 3, 3)`` integers that act on fractional coordinates as columns.
        translations: ``(m, 3)`` in [0, 1).
    """

    name: str
    number: int | None
    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def trivial(self) -> bool:
        """Whether the identity is all there is."""
        return len(self.rotations) == 1

    def fits(self, cell: NDArray[np.float64]) -> bool:
        """Whether the rotations leave the metric of a cell ``(3, 3)`` as it is."""
        metric = cell @ cell.T
        turned = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations
        lengths = np.sqrt(np.diag(metric))
        return bool((np.abs(turned - metric) <= 2 * FITS * np.outer(lengths, lengths)).all())


def identity() -> Group:
    """The group of the identity alone."""
    return Group("P 1", 1, np.eye(3)[None], np.zeros((1, 3)))


def by_hall(text: str) -> Group | None:
    """The group of a Hall symbol, such as ``-F 4 2 3``; None where it is not understood."""
    plain = " ".join(text.replace("_", " ").replace("=", '"').split())
    if len(plain) > 100 or not _HALL.fullmatch(plain):
        return None
    return _of_hall(plain)


@cache
def _of_hall(symbol: str) -> Group | None:
    import gemmi

    try:
        operations = gemmi.symops_from_hall(symbol)
    except (RuntimeError, ValueError):
        return None
    known = gemmi.find_spacegroup_by_ops(operations)
    arrays = [(operation.rot, operation.tran) for operation in operations]
    rotations = np.array([r for r, _ in arrays], dtype=np.float64) / gemmi.Op.DEN
    translations = np.array([t for _, t in arrays], dtype=np.float64) / gemmi.Op.DEN % 1.0
    name = known.xhm() if known else f"Hall symbol {symbol}"
    return Group(name, known.number if known else None, rotations, translations)


def by_symbol(text: str, code: str = "") -> list[Group]:
    """All groups that a Hermann-Mauguin symbol can mean: short, full or old, with or without origin or axes.

    Args:
        text: such as ``F m -3 m``, ``F 4/m -3 2/m``, ``Fm3m``, ``F d -3 m :2``, ``R -3 m :H``, ``F d -3 m S``.
        code: the setting where the file names it apart (``_space_group_IT_coordinate_system_code``).

    Returns:
        None at all where the symbol is not understood, the likeliest first.
    """
    parts, extension = _parts(text)
    return _chosen(_meanings(parts), extension or _ORIGIN.get(code.lower(), code.lower()))


def by_number(number: int, code: str = "") -> list[Group]:
    """The standard setting of a number from 1 to 230; both where the origin or the axes are not said."""
    settings = [entry for entry in _table() if entry.number == number]
    return _chosen(
        [entry for entry in settings if entry.name == settings[0].name], _ORIGIN.get(code.lower(), code.lower())
    )


@dataclass(frozen=True)
class _Entry:
    """One line of gemmi's table."""

    number: int
    name: str
    hall: str
    choice: str
    setting: str


@cache
def _table() -> tuple[_Entry, ...]:
    import gemmi

    return tuple(
        _Entry(g.number, g.hm, g.hall, g.ext.strip("\0 ").lower(), g.qualifier.lower())
        for g in gemmi.spacegroup_table()
    )


def _chosen(entries: Sequence[_Entry], extension: str) -> list[Group]:
    """The entries of a choice of origin (``1``, ``2``), of axes (``h``, ``r``) or of a setting (``c1``, ``2cab``)."""
    if extension and entries:
        setting = extension.lstrip("12") if len(extension) > 2 else extension
        numbers = {entry.number for entry in entries}
        exact = [entry for entry in entries if extension in (entry.choice, entry.setting) or setting == entry.setting]
        if not exact:
            exact = [entry for entry in _table() if entry.number in numbers and entry.setting == setting]
        if len(setting) < len(extension):
            exact = [entry for entry in exact if entry.choice == extension[0]]
        # A choice named where there is none to make says nothing.
        harmless = extension in ("1", "2", "h", "r") and {entry.choice for entry in entries} == {""}
        entries = exact or (entries if harmless else [])
    groups = (_of_hall(hall) for hall in dict.fromkeys(entry.hall for entry in entries))
    return [group for group in groups if group is not None]


Parts = tuple[str, ...]


@cache
def _symbols() -> tuple[dict[Parts, list[_Entry]], dict[str, dict[_Entry, None]]]:
    """The entries by the parts of their symbols, and by the symbol without blanks."""
    table: dict[Parts, list[_Entry]] = {}
    for entry in _table():
        table.setdefault(_split(entry.name), []).append(entry)
    known = list(table.items())

    def add(parts: Parts, entries: list[_Entry]) -> None:
        table.setdefault(parts, entries)

    for parts, entries in known:
        number, lattice = entries[0].number, parts[0]
        if number in (39, 41, 64, 67, 68):  # the symbols of 1992, in which e stands for two glide planes
            place = "ABC".find(lattice) + 1
            add((*parts[:place], "e", *parts[place + 1 :]), entries)
        if 200 <= number <= 206 or number >= 221:  # those before 1983
            add(tuple(part.replace("-3", "3") for part in parts), entries)
        if lattice == "R":  # protein crystallographers write H for R in hexagonal axes
            add(("H", *parts[1:]), [entry for entry in entries if entry.choice == "h"])
    for place in (2, 1, 3):
        # 'P 21/c' leaves the unique axis to the cell: b by custom, c or a where the cell says so.
        for parts, entries in known:
            if 3 <= entries[0].number <= 15 and len(parts) == 4 and parts[place] != "1":
                same = table.setdefault((parts[0], parts[place]), [])
                if not same or same[0].number == entries[0].number:
                    same.extend(entries)
    joined: dict[str, dict[_Entry, None]] = {}
    for parts, entries in table.items():
        joined.setdefault("".join(parts), {}).update(dict.fromkeys(entries))
    return table, joined


def _meanings(parts: Parts) -> list[_Entry]:
    """All entries that a symbol can mean; none where it is not understood."""
    by_parts, joined = _symbols()
    candidates = (parts, *_shortened(parts))
    for candidate in candidates:
        if candidate in by_parts:
            return by_parts[candidate]
    return next((list(joined["".join(c)]) for c in candidates if "".join(c) in joined), [])


def _shortened(parts: Parts) -> Iterator[Parts]:
    """A full symbol without the axes that go without saying: all but the first, or all."""
    blank = " ".join(parts)
    for kept in (1, 0):
        places = list(_AXIS.finditer(blank))[kept:]
        text = blank
        for match in reversed(places):
            text = text[: match.start()] + match[1] + text[match.end() :]
        if text != blank:
            yield tuple(text.split())


def _split(name: str) -> Parts:
    text = name.replace("_", "").strip()
    return tuple((text[:1].upper() + text[1:].lower()).split())


def _parts(text: str) -> tuple[Parts, str]:
    """A symbol without its spelling, and what it says of origin or axes."""
    if len(text) > 60:
        return (), ""
    text = re.sub("[\u2212\u2013\u203e\u00af]", "-", text.strip())
    text = re.sub(r"\\?(?:bar|overline)\s*\{?\s*(\d)\s*\}?", r"-\1", text).replace("\\", "").replace("$", "")
    text = re.sub(r"(\d)\u0305", r"-\1", text).replace("{", "").replace("}", "")
    text = re.sub(r"\(\s*(?:no\.?|#)?\s*\d{1,3}\s*\)$", "", text, flags=re.I).strip()
    matched = _EXTENSION.fullmatch(text)
    extension = matched[2].lower() if matched else ""
    return _split(matched[1] if matched else text), _ORIGIN.get(extension, extension)


def named(rotations: NDArray[np.float64], translations: NDArray[np.float64], name: str) -> Group:
    """The group of operations, with its number where the tables have them."""
    import gemmi

    operations: list[Any] = []
    for rotation, translation in zip(rotations, translations, strict=True):
        operation = gemmi.Op()
        operation.rot = np.rint(rotation * gemmi.Op.DEN).astype(int).tolist()
        operation.tran = np.rint(translation * gemmi.Op.DEN).astype(int).tolist()
        operations.append(operation)
    exact = np.abs(translations * gemmi.Op.DEN - np.rint(translations * gemmi.Op.DEN)).max() < 1e-6
    known = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations)) if exact else None
    return Group(known.xhm() if known else name, known.number if known else None, rotations, translations)
