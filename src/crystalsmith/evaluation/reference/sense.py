"""Formation energies out of any sense: refused with what they are likely to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalsmith.errors import InputError

LOWEST, HIGHEST = -15.0, 5.0
"""eV/atom; no formation energy of a crystal lies below (the lowest, of fluorides, are near -4.5) or above."""

FEW = 0.01
"""Share of wild energies up to which they are left out one by one; more of them are an error of the whole file."""

TINY = 0.02
"""eV/atom; formation energies that are all nearer to zero than this are of another unit or another quantity."""

TYPICAL = 0.3
"""eV/atom; half of the compounds of any collection have more, which tells one unit from another."""

_UNITS = ((1000.0, "meV/atom"), (96.485, "kJ/mol of atoms"), (23.06, "kcal/mol of atoms"))


def wild(energies: Sequence[float], atoms: Sequence[float], where: str) -> list[int]:
    """The places of single energies (eV/atom) that cannot be formation energies.

    Args:
        energies: formation energies as they were read.
        atoms: of each composition as written, to tell energies of a whole cell.
        where: the file, for the message.

    Raises:
        InputError: if they are so many that the whole file must mean something else.
    """
    values = np.asarray(energies, dtype=float)
    outside = np.flatnonzero((values < LOWEST) | (values > HIGHEST))
    if len(outside) and len(outside) > FEW * len(values):
        shown = values[outside[0]]
        raise InputError(
            f"{len(outside)} of {len(values)} formation energies of {where} lie outside {LOWEST:g} to {HIGHEST:g} "
            f"eV/atom, for example {shown:.5g}: {_cause(values, np.asarray(atoms, dtype=float))}."
        )
    return [int(k) for k in outside]


def refuse_tiny(energies: Sequence[float], where: str) -> None:
    """Refuse formation energies of compounds that all are next to nothing.

    Raises:
        InputError: if there are three or more, not all zero.
    """
    sizes = [abs(e) for e in energies]
    if len(sizes) >= 3 and 0 < max(sizes) < TINY:
        raise InputError(
            f"All {len(sizes)} formation energies of compounds in {where} lie within {1000 * max(sizes):.3g} meV/atom "
            "of zero: they are likely energies above a hull, or of another unit; give formation energies in eV/atom."
        )


def _cause(values: np.ndarray, atoms: np.ndarray) -> str:
    inside = lambda x: bool(((x >= LOWEST) & (x <= HIGHEST)).mean() > 0.95)  # noqa: E731
    typical = float(np.median(np.abs(values)))
    if np.ptp(atoms) > 0 and inside(values / atoms) and np.corrcoef(np.abs(values), atoms)[0, 1] > 0.7:
        return "they are likely energies of a whole cell or formula unit; divide them by its number of atoms"
    if (values < LOWEST).any() and values.min() > -40:
        return (
            "they are likely total energies; give them as computed entries with their elements, or with "
            "--elemental-energies on the same scale"
        )
    for factor, unit in _UNITS:
        if inside(values / factor) and typical / factor > TYPICAL:
            return f"they are likely in {unit}; give eV/atom (divide them by {factor:g})"
    return "give formation energies in eV/atom"
