"""What can be said of one crystal without energies or a reference: validity, density, symmetry, formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import symbol
from crystalsmith.evaluation.framework import SYMPREC, framework
from crystalsmith.geometry import MAX_VOLUME_PER_ATOM, shortest_distance
from crystalsmith.symmetry.groups import space_group

MIN_DISTANCE = 0.5
"""A crystal with atoms closer than this (angstrom) is not valid (the published criterion)."""

MIN_VOLUME = 0.1
"""A crystal of a smaller volume (cubic angstrom) is not valid (the published criterion)."""

GRAM_PER_CM3 = 1.66053906660
"""One dalton per cubic angstrom in grams per cubic centimetre (CODATA 2018)."""

LOOSE, TIGHT, TIGHTEST = SYMPREC, 1e-2, 1e-5
"""Tolerances of the symmetry search in angstrom: for what people call a crystal, and for what relaxation keeps."""


@dataclass(frozen=True)
class Facts:
    """One crystal in numbers.

    Attributes:
        formula: reduced, in pymatgen's order.
        num_atoms, num_elements: in the cell as given.
        density: g/cm^3.
        volume_per_atom: cubic angstrom.
        shortest_distance: angstrom, periodic images included.
        valid: no distance below 0.5 angstrom, a volume above 0.1 cubic angstrom, and at most 2000 of it per atom.
        framework: label of its kinds of places at 0.1 angstrom; see :mod:`crystalsmith.evaluation.framework`.
        space_groups: numbers at 0.1, 0.01 and 0.00001 angstrom; None where the search fails or the
            crystal is not valid.
    """

    formula: str
    num_atoms: int
    num_elements: int
    density: float
    volume_per_atom: float
    shortest_distance: float
    valid: bool
    space_groups: tuple[int | None, int | None, int | None]
    framework: str = ""


def facts_of(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> Facts:
    """The facts of a crystal: coordinates ``(n, 3)``, cell ``(3, 3)`` in angstrom, atomic numbers ``(n,)``."""
    volume = abs(float(np.linalg.det(cell)))
    distance = shortest_distance(frac, cell)
    valid = distance >= MIN_DISTANCE and MIN_VOLUME < volume <= MAX_VOLUME_PER_ATOM * len(numbers)
    loose, label = framework(frac, cell, numbers) if valid else (0, "")
    tight = [space_group(frac, cell, numbers, s) if valid else None for s in (TIGHT, TIGHTEST)]
    return Facts(
        formula=reduced_formula(numbers),
        num_atoms=len(numbers),
        num_elements=len(set(numbers.tolist())),
        density=density(cell, numbers),
        volume_per_atom=volume / len(numbers),
        shortest_distance=distance,
        valid=valid,
        space_groups=(loose or None, tight[0], tight[1]),
        framework=label,
    )


def density(cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> float:
    """Mass density in g/cm^3; infinite for a collapsed cell."""
    from ase.data import atomic_masses

    volume = abs(float(np.linalg.det(cell)))
    mass = float(atomic_masses[numbers].sum())
    return mass * GRAM_PER_CM3 / volume if volume > 0 else float("inf")


def reduced_formula(numbers: NDArray[np.int64]) -> str:
    """The reduced formula in pymatgen's order, as in ``LiFeO2``."""
    from pymatgen.core import Composition

    elements, counts = np.unique(numbers, return_counts=True)
    amounts = {symbol(int(z)): int(n) for z, n in zip(elements, counts, strict=True)}
    return str(Composition(amounts).reduced_formula)
