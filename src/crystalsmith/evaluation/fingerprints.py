"""How alike two crystals are, as a number: average minimum distances of the atoms, and shares of the elements.

Average minimum distances (Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529, 2022): entry k is the mean over
the atoms of the distance to the k-th nearest atom. They do not depend on the choice of the cell and change continuously
with the atoms, and they do not see which element an atom is; the composition does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalsmith.evaluation.contacts import contacts
from crystalsmith.evaluation.matching import Arrays

NEIGHBORS = 48
"""Nearest atoms that are looked at: three to four shells of most crystals."""


def average_minimum_distances(
    frac: NDArray[np.float64], cell: NDArray[np.float64], neighbors: int = NEIGHBORS
) -> NDArray[np.float64]:
    """``(neighbors,)``, angstrom, ascending.

    Args:
        frac: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.

    Raises:
        ValueError: if the cell is too thin to count its images.
    """
    num_atoms = len(frac)
    volume = abs(float(np.linalg.det(cell)))
    # A ball that holds so many atoms on average; where some atom sees too few, a larger one.
    cutoff = 1.2 * (3 * neighbors * volume / num_atoms / (4 * np.pi)) ** (1 / 3)
    while True:
        found = contacts(frac, cell, cutoff)
        atom = np.concatenate([found.first, found.second])
        distance = np.concatenate([found.distance, found.distance])
        if np.bincount(atom, minlength=num_atoms).min() >= neighbors:
            break
        cutoff *= 1.25
    order = np.lexsort((distance, atom))
    starts = np.searchsorted(atom[order], np.arange(num_atoms))
    rows = starts[:, None] + np.arange(neighbors)
    return np.asarray(distance[order][rows].mean(0), dtype=np.float64)


@dataclass(frozen=True)
class Fingerprints:
    """Of C crystals.

    Attributes:
        distances: ``(C, k)`` average minimum distances in angstrom.
        shares: ``(C, 101)`` atomic fractions by atomic number.
    """

    distances: NDArray[np.float64]
    shares: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.shares)

    def composition_gaps(self, other: Fingerprints) -> NDArray[np.float64]:
        """``(C, D)``: the share of atoms that differs in element, 0 for equal formulas, 1 for none in common."""
        rows = [np.minimum(row, other.shares).sum(1) for row in self.shares]
        return 1.0 - np.reshape(rows, (len(self), len(other)))

    def structure_gaps(self, other: Fingerprints) -> NDArray[np.float64]:
        """``(C, D)``: mean difference of the average minimum distances in angstrom."""
        rows = [np.abs(row - other.distances).mean(1) for row in self.distances]
        return np.reshape(rows, (len(self), len(other)))


def fingerprints(crystals: Sequence[Arrays]) -> tuple[Fingerprints, list[int]]:
    """Of the crystals that have one.

    Returns:
        The fingerprints, and which crystals they are of.
    """
    distances, shares, places = [], [], []
    for place, (frac, cell, numbers) in enumerate(crystals):
        try:
            distances.append(average_minimum_distances(frac, cell))
        except (ValueError, np.linalg.LinAlgError):
            continue
        shares.append(np.bincount(numbers, minlength=101)[:101] / len(numbers))
        places.append(place)
    shapes = (len(places), NEIGHBORS), (len(places), 101)
    return Fingerprints(np.reshape(distances, shapes[0]), np.reshape(shares, shapes[1])), places
