"""Distances inside one crystal, right for any shape of the cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_VOLUME_PER_ATOM = 2000.0
"""Cubic angstrom; beyond this a cell holds a molecule or nothing, and no crystal (known ones have less than 300)."""

_MAX_IMAGES = 40
"""Images per direction beyond which a cell counts as collapsed; a reduced cell needs one or two."""


def shortest_distance(frac_coords: Array, cell: Array) -> float:
    """The shortest distance between two atoms of the infinite crystal, an atom and its own images included.

    The cell is reduced first, then every image is looked at that can lie within the shortest lattice vector, so thin
    and skewed cells are treated as exactly as a cube.

    Args:
        frac_coords: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.

    Returns:
        The distance in angstrom; 0 for a cell that spans no volume.
    """
    reduced = reduce_cell(cell)
    volume = abs(np.linalg.det(reduced))
    lengths = np.linalg.norm(reduced, axis=1)
    if not volume > 1e-9 * lengths.prod():
        return 0.0
    heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=0)

    bound = lengths.min()
    # Separations lie in [-1/2, 1/2], so image k can come within the bound only if |k| <= bound / height + 1/2.
    images = np.floor(bound / heights + 0.5 + 1e-9).astype(int)
    if images.max() > _MAX_IMAGES:
        return 0.0
    axes = [np.arange(-k, k + 1) for k in images]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ reduced

    frac = frac_coords @ cell @ np.linalg.inv(reduced)
    first, second = np.triu_indices(len(frac), k=1)
    separation = frac[first] - frac[second]
    separation = (separation - np.round(separation)) @ reduced
    shortest = bound
    # Pairs in blocks, so that a large cell stays within a few megabytes.
    for start in range(0, len(separation), 4096):
        block = separation[start : start + 4096, None, :] + shifts[None]
        shortest = min(shortest, float(np.sqrt((block**2).sum(-1).min())))
    return float(shortest)


def reduce_cell(cell: Array) -> Array:
    """Short, nearly orthogonal vectors of the same lattice (pairwise reduction, then the two space diagonals).

    Args:
        cell: ``(3, 3)``, rows are the lattice vectors.

    Returns:
        ``(3, 3)``; its volume is that of the input.
    """
    basis = np.array(cell, dtype=np.float64)
    for _ in range(200):
        before = (basis**2).sum()
        for i in range(3):
            for j in range(3):
                length = basis[j] @ basis[j]
                if i != j and length > 0:
                    basis[i] -= np.round(basis[i] @ basis[j] / length) * basis[j]
        _shorten_longest(basis)
        if (basis**2).sum() >= before * (1 - 1e-12):
            break
    return basis


def _shorten_longest(basis: Array) -> None:
    """Replace the longest vector by its sum with plus or minus the others, when that is shorter."""
    k = int(np.argmax((basis**2).sum(1)))
    a, b = (basis[i] for i in range(3) if i != k)
    options = [basis[k] + s * a + t * b for s in (-1, 1) for t in (-1, 1)]
    best = min(options, key=lambda v: float(v @ v))
    if best @ best < basis[k] @ basis[k] * (1 - 1e-12):
        basis[k] = best
