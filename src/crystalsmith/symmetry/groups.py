"""Space groups and the symmetrised cell of one crystal, by moyopy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.cells import niggli_reduce

Array = NDArray[np.float64]

LONGEST_ASPECT = 50.0
"""Longest over shortest reduced lattice vector of a cell that is searched.

Of longer needles and flakes the lattice maps onto itself under shears within the tolerance, whose group is infinite;
moyo (0.21) then takes all memory there is. Known crystals of up to 20 atoms reach 15.
"""


@dataclass(frozen=True)
class SymmetricCell:
    """A conventional standard cell whose symmetry is exact.

    Attributes:
        number: space group, 1 to 230.
        symbol: Hermann-Mauguin symbol of the setting, as in ``F m -3 m``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        operations: symmetry operations of this cell as triplets of text such as ``-x, y+1/2, -z``.
        sites: one ``(atomic_number, frac_coords (3,), multiplicity)`` per orbit.
    """

    number: int
    symbol: str
    cell: Array
    operations: tuple[str, ...]
    sites: tuple[tuple[int, Array, int], ...]


def space_group(frac_coords: Array, cell: Array, numbers: NDArray[np.int64], symprec: float) -> int | None:
    """The space group number, or None where the search fails.

    Args:
        frac_coords: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        numbers: ``(n,)`` atomic numbers.
        symprec: tolerance in angstrom.
    """
    found = search(frac_coords, cell, numbers, symprec)
    return None if found is None else int(found.number)


def space_group_symbol(number: int | None) -> str | None:
    """The short Hermann-Mauguin symbol of a space group, as ``Fm-3m`` or ``P2_1/c``; None of None."""
    from moyopy import SpaceGroupType

    return None if number is None else SpaceGroupType(number).hm_short.replace(" ", "")


def symmetrise(frac_coords: Array, cell: Array, numbers: NDArray[np.int64], symprec: float) -> SymmetricCell | None:
    """The conventional standard cell, atoms moved onto their symmetric places; None where no exact one is found.

    The result is checked: its operations, applied to one atom of each orbit, must give every atom of the cell once.
    """
    found = search(frac_coords, cell, numbers, symprec)
    if found is None or found.number < 2:
        return None
    standard = found.std_cell
    basis = np.array(standard.basis)
    places = np.array(standard.positions) % 1.0
    species = np.array(standard.numbers)
    # Searched again, the standard cell yields the operations and the orbits in its own basis.
    exact = search(places, basis, species, symprec=1e-4)
    if exact is None or exact.number != found.number:
        return None
    rotations, translations = np.array(exact.operations.rotations), np.array(exact.operations.translations)
    orbits = np.array(exact.orbits)
    sites = tuple((int(species[k]), places[k], int((orbits == k).sum())) for k in np.unique(orbits))
    if not _complete(sites, rotations, translations, places, basis):
        return None
    from moyopy import HallSymbolEntry

    return SymmetricCell(
        number=int(exact.number),
        symbol=HallSymbolEntry(exact.hall_number).hm_short,
        cell=basis,
        operations=tuple(_xyz(r, t) for r, t in zip(rotations, translations, strict=True)),
        sites=sites,
    )


def centring(frac_coords: Array, cell: Array, numbers: NDArray[np.int64], symprec: float) -> NDArray[np.int64] | None:
    """``(3, 3)``: times the rows of the cell they are the lattice vectors of its conventional cell.

    None where the conventional cell is no larger than this one, is not built of whole ones of it, or is not found.
    """
    found = search(frac_coords, cell, numbers, symprec)
    if found is None:
        return None
    steps = np.array(found.std_linear).T
    whole = np.rint(steps).astype(np.int64)
    if np.abs(steps - whole).max() > 1e-3 or round(float(np.linalg.det(whole))) < 2:
        return None
    return whole


def search(frac_coords: Array, cell: Array, numbers: NDArray[np.int64], symprec: float) -> Any:
    """The moyopy data set of a crystal, or None where the search fails or the cell is a needle."""
    import moyopy

    if _is_needle(cell):
        return None
    # It warns about cells that are not primitive, whose operations are read from the standard cell here.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    try:
        standard = moyopy.Cell(cell.tolist(), frac_coords.tolist(), [int(z) for z in numbers])
        return moyopy.MoyoDataset(standard, symprec=symprec)
    except Exception:  # moyopy raises plain ValueErrors of many kinds; no symmetry found is an ordinary answer
        return None


def _is_needle(cell: Array) -> bool:
    lengths = np.linalg.norm(cell, axis=-1)
    if lengths.max() <= LONGEST_ASPECT:  # no reduced vector is longer, and atoms are not closer than an angstrom
        return False
    if not np.isfinite(lengths).all() or abs(np.linalg.det(cell)) < 1e-6:
        return True
    reduced = np.linalg.norm(niggli_reduce(cell[None])[0][0], axis=-1)
    return bool(reduced.max() > LONGEST_ASPECT * reduced.min())


def _complete(
    sites: tuple[tuple[int, Array, int], ...], rotations: Array, translations: Array, places: Array, cell: Array
) -> bool:
    """Whether the operations turn the sites into exactly the atoms of the cell (to a thousandth of an angstrom)."""
    if sum(multiplicity for _, _, multiplicity in sites) != len(places):
        return False
    for _, place, multiplicity in sites:
        images = rotations @ place + translations
        offsets = images[:, None, :] - places[None]
        distances = np.linalg.norm((offsets - np.round(offsets)) @ cell, axis=-1)
        hit = distances < 1e-3
        if not hit.any(axis=1).all() or int(hit.any(axis=0).sum()) != multiplicity:
            return False
    return True


def _xyz(rotation: NDArray[np.int64], translation: Array) -> str:
    """One operation in the notation of CIF, as in ``-x, y+1/2, -z``."""
    return ", ".join(_component(row, shift) for row, shift in zip(rotation, translation, strict=True))


def _component(row: NDArray[np.int64], shift: float) -> str:
    text = ""
    for factor, axis in zip(row.tolist(), "xyz", strict=True):
        if factor:
            sign = "-" if factor < 0 else "+" if text else ""
            text += f"{sign}{'' if abs(factor) == 1 else abs(factor)}{axis}"
    twelfths = round(float(shift) * 12) % 12
    if twelfths:
        divisor = int(np.gcd(twelfths, 12))
        text += f"+{twelfths // divisor}/{12 // divisor}"
    return text
