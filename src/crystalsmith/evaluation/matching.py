"""Which crystals are the same: among themselves (unique) and in a reference set (novel).

The verdicts are those of pymatgen's ``StructureMatcher`` with the field's settings. They are reached quickly by rules
that cannot change them: crystals with different reduced formulas, or with different numbers of atoms in their primitive
cells, are never the same, and each crystal is reduced once instead of once per pair.

The disordered matcher looks at the same pairs with elements that may substitute for one another made equal, so that two
decorations of one alloy count as one material. Within a pair the reduced formulas agree, so the groups of elements and
their mean occupancies agree as well, and a site with a group's mean occupancy may as well carry one element of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.engine.limits import TooSlow, at_most

if TYPE_CHECKING:
    from pymatgen.core import Structure

Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""``frac_coords (n, 3)``, ``cell (3, 3)`` in angstrom, ``atomic_numbers (n,)``."""

SETTINGS = {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0, "primitive_cell": True, "scale": True}
"""Settings of the matcher that the field judges uniqueness and novelty with."""

TIME_LIMIT = 30.0
"""Seconds for reducing one crystal or comparing two; what takes longer is recorded as not matched."""

MAX_RADIUS_DIFFERENCE = 0.3
"""Elements may substitute for one another if their atomic radii differ by no more than this share of the larger."""

MAX_ELECTRONEGATIVITY_DIFFERENCE = 1.0
"""... and their Pauling electronegativities by no more than this."""


class Candidate:
    """A crystal with what the matchers need of it, each computed when first asked for and kept.

    Attributes:
        name: the crystal's id.
        arrays: fractional coordinates, cell and atomic numbers.
        problem: why the crystal cannot be reduced or compared; empty as long as it can.
    """

    def __init__(self, name: str, arrays: Arrays) -> None:
        self.name, self.arrays, self.problem = name, arrays, ""
        self._reduced: dict[bool, Structure | None] = {}

    @property
    def formula(self) -> tuple[tuple[int, int], ...]:
        """The reduced formula, see :func:`formula_key`."""
        return formula_key(self.arrays[2])

    def reduced(self, disordered: bool) -> Structure | None:
        """The primitive Niggli cell, with substitutable elements made equal for the disordered matcher.

        None where pymatgen's reduction gives up, which makes the crystal match nothing.
        """
        if disordered and not self.can_be_disordered:
            disordered = False
        if disordered not in self._reduced:
            frac, cell, numbers = self.arrays
            try:
                with at_most(TIME_LIMIT):
                    self._reduced[disordered] = _reduce(frac, cell, merged(numbers) if disordered else numbers)
            except Exception as error:  # it gives up in ways of its own
                self._reduced[disordered] = None
                self.problem = f"{type(error).__name__}: {error}"[:200]
        return self._reduced[disordered]

    @property
    def can_be_disordered(self) -> bool:
        """Whether two of its elements may substitute for one another."""
        return len(substitution_groups(frozenset(self.arrays[2].tolist()))) < len(set(self.arrays[2].tolist()))


def formula_key(numbers: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """The reduced formula as sorted pairs of atomic number and count, the counts without a common divisor."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = int(np.gcd.reduce(counts))
    return tuple((int(z), int(n) // divisor) for z, n in zip(elements, counts, strict=True))


def matches(one: Candidate, other: Candidate, disordered: bool = False) -> bool:
    """Whether two crystals are the same; with ``disordered``, whether they are decorations of the same alloy at least.

    The disordered question presumes that the ordered matcher found no match: it looks at the merged crystals alone.

    Raises:
        TooSlow: if the comparison takes longer than ``TIME_LIMIT``.
    """
    if one.formula != other.formula or (disordered and not one.can_be_disordered):
        return False
    first, second = one.reduced(disordered), other.reduced(disordered)
    if first is None or second is None or len(first) != len(second):
        return False
    with at_most(TIME_LIMIT):
        return bool(_matcher().fit(first, second, skip_structure_reduction=True))


def _same(one: Candidate, other: Candidate, judged: Candidate, disordered: bool = False) -> bool:
    """Whether two crystals are the same; when that takes too long, the one that is judged is given up."""
    if judged.problem:
        return False
    try:
        return matches(one, other, disordered)
    except TooSlow as slow:
        judged.problem = f"comparing {one.name} and {other.name} {slow}"
        return False


def first_match(candidate: Candidate, others: Iterable[Candidate], disordered: bool = False) -> str | None:
    """The name of the first of ``others`` that is the same crystal, in their order; None where there is none."""
    return next((other.name for other in others if _same(candidate, other, candidate, disordered)), None)


def group(candidates: Sequence[Candidate], disordered: bool = False) -> list[int]:
    """For each crystal the index of the first of its group, which is its own for the unique ones.

    A crystal joins the first earlier group whose first member it matches, as in ``StructureMatcher.group_structures``.
    The disordered grouping joins what either matcher joins.
    """
    leaders: dict[Any, list[int]] = {}
    found = []
    for index, candidate in enumerate(candidates):
        peers = leaders.setdefault(candidate.formula, [])
        same = (p for p in peers if _same(candidates[p], candidate, candidate))
        leader = next(same, None)
        if leader is None and disordered:
            leader = next((p for p in peers if _same(candidates[p], candidate, candidate, disordered=True)), None)
        if leader is None:
            peers.append(index)
        found.append(index if leader is None else leader)
    return found


@lru_cache(maxsize=4096)
def substitution_groups(elements: frozenset[int]) -> tuple[frozenset[int], ...]:
    """The elements of a crystal in groups whose members may substitute for one another, linked pair by pair.

    Two elements are linked if their atomic radii (Slater) and electronegativities (Pauling) are close enough; an
    element without either is linked to none.
    """
    groups = [frozenset({z}) for z in sorted(elements)]
    for a, b in combinations(sorted(elements), 2):
        if _substitutable(a, b):
            joined = frozenset().union(*(g for g in groups if a in g or b in g))
            groups = [g for g in groups if not g & joined] + [joined]
    return tuple(sorted(groups, key=min))


@lru_cache(maxsize=8192)
def _substitutable(a: int, b: int) -> bool:
    import warnings

    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns about elements without electronegativity
        one, other = Element.from_Z(a), Element.from_Z(b)
        radii = [x.atomic_radius for x in (one, other)]
        negativities = [x.X for x in (one, other)]
    if any(r is None for r in radii) or any(x is None or np.isnan(x) for x in negativities):
        return False
    r1, r2 = (float(r) for r in radii)
    far = abs(negativities[0] - negativities[1]) > MAX_ELECTRONEGATIVITY_DIFFERENCE
    return not far and abs(r1 - r2) <= MAX_RADIUS_DIFFERENCE * max(r1, r2)


def merged(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Atomic numbers with each element replaced by the first of its substitution group."""
    replaced = np.array(numbers, dtype=np.int64)
    for members in substitution_groups(frozenset(replaced.tolist())):
        replaced[np.isin(replaced, list(members))] = min(members)
    return replaced


def rms_displacement(one: Arrays, other: Arrays) -> float | None:
    """Root mean square displacement of the atoms between two crystals in angstrom; None where they do not match.

    pymatgen's matcher with wide tolerances (ltol 0.5, stol 0.5, angle 10 degrees), without scaling and with supercells.
    Its distance is in units of the cube root of the volume per atom and is multiplied by the mean of the two. A pair
    that takes longer than ``TIME_LIMIT`` counts as not matching.
    """
    matcher = _matcher_class()(ltol=0.5, stol=0.5, angle_tol=10.0, scale=False, attempt_supercell=True)
    try:
        with at_most(TIME_LIMIT):
            found = matcher.get_rms_dist(_structure(*one), _structure(*other))
    except TooSlow:
        found = None
    if found is None:
        return None
    volumes = [abs(float(np.linalg.det(cell))) / len(numbers) for _, cell, numbers in (one, other)]
    return float(found[0]) * (sum(volumes) / 2) ** (1 / 3)


@lru_cache(maxsize=1)
def _matcher() -> Any:
    return _matcher_class()(attempt_supercell=False, **SETTINGS)


def _matcher_class() -> Any:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher


def _structure(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> Structure:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(cell), [int(z) for z in numbers], frac)


def _reduce(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> Structure:
    # The very steps that the matcher would take for every pair again.
    return _structure(frac, cell, numbers).get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
