"""Whether a crystal could be one: stricter than validity, without energies, and never a proof of the contrary.

The rules were set by known crystals: of 3,000 of MP-20, the closest pair of atoms stands at 0.67 of the sum of their
covalent radii, and all but 30, which are slabs in a vacuum, hang together by contacts of at most 1.0 angstrom beyond
the sum of their van der Waals radii (``docs/evaluation.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import symbol
from crystalsmith.engine.limits import TooSlow, at_most
from crystalsmith.evaluation.contacts import Contacts, contacts, dimensions
from crystalsmith.geometry import reduce_cell

SHORTEST_BOND = 0.5
"""Of the sum of two covalent radii (Cordero et al., Dalton Trans. 2008, 2832): atoms closer than this overlap."""

ATOMS_PER_VOLUME = (1e-5, 0.5)
"""Atoms per cubic angstrom."""

DENSITY = (0.01, 25.0)
"""g/cm3; osmium has 22.6."""

CELL = (1.0, 100.0)
"""Angstrom: the reduced cell is nowhere thinner, and none of its vectors is longer."""

REACH = 2.0
"""Angstrom beyond the sum of two van der Waals radii (Alvarez, Dalton Trans. 42, 8617, 2013) that still is a contact.

Without a dispersion correction, layers and molecules of the Materials Project stand up to 1.25 beyond it.
"""

ANIONS = 2.5
"""Pauling electronegativity of an element from which on a crystal is asked for a neutral sum of oxidation states."""

TIME_LIMIT = 10.0
"""Seconds for the oxidation states of one composition."""


@dataclass(frozen=True)
class Plausibility:
    """What speaks against a crystal.

    Attributes:
        doubts: words of a short list: ``short_bond``, ``atomic_density``, ``density``, ``cell``, ``charge``,
            ``not_condensed``.
        directions: in how many directions its contacts carry on, 0 to 3.
        parts: into how many pieces, linked by no contact, its cell falls.
        balanced: whether pymatgen finds a neutral sum of common oxidation states; None where that took too long.
    """

    doubts: tuple[str, ...]
    directions: int
    parts: int
    balanced: bool | None

    @property
    def plausible(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts

    @property
    def condensed(self) -> bool:
        """Whether it is one piece in three directions, not molecules, chains or slabs in a vacuum."""
        return "not_condensed" not in self.doubts


def plausibility(
    frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64], smact: bool | None
) -> Plausibility:
    """Look at a valid crystal.

    Args:
        frac: ``(n, 3)``.
        cell: ``(3, 3)``, rows are the lattice vectors in angstrom.
        numbers: ``(n,)`` atomic numbers.
        smact: SMACT's verdict on its charges; one tool of two that has to agree.
    """
    from crystalsmith.evaluation.facts import density

    doubts = []
    near = _near(frac, cell, numbers)
    directions, parts = 0, len(numbers)
    if near is not None:
        covalent = _covalent_radii()[numbers]
        if (near.distance < SHORTEST_BOND * (covalent[near.first] + covalent[near.second])).any():
            doubts.append("short_bond")
        directions, parts = dimensions(_touching(near, numbers), len(numbers))
    volume = abs(float(np.linalg.det(cell)))
    if not ATOMS_PER_VOLUME[0] <= len(numbers) / volume <= ATOMS_PER_VOLUME[1]:
        doubts.append("atomic_density")
    if not DENSITY[0] <= density(cell, numbers) <= DENSITY[1]:
        doubts.append("density")
    if near is None or not sane_cell(cell):
        doubts.append("cell")
    balanced = oxidation_states_sum_to_zero(numbers.tolist())
    if has_anion(numbers.tolist()) and smact is False and balanced is False:
        doubts.append("charge")
    if not (directions == 3 and parts == 1):
        doubts.append("not_condensed")
    return Plausibility(tuple(doubts), directions, parts, balanced)


def condensed(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> bool:
    """Whether all atoms hang together by contacts, in three directions: see ``REACH``."""
    near = _near(frac, cell, numbers)
    return near is not None and dimensions(_touching(near, numbers), len(numbers)) == (3, 1)


def sane_cell(cell: NDArray[np.float64]) -> bool:
    """Whether the reduced cell is neither thinner nor longer than ``CELL`` allows."""
    reduced = reduce_cell(cell)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=0)
    return bool(heights.min() >= CELL[0] and np.linalg.norm(reduced, axis=1).max() <= CELL[1])


def _near(frac: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64]) -> Contacts | None:
    """All pairs that may be in contact; None in a cell too thin to count them."""
    try:
        return contacts(frac, cell, 2.0 * float(_contact_radii()[numbers].max()) + REACH)
    except ValueError:
        return None


def _touching(near: Contacts, numbers: NDArray[np.int64]) -> Contacts:
    radii = _contact_radii()[numbers]
    return near.where(near.distance <= radii[near.first] + radii[near.second] + REACH)


@lru_cache(maxsize=1)
def _covalent_radii() -> NDArray[np.float64]:
    """``(101,)``, angstrom, by atomic number."""
    from ase.data import covalent_radii

    return np.array(covalent_radii[:101], dtype=np.float64)


@lru_cache(maxsize=1)
def _contact_radii() -> NDArray[np.float64]:
    """``(101,)``, angstrom, by atomic number; 2.4, as of most metals, where Alvarez gives none (Pm, Po to Ra, Fm)."""
    from ase.data.vdw_alvarez import vdw_radii

    known = np.full(101, np.nan)
    known[: min(101, len(vdw_radii))] = vdw_radii[:101]
    return np.where(np.isnan(known), 2.4, known)


def has_anion(numbers: Sequence[int]) -> bool:
    """Whether it holds, beside something less greedy, an element from C, S or Se up to F: those take electrons."""
    values = [_electronegativity(z) for z in set(numbers)]
    return max(values) >= ANIONS and min(values) < ANIONS


@lru_cache(maxsize=128)
def _electronegativity(z: int) -> float:
    import warnings

    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those that have none
        value = float(Element.from_Z(z).X)
    return 0.0 if np.isnan(value) else value


def oxidation_states_sum_to_zero(numbers: Sequence[int]) -> bool | None:
    """Whether pymatgen finds common oxidation states that sum to zero; None where it takes too long.

    Single elements and compounds of metals alone pass, as they do in SMACT's test.
    """
    from pymatgen.core import Composition, Element

    elements, counts = np.unique(numbers, return_counts=True)
    divisor = int(np.gcd.reduce(counts))
    if len(elements) == 1 or all(Element.from_Z(int(z)).is_metal for z in elements):
        return True
    amounts = {symbol(int(z)): int(n) // divisor for z, n in zip(elements, counts, strict=True)}
    try:
        with at_most(TIME_LIMIT):
            return len(Composition(amounts).oxi_state_guesses()) > 0
    except TooSlow:
        return None
    except Exception:  # an element without oxidation states in its tables
        return False
