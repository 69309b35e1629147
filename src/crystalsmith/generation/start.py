"""Crystals to start from, and the parts of them that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.cells import niggli_reduce, primitive_cell, right_handed
from crystalsmith.data.readers import FORMATS, Heard, open_source
from crystalsmith.data.rows import Refused, Row
from crystalsmith.data.sense import volume_problem
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

MAX_CRYSTALS = 10_000
"""Crystals to start from; all of them stand in the manifest of a run."""

Plain = tuple[list[list[float]], list[list[float]], list[int]]
"""Fractional coordinates, cell (rows, angstrom) and atomic numbers of one crystal."""


@dataclass(frozen=True)
class Starts:
    """Crystals to start from; crystal i starts from ``crystals[i % len]``.

    Attributes:
        file: where they were read.
        crystals: as read, not reduced.
        strength: the time in (0, 1] that they are noised to; 1 keeps only what is fixed.
        fix_sites: sites (from 0) whose position and element are kept.
        fix_cell: keep the cell.
        fix_elements: keep the element of every atom.
        resample: passes through each stretch of the way.
        redecorate: keep their space groups, noise their geometry to ``strength`` and draw their elements anew.
    """

    file: str
    crystals: tuple[Plain, ...]
    strength: float = 1.0
    fix_sites: tuple[int, ...] = ()
    fix_cell: bool = False
    fix_elements: bool = False
    resample: int = 1
    redecorate: bool = False

    def sizes(self) -> list[int]:
        """Number of atoms of each crystal to start from."""
        return [len(numbers) for _, _, numbers in self.crystals]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Starts:
        """The start that ``dataclasses.asdict`` and JSON made plain."""
        plain = dict(values) | {"fix_sites": tuple(values["fix_sites"])}
        return Starts(**plain | {"crystals": tuple((frac, cell, list(z)) for frac, cell, z in values["crystals"])})


def make_starts(
    file: str | Path | Sequence[Plain] | None,
    *,
    strength: float | None = None,
    fix_sites: str | Sequence[int] | None = None,
    fix_cell: bool = False,
    fix_elements: bool = False,
    resample: int | None = None,
    redecorate: bool = False,
    disorder: str = "refuse",
) -> Starts | None:
    """A checked start, or None where nothing is asked for.

    Raises:
        InputError: if the file cannot be read or an option does not fit it.
    """
    dependent = {"strength": strength, "fix-sites": fix_sites, "resample": resample}
    flags = {"fix-cell": fix_cell, "fix-elements": fix_elements, "redecorate": redecorate}
    given = [name for name, value in dependent.items() if value is not None] + [n for n, on in flags.items() if on]
    if file is None:
        if given:
            raise InputError(f"--{given[0]} needs a crystal; give --start-from FILE too.")
        return None
    others = [name for name in given if name not in ("strength", "redecorate")]
    if redecorate and others:
        raise InputError(f"--redecorate draws every element anew and keeps the space group; leave --{others[0]} out.")
    crystals = read_crystals(Path(file), disorder) if isinstance(file, (str, Path)) else tuple(file)
    if redecorate:
        crystals = tuple(reduced(one) for one in crystals)
    where = str(file) if isinstance(file, (str, Path)) else "the crystals given"
    sites = _sites(fix_sites, min(len(numbers) for _, _, numbers in crystals), where)
    fixes = bool(sites) or fix_cell or fix_elements
    strength = (1.0 if fixes else 0.4) if strength is None else strength
    if not 0.0 < strength <= 1.0:
        raise InputError(f"--strength is {strength}; give a number above 0 and up to 1.")
    resample = 1 if resample is None else resample
    if not 1 <= resample <= 100:
        raise InputError(f"--resample is {resample}; give a whole number from 1 to 100.")
    return Starts(where, crystals, strength, sites, fix_cell, fix_elements, resample, redecorate)


def reduced(crystal: Plain) -> Plain:
    """The crystal in its primitive, Niggli-reduced cell, as training data are."""
    frac, cell = right_handed(np.array(crystal[0], dtype=float), np.array(crystal[1], dtype=float))
    frac, cell, numbers = primitive_cell(frac, cell, np.array(crystal[2], dtype=np.int64))
    found, transform = niggli_reduce(cell[None])
    return (frac @ np.linalg.inv(transform[0])).tolist(), found[0].tolist(), numbers.tolist()


def read_crystals(path: Path, disorder: str = "refuse", elements_matter: bool = True) -> tuple[Plain, ...]:
    """All crystals of a file or folder, atoms in the order of the file, cells not reduced.

    They come through the reader that ``data prepare`` uses, so a file is the same crystal everywhere.

    Args:
        path: anything that ``data prepare`` reads (``docs/data.md``).
        disorder: what becomes of partly occupied sites (:func:`crystalsmith.data.readers.open_source`).
        elements_matter: refuse a POSCAR that names no elements.

    Raises:
        InputError: if the file cannot be read, or one of its crystals cannot be trusted.
    """
    source = open_source(path, disorder, elements_matter)
    heard = Heard(source)
    found: list[Plain] = []
    for chunk in source.chunks(100):
        for row in chunk.rows():
            if isinstance(row, Refused):
                raise InputError(f"{path} cannot be used: {row.id}: {row.detail} ({row.reason.replace('_', ' ')}).")
            heard.add(row.id, row.notes)
            found.append(_checked(row, path))
            if len(found) > MAX_CRYSTALS:
                raise InputError(f"{path} holds more than {MAX_CRYSTALS} crystals to start from; give fewer.")
    if not found:
        raise InputError(f"{path} holds no crystal; give {FORMATS}.")
    heard.tell()
    return tuple(found)


def _checked(row: Row, path: Path) -> Plain:
    numbers = row.atomic_numbers
    if not len(numbers):
        raise InputError(f"{path}: {row.id} has no atoms; give a crystal.")
    if numbers.max() > len(SYMBOLS) or numbers.min() < 1:
        raise InputError(f"{path}: {row.id} holds an element beyond Fm; the models do not know it.")
    if not (np.isfinite(row.frac_coords).all() and np.isfinite(row.cell).all()):
        raise InputError(f"{path}: {row.id} has numbers that are not finite; mend the file.")
    found = volume_problem(row.cell, numbers)
    if found:
        raise InputError(f"{path}: {row.id} is no crystal: {found}; mend the file.")
    return row.frac_coords.tolist(), row.cell.tolist(), numbers.tolist()


def _sites(value: str | Sequence[int] | None, size: int, where: str) -> tuple[int, ...]:
    if value is None:
        return ()
    sites: set[int] = set()
    for part in value.split(",") if isinstance(value, str) else [str(v) for v in value]:
        low, dash, high = (text.strip() for text in part.partition("-"))
        if not low.isdigit() or (dash and not high.isdigit()):
            raise InputError(f"--fix-sites {value!r} is not a list of site numbers; write for example 0,1,5 or 0-6.")
        sites |= set(range(int(low), int(high or low) + 1))
    if not sites or max(sites) >= size:
        raise InputError(f"--fix-sites: sites count from 0, and {where} has sites 0 to {size - 1}.")
    return tuple(sorted(sites))
