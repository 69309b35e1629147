"""What no crystal can be: too dense, too thin, atoms inside one another. Limits far beyond all that is known."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from crystalsmith.geometry import MAX_VOLUME_PER_ATOM

SHORTEST_DISTANCE = 0.5
"""Angstrom; atoms nearer than this lie on top of each other. The shortest bond there is, H-H, has 0.74."""

SHORTEST_BOND = 0.5
"""Share of the sum of two covalent radii below which atoms lie inside one another; MP-20 has none below 0.62."""

MIN_VOLUME_PER_ATOM = 1.0
"""Cubic angstrom; the densest crystals there are have about 5 (diamond 5.7, beryllium 8, solid hydrogen more)."""

MAX_DENSITY = 40.0
"""g/cm3; osmium has 22.6, and the densest of MP-20, 24.3."""

GRAM_PER_CM3 = 1.66053906660  # one dalton per cubic angstrom (CODATA 2018)


@cache
def _tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Masses in dalton and covalent radii in angstrom (Cordero et al., Dalton Trans. 2008) by atomic number."""
    from ase.data import atomic_masses, covalent_radii

    return np.asarray(atomic_masses, dtype=np.float64), np.asarray(covalent_radii, dtype=np.float64)


def volume_problem(cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> str:
    """Why a cell ``(3, 3)`` in angstrom cannot hold atoms ``(n,)``; empty where it can."""
    volume = abs(float(np.linalg.det(cell)))
    per_atom = volume / max(len(numbers), 1)
    if not volume > 1e-6:
        return "the lattice vectors span no volume"
    if per_atom < MIN_VOLUME_PER_ATOM:
        return f"{per_atom:.3g} cubic angstrom per atom is less than any crystal has"
    if per_atom > MAX_VOLUME_PER_ATOM:
        return f"{per_atom:.3g} cubic angstrom per atom is no crystal (at most {MAX_VOLUME_PER_ATOM:g})"
    density = float(_tables()[0][numbers].sum()) * GRAM_PER_CM3 / volume
    return f"{density:.0f} g/cm3 is more than any crystal has" if density > MAX_DENSITY else ""


def closeness(distances: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Smallest distance over the sum of covalent radii: ``(G, n, n)`` in angstrom and ``(G, n)`` to ``(G,)``."""
    radii = _tables()[1][numbers]
    return (distances / (radii[:, :, None] + radii[:, None, :])).min((1, 2))


def problem(frac_coords: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> str:
    """Why one crystal is none; empty where it may be one.

    The nearest image is taken by rounding, which is exact for atoms that overlap in any cell that is not very skewed.
    """
    found = volume_problem(cell, numbers)
    if found or len(numbers) < 2:
        return found
    delta = frac_coords[:, None] - frac_coords[None]
    distance = np.linalg.norm((delta - np.rint(delta)) @ cell, axis=-1)
    distance[np.diag_indices(len(numbers))] = np.inf
    ratio = float(closeness(distance[None], numbers[None])[0])
    return overlap_text(float(distance.min()), ratio)


def overlap_text(shortest: float, ratio: float) -> str:
    """What is wrong with a shortest distance in angstrom, or with the smallest share of the radii; empty if nothing."""
    if shortest < SHORTEST_DISTANCE:
        return f"two atoms are {shortest:.3f} angstrom apart"
    if ratio < SHORTEST_BOND:
        return f"two atoms are as near as {ratio:.2f} of the sum of their radii"
    return ""
