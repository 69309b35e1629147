"""Crystals to start from, and the parts of them that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

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
    """

    file: str
    crystals: tuple[Plain, ...]
    strength: float = 1.0
    fix_sites: tuple[int, ...] = ()
    fix_cell: bool = False
    fix_elements: bool = False
    resample: int = 1

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
) -> Starts | None:
    """A checked start, or None where nothing is asked for.

    Raises:
        InputError: if the file cannot be read or an option does not fit it.
    """
    dependent = {"strength": strength, "fix-sites": fix_sites, "resample": resample}
    flags = {"fix-cell": fix_cell, "fix-elements": fix_elements}
    given = [name for name, value in dependent.items() if value is not None] + [n for n, on in flags.items() if on]
    if file is None:
        if given:
            raise InputError(f"--{given[0]} needs a crystal; give --start-from FILE too.")
        return None
    crystals = read_crystals(Path(file)) if isinstance(file, (str, Path)) else tuple(file)
    where = str(file) if isinstance(file, (str, Path)) else "the crystals given"
    sites = _sites(fix_sites, min(len(numbers) for _, _, numbers in crystals), where)
    fixes = bool(sites) or fix_cell or fix_elements
    strength = (1.0 if fixes else 0.4) if strength is None else strength
    if not 0.0 < strength <= 1.0:
        raise InputError(f"--strength is {strength}; give a number above 0 and up to 1.")
    resample = 1 if resample is None else resample
    if not 1 <= resample <= 100:
        raise InputError(f"--resample is {resample}; give a whole number from 1 to 100.")
    return Starts(where, crystals, strength, sites, fix_cell, fix_elements, resample)


def read_crystals(path: Path) -> tuple[Plain, ...]:
    """All crystals of a CIF, POSCAR or (extended) XYZ file, atoms in the order of the file, cells not reduced.

    Raises:
        InputError: if the file cannot be read, or an atom is partly occupied or of an element beyond Fm.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a CIF, POSCAR or extended XYZ file.")
    try:
        structures = _xyz(path) if path.suffix in (".xyz", ".extxyz") else _pymatgen(path)
    except InputError:
        raise
    except Exception as error:  # whatever the parsers raise on a damaged file
        sentence = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read as a crystal ({sentence}); give a CIF, POSCAR or XYZ file.") from None
    if not structures:
        raise InputError(f"{path} holds no crystal; give a CIF, POSCAR or extended XYZ file.")
    for frac, cell, numbers in structures:
        if max(numbers) > len(SYMBOLS) or min(numbers) < 1:
            raise InputError(f"{path} holds an element beyond Fm; the models do not know it.")
        values = np.array([*frac, *cell])
        if not np.isfinite(values).all() or abs(np.linalg.det(np.array(cell))) < 1e-3:
            raise InputError(f"{path} holds a crystal without a cell of three dimensions; give one that has it.")
    return tuple(structures)


def _pymatgen(path: Path) -> list[Plain]:
    import warnings

    from pymatgen.core import Structure
    from pymatgen.io.cif import CifParser
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: list[Structure]
        if path.suffix.lower() == ".cif":
            found = list(CifParser(str(path)).parse_structures(primitive=False))
        else:
            found = [Poscar.from_file(str(path), check_for_potcar=False).structure]
    for structure in found:
        if not structure.is_ordered:
            raise InputError(f"{path} holds partly occupied sites; give an ordered crystal.")
    return [(s.frac_coords.tolist(), s.lattice.matrix.tolist(), [int(z) for z in s.atomic_numbers]) for s in found]


def _xyz(path: Path) -> list[Plain]:
    from ase.io import read

    frames = read(path, index=":", format="extxyz")
    return [(a.get_scaled_positions().tolist(), a.cell.array.tolist(), a.numbers.tolist()) for a in frames]


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
