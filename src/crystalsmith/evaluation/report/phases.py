"""Phase diagrams of the chemical systems that were judged: the reference's entries, the hull, and the crystals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.evaluation.conventions import METASTABLE
from crystalsmith.evaluation.judged import HULL_TOLERANCE, Judged, system_of
from crystalsmith.evaluation.reference.hull import Hull
from crystalsmith.evaluation.reference.known import Reference

SIZES = (2, 3)
"""Systems of so many elements can be drawn on paper."""

MOST_SYSTEMS = 60
"""Systems that a report holds, those with S.U.N. crystals and with most crystals first."""

MOST_ENTRIES = 150
"""Entries that are drawn of a system, the lowest above the hull first."""


def phase_diagrams(crystals: Sequence[Judged], reference: Reference | None) -> list[dict[str, Any]]:
    """What is drawn of each system; nothing without a hull.

    Returns:
        For each system ``elements``; ``entries`` and ``crystals``, rows of atomic fractions (without the first
        element's), formation energy, energy above the hull (both eV/atom) and name, for crystals their number in the
        set as well; ``edges``, pairs of entries between which the hull runs.
    """
    if reference is None or not reference.num_entries:
        return []
    placed = [
        (number, c)
        for number, c in enumerate(crystals)
        if c.formation_energy is not None and c.energy_above_hull is not None and len(system_of(c)) in SIZES
    ]
    worth: Counter[tuple[int, ...]] = Counter()
    for _, c in placed:
        worth[system_of(c)] += 1 + 1000 * (c.stable(METASTABLE) and c.new)
    chosen = [system for system, _ in sorted(worth.items(), key=lambda item: (-item[1], item[0]))[:MOST_SYSTEMS]]
    found = []
    for system in chosen:
        mine = [(number, c) for number, c in placed if system_of(c) == system]
        found.append(diagram(system, reference.hull, reference.entry_name) | {"crystals": _rows(mine, system)})
    return found


def diagram(system: tuple[int, ...], hull: Hull, name: Any) -> dict[str, Any]:
    """Entries and edges of one system of two or three elements."""
    rows = []
    for entry in hull.entries_within(system).tolist():
        shares = hull.composition(entry)
        energy = hull.energy(entry)
        above = float(hull.distance(shares, energy).energy_above_hull)
        place = [round(shares.get(z, 0.0), 4) for z in system[1:]]
        rows.append([*place, round(energy, 4), round(above, 4), name(entry)])
    rows.sort(key=lambda row: row[-2])
    rows = rows[:MOST_ENTRIES]
    stable = [k for k, row in enumerate(rows) if row[-2] <= HULL_TOLERANCE]
    points = np.array([rows[k][: len(system)] for k in stable], dtype=np.float64).reshape(-1, len(system))
    edges = [[stable[a], stable[b]] for a, b in _edges(points)]
    return {"elements": [SYMBOLS[z - 1] for z in system], "entries": rows, "edges": edges}


def _rows(members: Sequence[tuple[int, Judged]], system: tuple[int, ...]) -> list[list[Any]]:
    rows = []
    for number, c in members:
        place = [round(float((c.sample.numbers == z).mean()), 4) for z in system[1:]]
        energy, above = c.formation_energy or 0.0, c.energy_above_hull or 0.0
        rows.append([*place, round(energy, 4), round(above, 4), c.sample.id, number])
    return rows


def _edges(points: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of stable points ``(n, fractions + energy)`` between which the lower hull runs."""
    if points.shape[1] == 2:
        order = np.lexsort((points[:, 1], points[:, 0])).tolist()
        return list(pairwise(order))
    from scipy.spatial import ConvexHull, QhullError

    # A point far above the middle closes the hull from above; its faces are none of the diagram.
    top = np.array([[1 / 3, 1 / 3, 10.0]])
    try:
        faces = ConvexHull(np.concatenate([points, top])).simplices.tolist()
    except QhullError:
        return []
    lines = {(min(a, b), max(a, b)) for face in faces for a, b in zip(face, [*face[1:], face[0]], strict=True)}
    return sorted((a, b) for a, b in lines if b != len(points))
