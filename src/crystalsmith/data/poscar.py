"""POSCAR and CONTCAR of VASP as crystals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.rows import Crystal, Note, RowError, crystal, element, fractional
from crystalsmith.elements import NUMBERS, SYMBOLS

MAX_TEXT = 4 * 2**20
"""Bytes of the largest POSCAR read."""

MAX_KINDS = len(SYMBOLS)
"""Kinds of atoms in one file."""


def crystal_of_poscar(text: str, elements_matter: bool = True) -> tuple[Crystal, tuple[Note, ...]]:
    """The crystal of a POSCAR, and a note where the elements do not stand in their line.

    Args:
        text: the file; what follows the positions (velocities) is not read.
        elements_matter: refuse a file that names no elements, as VASP 4 wrote it; else the kinds are numbered 1, 2, ...

    Raises:
        RowError: if it is no complete POSCAR, or names no elements.
    """
    lines = text.lstrip("\ufeff").splitlines()
    if len(lines) < 7:
        raise RowError("unreadable", f"a POSCAR has at least 8 lines, this file has {len(lines)}")
    cell = _cell(lines[1:5])
    symbols, counts, place = _kinds(lines)
    total = sum(counts)
    if total > MAX_SITES:
        raise RowError("too_many_atoms", f"{total} atoms (at most {MAX_SITES} are read)")
    if not total:
        raise RowError("no_atoms", "the crystal has no atoms")
    selective = lines[place : place + 1] and lines[place].strip()[:1] in ("S", "s")
    place += bool(selective)
    mode = lines[place].strip()[:1] if place < len(lines) else ""
    if not mode.isalpha():
        raise RowError("unreadable", f"line {place + 1} of a POSCAR should say Direct or Cartesian")
    rows = [line.split() for line in lines[place + 1 : place + 1 + total]]
    if len(rows) < total or any(len(row) < 3 for row in rows):
        raise RowError("bad_shape", f"{total} atoms are announced, fewer have positions")
    places = np.array([[_number(value) for value in row[:3]] for row in rows])
    # Flags of selective dynamics, T and F, stand before a symbol; F is no fluorine there.
    behind = [row[6 if selective else 3 :] for row in rows]
    numbers, notes = _numbers(lines[0], symbols, counts, behind, elements_matter)
    if mode in "CcKk":
        return crystal(fractional(places * _scale(lines[1:5])[1], cell), cell, numbers), notes
    return crystal(places, cell, numbers), notes


def _number(text: str) -> float:
    try:
        value = float(text.replace("D", "e").replace("d", "e").replace("_", "x"))
    except ValueError:
        raise RowError("not_finite", f"'{text[:20]}' stands where a number should") from None
    if not np.isfinite(value) or abs(value) > 1e6:
        raise RowError("not_finite", f"'{text[:20]}' is no length or coordinate")
    return value


def _scale(lines: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lattice vectors in angstrom, and what Cartesian positions are multiplied with."""
    factors = []
    for text in lines[0].split():
        try:
            factors.append(_number(text))
        except RowError:
            break  # a comment may follow
    rows = [line.split()[:3] for line in lines[1:]]
    if len(factors) not in (1, 3) or any(len(row) < 3 for row in rows):
        raise RowError("unreadable", "lines 2 to 5 of a POSCAR are a scale and three lattice vectors")
    vectors = np.array([[_number(value) for value in row] for row in rows])
    if len(factors) == 3:
        if min(factors) <= 0:
            raise RowError("bad_cell", "three scales of a POSCAR must be positive")
        scale = np.array(factors)
    elif factors[0] < 0:
        volume = abs(float(np.linalg.det(vectors)))
        if not volume > 1e-12:
            raise RowError("bad_cell", "the lattice vectors span no volume")
        scale = np.full(3, np.cbrt(-factors[0] / volume))  # a negative scale is the volume
    else:
        scale = np.full(3, factors[0])
    return vectors * scale, scale


def _cell(lines: list[str]) -> NDArray[np.float64]:
    cell = _scale(lines)[0]
    if not abs(np.linalg.det(cell)) > 1e-6:
        raise RowError("bad_cell", "the lattice vectors span no volume")
    return cell


def _kinds(lines: list[str]) -> tuple[list[str], list[int], int]:
    """The symbols (empty where there are none), the counts, and the line after them."""
    words = lines[5].split()
    place = 6
    symbols: list[str] = []
    if words and not all(_whole(word) for word in words):
        symbols, words, place = words, lines[6].split("!")[0].split(), 7
    counts = []
    for word in words:
        if not _whole(word):
            break
        counts.append(int(word))
    if not counts or len(counts) > MAX_KINDS:
        raise RowError("unreadable", f"line {place} of a POSCAR should be the numbers of atoms")
    if symbols and len(symbols) != len(counts):
        raise RowError("bad_shape", f"a POSCAR of {len(symbols)} symbols and {len(counts)} numbers of atoms")
    return symbols, counts, place


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


def _numbers(
    comment: str, symbols: list[str], counts: list[int], behind: list[list[str]], elements_matter: bool
) -> tuple[NDArray[np.int64], tuple[Note, ...]]:
    notes: tuple[Note, ...] = ()
    if not symbols:
        told = [next((word for word in words if word in NUMBERS), "") for words in behind]
        if all(told):
            return np.array([NUMBERS[word] for word in told], dtype=np.int64), ()
        named = comment.split()
        if len(named) == len(counts) and all(word in NUMBERS for word in named):
            symbols = named
            notes = (("elements_from_comment", f"no line of elements; '{' '.join(named)[:40]}' of line 1 was taken"),)
        elif elements_matter:
            raise RowError(
                "no_elements", "the POSCAR names no elements; add a line such as 'Na Cl' above the numbers of atoms"
            )
        else:
            symbols = list(SYMBOLS[: len(counts)])
    kinds = [element(symbol.split("/")[0].split("_")[0]) for symbol in symbols]
    return np.repeat(kinds, counts).astype(np.int64), notes
