"""The framework of a crystal: which kinds of places its atoms take, whatever the elements are.

A label such as ``225|4m-3m|4m-3m`` (rock salt) holds the space group and, for each element without its name, the orbits
in the conventional cell with multiplicity and site symmetry. Wyckoff letters would tell more, but they depend on the
choice of the origin, so equal frameworks might look different and count as new; this label errs to the other side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalsmith.symmetry.groups import search

SYMPREC = 0.1
"""Angstrom: tolerance of the symmetry search, that of the space groups of a reference."""


def framework(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> tuple[int, str]:
    """Space group and label; 0 where the search fails, and no label in P1, where every place is like any other.

    Args:
        frac: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        numbers: ``(n,)`` atomic numbers.
    """
    found = search(frac, cell, numbers, SYMPREC)
    if found is None:
        return 0, ""
    number = int(found.number)
    if number == 1:
        return number, ""
    # Atoms of the conventional cell for each atom of the cell as given.
    scale = len(found.std_cell.numbers) / len(numbers)
    orbits = np.array(found.orbits)
    kinds: dict[int, list[str]] = {}
    for first in np.unique(orbits).tolist():
        size = round(int((orbits == first).sum()) * scale)
        kinds.setdefault(int(numbers[first]), []).append(f"{size}{found.site_symmetry_symbols[first]}")
    parts = sorted(",".join(sorted(kind)) for kind in kinds.values())
    return number, "|".join([str(number), *parts])
