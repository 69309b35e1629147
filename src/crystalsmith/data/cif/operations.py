"""Lists of symmetry operations as text: parsed with limits, and checked to be a group."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.cif.groups import MAX_OPERATIONS, Group, named
from crystalsmith.data.rows import RowError

MAX_LENGTH = 80
"""Characters of one operation."""

ROUNDING = 2e-3
"""How far a translation may be off a multiple of 1/24 and still mean it: files write 0.333 for a third."""

_TERM = re.compile(r"([+-]?)(\d{1,2})?\*?([xyz])|([+-]?)(\d{1,6}/\d{1,6}|\d{0,6}\.\d{1,12}|\d{1,6}\.?)(?![\dxyz/.])")


@lru_cache(maxsize=512)
def group_of(texts: tuple[str, ...], primed: bool = False) -> Group:
    """The group of a list such as ``('x,y,z', '-x,-y,-z')``; operations that stand twice count once.

    Args:
        texts: the operations.
        primed: they end in the time reversal of magnetic CIF, ``,+1`` or ``,-1``, which is left out.

    Raises:
        RowError: if one is not understood, or the list is not closed.
    """
    if len(texts) > 4 * MAX_OPERATIONS:
        raise RowError("symmetry", f"{len(texts)} symmetry operations (at most {MAX_OPERATIONS} are read)")
    pairs = [parse(text, primed) for text in dict.fromkeys(texts)]
    rotations = np.array([rotation for rotation, _ in pairs])
    translations = np.array([translation for _, translation in pairs])
    return closed(rotations, translations, f"a list of {len(pairs)} operations")


def closed(rotations: NDArray[np.float64], translations: NDArray[np.float64], name: str) -> Group:
    """The group of operations, each once.

    Raises:
        RowError: if there are too many, or a product of two of them is not among them.
    """
    keys = _keys(rotations, translations)
    _, first = np.unique(keys, return_index=True)
    order = np.sort(first)
    if len(order) > MAX_OPERATIONS:
        raise RowError("symmetry", f"{len(order)} symmetry operations (at most {MAX_OPERATIONS} are read)")
    rotations, translations, known = rotations[order], translations[order] % 1.0, set(keys[order].tolist())
    if not any(
        (rotation == np.eye(3)).all() and not translation.round(4).any()
        for rotation, translation in zip(rotations, translations, strict=True)
    ):
        raise RowError("symmetry", "the list of symmetry operations lacks the identity")
    for rotation, translation in zip(rotations, translations, strict=True):
        products = _keys(rotation @ rotations, translations @ rotation.T + translation)
        if not known.issuperset(products.tolist()):
            raise RowError("symmetry", "the list of symmetry operations is incomplete: a product of two is not in it")
    return named(rotations, translations, name)


def _keys(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> NDArray[np.int64]:
    """One number for each operation, the same for the same modulo lattice translations."""
    turned = rotations.reshape(-1, 9).astype(np.int64) + 4
    shifts = np.rint(translations * 5040).astype(np.int64) % 5040
    base, key = 9, np.zeros(len(turned), dtype=np.int64)
    for column in turned.T:
        key = key * base + column
    for column in shifts.T:
        key = key * 5040 + column
    return key


def parse(text: str, primed: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation and translation of ``-y, x-y, z+1/3``.

    Raises:
        RowError: if it is no operation of a crystal.
    """
    wrong = RowError("symmetry", f"the symmetry operation '{text[:40]}' is not understood")
    plain = text.lower().replace(" ", "").replace("\t", "").strip("'\"")
    if len(plain) > MAX_LENGTH:
        raise wrong
    parts = plain.split(",")
    if primed and len(parts) == 4 and parts[3] in ("1", "+1", "-1", "m", "-m"):
        parts = parts[:3]
    if len(parts) != 3:
        raise wrong
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    for row, part in enumerate(parts):
        place = 0
        while place < len(part):
            match = _TERM.match(part, place)
            if match is None or (place and part[place] not in "+-"):
                raise wrong
            place = match.end()
            if match[3]:
                factor = -1 if match[1] == "-" else 1
                rotation[row, "xyz".index(match[3])] += factor * int(match[2] or 1)
            else:
                try:
                    shift = float(Fraction(match[5]))
                except (ValueError, ZeroDivisionError):
                    raise wrong from None
                translation[row] += -shift if match[4] == "-" else shift
    if np.abs(rotation).max() > 4 or abs(abs(np.linalg.det(rotation)) - 1.0) > 1e-6:
        raise wrong
    grid = np.rint(translation * 24) / 24
    return rotation, np.where(np.abs(translation - grid) < ROUNDING, grid, translation)
