"""Atoms in contact across periodic images: every distance up to a cut-off, and in how many directions contacts join."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalsmith.geometry import reduce_cell

MAX_IMAGES = 200_000
"""Images of one pair of atoms beyond which a cell counts as collapsed."""


@dataclass(frozen=True)
class Contacts:
    """Pairs of atoms of the infinite crystal, each once: from an atom of the cell to an atom of any image.

    Attributes:
        first, second: ``(P,)`` numbers of the two atoms.
        image: ``(P, 3)`` lattice translations of the second.
        distance: ``(P,)`` angstrom.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    image: NDArray[np.int64]
    distance: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Contacts:
        """The chosen pairs alone."""
        return Contacts(self.first[chosen], self.second[chosen], self.image[chosen], self.distance[chosen])


def contacts(frac: NDArray[np.float64], cell: NDArray[np.float64], cutoff: float) -> Contacts:
    """All pairs within a cut-off.

    The cell is reduced first and every image is looked at that can come within the cut-off, so thin and skewed cells
    are treated as exactly as a cube. Translations are in units of the reduced cell.

    Args:
        frac: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        cutoff: angstrom.

    Raises:
        ValueError: if the cell is so thin that the images cannot be counted.
    """
    reduced = reduce_cell(cell)
    places = frac @ cell @ np.linalg.inv(reduced)
    places = places - np.floor(places)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=0)
    reach = np.floor(cutoff / heights + 1.0 - 1e-9).astype(int)  # differences of places lie within (-1, 1)
    if np.prod(2.0 * reach + 1.0) > MAX_IMAGES:
        raise ValueError("the cell is too thin")
    axes = [np.arange(-k, k + 1) for k in reach]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    moves = shifts @ reduced
    # Of a pair and its reverse one is kept; of an atom's own images, half of space.
    half = (shifts * np.array([1_000_000, 1_000, 1])).sum(1) > 0
    parts = []
    for a in range(len(places)):
        offsets = (places[a:] - places[a]) @ reduced
        squares = ((offsets[:, None, :] + moves[None]) ** 2).sum(-1)
        near = squares <= cutoff**2
        near[0] &= half
        b, image = near.nonzero()
        parts.append((np.full(len(b), a), b + a, shifts[image], np.sqrt(squares[b, image])))
    columns = [np.concatenate([part[k] for part in parts]) for k in range(4)]
    return Contacts(*columns)


def dimensions(found: Contacts, num_atoms: int) -> tuple[int, int]:
    """In how many directions the contacts carry on, and into how many separate parts the cell falls.

    Parts that are linked are walked through with the translation picked up on the way; a loop that ends on another
    image of the same atom is a direction. The directions are those of all parts together: two sets of chains that cross
    without touching count as two.

    Returns:
        Directions, 0 to 3, of the whole; number of parts.
    """
    links: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in range(num_atoms)]
    for a, b, image in zip(found.first.tolist(), found.second.tolist(), found.image, strict=True):
        links[a].append((b, image))
        links[b].append((a, -image))
    place: dict[int, NDArray[np.int64]] = {}
    loops: list[NDArray[np.int64]] = []
    parts = 0
    for start in range(num_atoms):
        if start in place:
            continue
        parts += 1
        place[start] = np.zeros(3, dtype=np.int64)
        waiting = [start]
        while waiting:
            atom = waiting.pop()
            for other, image in links[atom]:
                reached = place[atom] + image
                if other not in place:
                    place[other] = reached
                    waiting.append(other)
                elif (loop := reached - place[other]).any():
                    loops.append(loop)
    if not loops:
        return 0, parts
    return int(np.linalg.matrix_rank(np.unique(np.stack(loops), axis=0))), parts
