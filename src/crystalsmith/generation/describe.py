"""What is written down about one finished crystal: a row of the table, a CIF and an extended XYZ frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import MASK
from crystalsmith.evaluation.facts import MIN_DISTANCE, MIN_VOLUME, density, reduced_formula
from crystalsmith.formats import METHOD, cell_parameters, cif_text, extxyz_frame, symmetric_cif_text
from crystalsmith.geometry import shortest_distance
from crystalsmith.symmetry.groups import space_group, space_group_symbol, symmetrise

Array = NDArray[np.float64]
Row = dict[str, Any]

NOT_RELAXED = f"{METHOD}, not relaxed"
"""What the CIF of a generated crystal says of itself."""

COLUMNS = (
    "id",
    "seed",
    "index",
    "file",
    "formula",
    "num_atoms",
    "space_group_0.01",
    "space_group_0.1",
    "space_group_symbol",
    "a",
    "b",
    "c",
    "alpha",
    "beta",
    "gamma",
    "density",
    "volume_per_atom",
    "shortest_distance",
    "valid",
    "note",
)
"""Columns of ``crystals.csv``: density in g/cm3, volume_per_atom in cubic angstrom, shortest_distance in angstrom.

``a`` to ``gamma`` (angstrom, degrees) are those of the cell as generated, which ``num_atoms`` counts and
``crystals.extxyz`` holds; the CIF has the conventional cell, symmetrised. ``space_group_symbol`` is at 0.1 angstrom.
"""

GEOMETRIES = "crystals.extxyz"
"""The file of all crystals as generated."""

SYMPREC_CIF = 0.1
"""Tolerance in angstrom of the space group that the CIF files are symmetrised to."""


@dataclass(frozen=True)
class Crystal:
    """One finished crystal as plain arrays, fit to be sent to another process.

    Attributes:
        seed: seed of the request.
        index: index within the request.
        frac_coords: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        numbers: ``(n,)`` atomic numbers.
        allowed: atomic numbers that a result may hold.
        asked: further columns: what was asked of this crystal.
    """

    seed: int
    index: int
    frac_coords: Array
    cell: Array
    numbers: NDArray[np.int64]
    allowed: frozenset[int]
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name of the crystal, unique within a model."""
        return f"s{self.seed}-{self.index:06d}"

    @property
    def failure(self) -> str | None:
        """Why this is no result: a number that is not finite, a masked atom, or an element outside the allowed set."""
        if not (np.isfinite(self.frac_coords).all() and np.isfinite(self.cell).all()):
            return "a number is not finite"
        if (self.numbers == MASK).any():
            return "an atom is still masked"
        outside = sorted({int(z) for z in self.numbers} - self.allowed)
        if outside:
            return f"atomic number {outside[0]} is not among the elements of the model"
        return None


@dataclass(frozen=True)
class Description:
    """A row of ``crystals.csv`` and, unless the crystal failed, its CIF (if wanted) and its extended XYZ frame."""

    row: Row
    cif: str | None
    frame: str | None


def describe(crystal: Crystal, cif: bool = True) -> Description:
    """Everything that is written about one crystal. A pure function: no file is touched.

    A crystal that has failed gets a row that says why, and neither CIF nor frame. Without ``cif`` the others have none
    either, and their ``file`` is that of all frames.
    """
    failure = crystal.failure
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"id": crystal.id, "seed": crystal.seed, "index": crystal.index, "num_atoms": len(crystal.numbers)}
    row |= crystal.asked
    if failure is not None:
        return Description(row | {"valid": False, "note": f"failed: {failure}"}, cif=None, frame=None)

    frac, cell, numbers = crystal.frac_coords, crystal.cell, crystal.numbers
    volume = abs(float(np.linalg.det(cell)))
    distance = shortest_distance(frac, cell)
    valid = distance >= MIN_DISTANCE and volume > MIN_VOLUME
    row |= lattice(cell)
    row |= {
        "file": f"cif/{crystal.id}.cif" if cif else GEOMETRIES,
        "formula": reduced_formula(numbers),
        "density": _rounded(density(cell, numbers) if volume > 0 else None),
        "volume_per_atom": _rounded(volume / len(numbers)),
        "shortest_distance": _rounded(distance),
        "valid": valid,
        "note": "" if valid else "atoms closer than 0.5 angstrom" if volume > MIN_VOLUME else "collapsed cell",
    }
    symmetric = None
    if valid:  # a tolerance of 0.1 angstrom means nothing where atoms overlap
        row["space_group_0.01"] = space_group(frac, cell, numbers, 0.01)
        row["space_group_0.1"] = space_group(frac, cell, numbers, SYMPREC_CIF)
        row["space_group_symbol"] = space_group_symbol(row["space_group_0.1"])
        symmetric = symmetrise(frac, cell, numbers, SYMPREC_CIF) if cif else None
    text = None
    if cif and symmetric:
        text = symmetric_cif_text(crystal.id, symmetric, NOT_RELAXED)
    elif cif:
        text = cif_text(crystal.id, frac, cell, numbers, NOT_RELAXED)
    frame = extxyz_frame(frac, cell, numbers, {"id": crystal.id, "seed": crystal.seed, "index": crystal.index})
    return Description(row, text, frame)


def lattice(cell: Array) -> Row:
    """Lengths in angstrom and angles in degrees of a cell as columns of a table."""
    lengths, angles = cell_parameters(cell)
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    return {name: _rounded(float(value)) for name, value in zip(names, [*lengths, *angles], strict=True)}


def _rounded(value: float | None) -> float | None:
    """Six significant digits: more than the numbers carry, and a table that reads well."""
    return None if value is None else float(f"{value:.6g}")
