"""Energies above the convex hull of a reference set.

The hull energy at a composition c is the least energy per atom of any mixture of reference entries with that
composition: a linear programme, minimise ``e . x`` subject to ``A x = c``, ``x >= 0``, where column j of ``A`` holds
the atomic fractions of entry j. It is solved by the simplex method from the elemental corner, which is always feasible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
System = tuple[int, ...]
"""A chemical system: atomic numbers, ascending."""

_TOLERANCE = 1e-11
"""Reduced costs (eV/atom) that count as zero: far below what energies mean, far above rounding."""

_MAX_PIVOTS = 10_000


@dataclass(frozen=True)
class HullDistance:
    """Where a crystal stands with respect to the hull.

    Attributes:
        energy_above_hull: eV/atom, negative below the hull; NaN where the hull is not known.
        hull_energy: eV/atom in the reference's formation energies; NaN where it is not known.
        missing: symbols of elements that have no elemental entry in the reference.
        entries: reference entries that could take part (those made of the crystal's elements).
        entries_with_all: how many of these hold all elements of the crystal.
        decomposition: entry number to its share of the atoms, at the hull.
    """

    energy_above_hull: float
    hull_energy: float
    missing: tuple[str, ...]
    entries: int
    entries_with_all: int
    decomposition: Mapping[int, float]


class Hull:
    """Reference entries indexed by chemical system.

    Args:
        offsets: ``(M + 1,)``; entry i owns ``elements[offsets[i]:offsets[i + 1]]``.
        elements: atomic numbers of the entries, each entry's ascending.
        amounts: amounts of these elements (atomic fractions or numbers of atoms).
        energies: ``(M,)`` formation energy per atom, eV. Any energy per atom will do that is linear in composition up
            to the same elemental references for all entries and queries.

    Raises:
        InputError: if an entry is empty or has no finite energy.
    """

    def __init__(self, offsets: Integers, elements: Integers, amounts: Floats, energies: Floats) -> None:
        counts = np.diff(offsets)
        if len(counts) != len(energies) or (len(counts) and counts.min() < 1):
            raise InputError("The hull's entries and energies do not belong together; build the reference again.")
        if not np.isfinite(energies).all():
            bad = int(np.flatnonzero(~np.isfinite(energies))[0])
            raise InputError(f"Hull entry {bad} has no finite energy; leave it out and build the reference again.")
        self._offsets, self._elements = np.asarray(offsets), np.asarray(elements, dtype=np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        amounts = np.asarray(amounts, dtype=np.float64)
        self._fractions = amounts / np.bincount(owner, amounts, len(counts))[owner]
        self._energies = np.asarray(energies, dtype=np.float64)
        self._members = by_system(self._offsets, self._elements)
        self._tables: dict[System, _Table] = {}

    @classmethod
    def from_entries(cls, compositions: Sequence[Mapping[int, float]], energies: Sequence[float]) -> Hull:
        """A hull from compositions ``{atomic number: amount}`` and formation energies per atom in eV."""
        offsets = np.concatenate([[0], np.cumsum([len(c) for c in compositions])]).astype(np.int64)
        elements = np.array([z for c in compositions for z in sorted(c)], dtype=np.int64)
        amounts = np.array([c[z] for c in compositions for z in sorted(c)], dtype=np.float64)
        return cls(offsets, elements, amounts, np.asarray(energies, dtype=np.float64))

    def __len__(self) -> int:
        return len(self._energies)

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that have an elemental entry: the ones whose crystals can be judged."""
        return frozenset(system[0] for system in self._members if len(system) == 1)

    def distance(self, composition: Mapping[int, float], energy: float) -> HullDistance:
        """The energy above the hull of one crystal.

        Args:
            composition: atomic number to amount.
            energy: formation energy per atom in eV, on the scale of the reference; NaN asks for the hull alone.
        """
        system = tuple(sorted(z for z, amount in composition.items() if amount > 0))
        missing = tuple(SYMBOLS[z - 1] for z in system if (z,) not in self._members)
        table = self._table(system)
        complete = len(self._members.get(system, ()))
        if missing or not system:
            return HullDistance(np.nan, np.nan, missing, len(table.entries), complete, {})
        target = np.array([composition[z] for z in system], dtype=np.float64)
        hull, basis, shares = _lowest_mixture(table.fractions, table.energies, target / target.sum())
        mixture = {int(table.entries[j]): float(x) for j, x in zip(basis, shares, strict=True) if x > 1e-9}
        return HullDistance(float(energy) - hull, hull, (), len(table.entries), complete, mixture)

    def _table(self, system: System) -> _Table:
        """The entries within a chemical system, elements first; kept, since crystals often share one."""
        if system not in self._tables:
            if len(self._tables) > 2000:
                self._tables.clear()
            self._tables[system] = self._build(system)
        return self._tables[system]

    def entries_of(self, system: System) -> Integers:
        """The entries that hold exactly the elements of a chemical system (sorted atomic numbers)."""
        return self._members.get(system, np.zeros(0, dtype=np.int64))

    def entries_within(self, system: System) -> Integers:
        """The entries within a chemical system, its sub-systems included, elements first."""
        return rows_within(self._members, system)

    def systems_within(self, system: System) -> list[System]:
        """The chemical systems within one that have entries, itself and its sub-systems, from the smallest on."""
        return _systems_within(self._members, system)

    def composition(self, entry: int) -> dict[int, float]:
        """Atomic number to atomic fraction of an entry."""
        part = slice(self._offsets[entry], self._offsets[entry + 1])
        return dict(zip(self._elements[part].tolist(), self._fractions[part].tolist(), strict=True))

    def energy(self, entry: int) -> float:
        """The formation energy of an entry, eV/atom."""
        return float(self._energies[entry])

    def _build(self, system: System) -> _Table:
        entries = self.entries_within(system)
        fractions = np.zeros((len(system), len(entries)))
        column = {z: k for k, z in enumerate(system)}
        for j, entry in enumerate(entries):
            part = slice(self._offsets[entry], self._offsets[entry + 1])
            fractions[[column[int(z)] for z in self._elements[part]], j] = self._fractions[part]
        return _Table(entries, fractions, self._energies[entries])


@dataclass(frozen=True)
class _Table:
    entries: Integers  # (m,)
    fractions: Floats  # (elements, m)
    energies: Floats  # (m,)


def by_system(offsets: Integers, elements: Integers) -> dict[System, Integers]:
    """Row numbers of each chemical system; row i owns the ascending ``elements[offsets[i]:offsets[i + 1]]``."""
    values = elements.tolist()
    bounds = offsets.tolist()
    groups: dict[System, list[int]] = {}
    for entry in range(len(bounds) - 1):
        groups.setdefault(tuple(values[bounds[entry] : bounds[entry + 1]]), []).append(entry)
    return {system: np.array(rows, dtype=np.int64) for system, rows in groups.items()}


def rows_within(members: Mapping[System, Integers], system: System) -> Integers:
    """The rows of a chemical system and of all its sub-systems, from the smallest on."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *(members[s] for s in _systems_within(members, system))])


def _systems_within(members: Mapping[System, Integers], system: System) -> list[System]:
    """Those of the chemical systems that are one or a sub-system of it, from the smallest on."""
    if 2 ** len(system) <= 2 * len(members):
        subsets = (s for k in range(1, len(system) + 1) for s in combinations(system, k))
        return [s for s in subsets if s in members]
    inside = set(system)
    return [s for s in sorted(members, key=len) if inside.issuperset(s)]


def _lowest_mixture(fractions: Floats, energies: Floats, target: Floats) -> tuple[float, Integers, Floats]:
    """Solve the programme by the revised simplex method.

    Args:
        fractions: ``(k, m)``; among the columns is each unit vector.
        energies: ``(m,)``.
        target: ``(k,)``, positive, adding up to 1.

    Returns:
        The least energy, the ``(k,)`` columns of an optimal basis and their shares ``(k,)``.
    """
    k = len(target)
    basis = np.empty(k, dtype=np.int64)
    for row in range(k):  # the lowest form of each element
        pure = np.flatnonzero(fractions[row] > 1 - 1e-12)
        basis[row] = pure[np.argmin(energies[pure])]
    for pivot in range(_MAX_PIVOTS):
        inverse = np.linalg.inv(fractions[:, basis])
        shares = inverse @ target
        reduced = energies - (energies[basis] @ inverse) @ fractions
        reduced[basis] = 0.0
        # The steepest column first; from a point on, the first improving one (Bland), which cannot go round in circles.
        enter = int(np.argmin(reduced)) if pivot < 50 * k else int(np.argmax(reduced < -_TOLERANCE))
        if reduced[enter] >= -_TOLERANCE:
            break
        direction = inverse @ fractions[:, enter]
        rising = direction > 1e-12
        ratios = np.where(rising, np.maximum(shares, 0.0) / np.where(rising, direction, 1.0), np.inf)
        ties = np.flatnonzero(ratios <= ratios.min() + 1e-14)
        leave = ties[np.argmin(basis[ties])]
        basis[leave] = enter
    shares = np.maximum(shares, 0.0)
    return float(energies[basis] @ shares), basis, shares


def system_name(system: System) -> str:
    """``Li-O`` for (3, 8)."""
    return "-".join(SYMBOLS[z - 1] for z in system)
