"""Crystals from memory: pymatgen structures, ASE atoms, or plain arrays, wherever a file is taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Fractional coordinates ``(n, 3)``, cell ``(3, 3)`` in angstrom (rows are the vectors), atomic numbers ``(n,)``."""

StructureLike: TypeAlias = "Structure | Atoms | Sequence[Any]"
"""A pymatgen ``Structure``, an ASE ``Atoms``, or :data:`Arrays`."""


def is_structure(thing: object) -> bool:
    """Whether this is one crystal in memory, by pymatgen or ASE."""
    return hasattr(thing, "lattice") or hasattr(thing, "get_scaled_positions")


def crystals_of(things: Any) -> list[Any]:
    """The crystals of one crystal, or of anything that holds several in order.

    Raises:
        InputError: if it is neither, or empty.
    """
    if is_structure(things):
        return [things]
    if isinstance(things, Iterable) and not isinstance(things, (str, bytes)):
        found = list(things)
        if found and all(is_structure(one) or _is_arrays(one) for one in found):
            return found
    raise InputError(
        f"{type(things).__name__} holds no crystals; give a pymatgen structure, ASE atoms, several of them in a list, "
        "or a file."
    )


def arrays_of(thing: Any) -> Arrays:
    """One crystal as arrays, as it is: not wrapped, not reduced.

    Raises:
        InputError: if it has no cell of three dimensions, a partly occupied site or an element beyond Fm.
    """
    if hasattr(thing, "lattice"):
        if not thing.is_ordered:
            raise InputError("A structure has partly occupied sites; give an ordered one.")
        frac, cell, numbers = thing.frac_coords, thing.lattice.matrix, thing.atomic_numbers
    elif hasattr(thing, "get_scaled_positions"):
        frac, cell, numbers = thing.get_scaled_positions(wrap=False), thing.cell.array, thing.numbers
    elif _is_arrays(thing):
        frac, cell, numbers = thing
    else:
        raise InputError(f"{type(thing).__name__} is no crystal; give a pymatgen structure or ASE atoms.")
    arrays = np.array(frac, float).reshape(-1, 3), np.array(cell, float), np.array(numbers, np.int64)
    lengths = np.linalg.norm(arrays[1], axis=1)
    if not np.isfinite(arrays[0]).all() or not abs(np.linalg.det(arrays[1])) > 1e-6 * lengths.prod():
        raise InputError("A crystal has no cell of three dimensions or a coordinate that is not finite; mend it.")
    if not len(arrays[2]) or arrays[2].min() < 1 or arrays[2].max() > len(SYMBOLS):
        raise InputError("A crystal has no atoms, or an element beyond Fm, which is not known here.")
    return arrays


def _is_arrays(thing: Any) -> bool:
    return isinstance(thing, (tuple, list)) and len(thing) == 3 and np.shape(thing[1]) == (3, 3)
