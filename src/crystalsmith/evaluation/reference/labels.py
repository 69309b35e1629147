"""Energies above a reference's hull for whole data sets: a label that training can be given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crystalsmith.evaluation.reference.known import Reference


def energies_above_hull(
    reference: Reference | Path | str,
    atomic_numbers: NDArray[np.integer],
    num_atoms: NDArray[np.integer],
    formation_energies: NDArray[np.floating],
) -> NDArray[np.float64]:
    """``(C,)`` eV/atom above the hull of a reference; NaN without a formation energy or an element of the reference.

    The formation energies must be on the scale of the reference (its elemental energies and corrections); a table of
    energies does not tell, so that is the caller's to know.

    Args:
        reference: with hull entries.
        atomic_numbers: ``(N,)`` of all crystals in a row.
        num_atoms: ``(C,)``.
        formation_energies: ``(C,)``, eV/atom.

    Raises:
        InputError: if the reference holds no energies.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hull = (reference if isinstance(reference, Reference) else Reference.open(reference)).hull
    ends = np.cumsum(num_atoms)
    found = np.full(len(num_atoms), np.nan)
    known = np.flatnonzero(np.isfinite(formation_energies))
    for k in track(known, "Energies above the hull", disable=len(known) < 1000, transient=True, console=console):
        elements, counts = np.unique(atomic_numbers[ends[k] - num_atoms[k] : ends[k]], return_counts=True)
        composition = {int(z): float(n) for z, n in zip(elements, counts, strict=True)}
        found[k] = hull.distance(composition, float(formation_energies[k])).energy_above_hull
    return found
