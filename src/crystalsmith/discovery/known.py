"""Known crystals as starts: which elements may take one another's place, and how large the cell then is.

Both are read off the reference. Two elements are exchangeable as often as there are known crystals that differ in
nothing else: the same space group, the same other elements in the same amounts (the statistics of replaceability of
Glawe, Sanna, Gross and Marques, New J. Phys. 18, 093011, 2016). The volume of a cell is a sum of volumes of its
elements, fitted to all known crystals; the cell of an exchanged crystal grows by the ratio of the two sums.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.reference.known import Reference

Floats = NDArray[np.float64]

NEAR_HULL = 0.05
"""eV/atom above the hull up to which a known crystal is a parent, where its energy is known."""

TRIES = 200
"""Parents that are looked at for one start; one is drawn by how often its exchanges are seen among known crystals."""

RARE = 1e-4
"""Probability given to an exchange that no two known crystals show, where the rules leave no other."""

MOST_PEERS = 60
"""Crystals of one pattern that are counted pair by pair."""


@dataclass(frozen=True)
class Start:
    """A known crystal with elements exchanged.

    Attributes:
        parent: its id in the reference.
        exchange: symbols, old to new.
        arrays: the crystal after the exchange, its cell scaled.
    """

    parent: str
    exchange: dict[str, str]
    arrays: Arrays


class Known:
    """The known crystals of a reference as parents.

    Args:
        space_groups: only parents of these space groups (0.1 angstrom); empty for any.
    """

    def __init__(self, reference: Reference, space_groups: Collection[int] = ()) -> None:
        self.reference = reference
        self._sizes = np.asarray(reference.num_atoms)
        self._kinds = np.asarray(reference.num_elements)
        self._groups = np.asarray(reference.space_groups)
        self._wanted = np.isin(self._groups, list(space_groups)) if space_groups else np.ones(len(self._sizes), bool)

    @cached_property
    def _counts(self) -> Floats:
        """``(C, 101)`` atoms of each atomic number in each structure."""
        counts = np.zeros((len(self._sizes), 101), dtype=np.float64)
        for row in range(len(self._sizes)):
            numbers = self.reference.structure(row)[1][2]
            np.add.at(counts[row], numbers, 1.0)
        return counts

    @cached_property
    def exchanges(self) -> Floats:
        """``(101, 101)``: the probability that an element gives its place to another; rows add up to 1, or 0."""
        peers: dict[tuple[object, ...], set[int]] = {}
        for row, counts in enumerate(self._counts):
            if not self._groups[row]:
                continue
            here = np.flatnonzero(counts)
            divisor = int(np.gcd.reduce(counts[here].astype(np.int64)))
            formula = [(int(z), int(counts[z]) // divisor) for z in here]
            for k, (z, n) in enumerate(formula):
                key = (int(self._groups[row]), int(self._sizes[row]), n, *formula[:k], *formula[k + 1 :])
                peers.setdefault(key, set()).add(z)
        pairs = np.zeros((101, 101))
        for found in peers.values():
            members = sorted(found)[:MOST_PEERS]
            for a in members:
                for b in members:
                    if a != b:
                        pairs[a, b] += 1.0
        total = pairs.sum(1, keepdims=True)
        return np.divide(pairs, total, out=np.zeros_like(pairs), where=total > 0)

    @cached_property
    def volumes(self) -> Floats:
        """``(101,)`` cubic angstrom that an atom of each element takes, by ridge regression about the mean."""
        mass = self._counts @ _masses()
        cells = mass * 1.66053906660 / np.maximum(self.reference.density, 1e-6)
        good = np.isfinite(cells) & (cells / self._sizes < 200)
        mean = float(cells[good].sum() / self._sizes[good].sum())
        # Per atom, so that large cells do not count for more.
        share = self._counts[good] / self._sizes[good, None]
        target = cells[good] / self._sizes[good]
        left = share.T @ share + 1e-2 * np.eye(101)
        fitted = np.linalg.solve(left, share.T @ target + 1e-2 * mean * np.ones(101))
        return np.maximum(np.asarray(fitted, dtype=np.float64), 1.0)

    def draw(
        self,
        rng: np.random.Generator,
        sizes: tuple[int, int],
        allowed: Collection[int],
        required: Collection[int] = (),
        kinds: int | None = None,
    ) -> Start | None:
        """A start that obeys the rules; None where the reference has no parent for it.

        Args:
            sizes: fewest and most atoms.
            allowed: atomic numbers that may appear.
            required: atomic numbers that must.
            kinds: number of different elements; None for any.
        """
        fits = self._wanted & (self._sizes >= sizes[0]) & (self._sizes <= sizes[1])
        fits &= self._kinds == kinds if kinds is not None else self._kinds >= max(2, len(required))
        rows = np.flatnonzero(fits)
        if not len(rows):
            return None
        found: list[tuple[int, dict[int, int]]] = []
        weights: list[float] = []
        free = not required and len(allowed) > 12
        for row in rng.choice(rows, TRIES if not free else 10):
            here = np.flatnonzero(self._counts[row]).tolist()
            drawn = self._exchange(rng, here, sorted(allowed), sorted(required))
            if drawn is None:
                continue
            exchange, weight = drawn
            found.append((int(row), exchange))
            weights.append(weight)
        if not found:
            return None
        shares = np.array(weights) / sum(weights)
        # In a random order, the likely ones first; the first of them that is near the hull is taken.
        order = rng.choice(len(found), len(found), replace=False, p=shares)
        chosen = next((k for k in order.tolist() if self._is_near_hull(found[k][0])), None)
        if chosen is None:
            return None
        row, exchange = found[chosen]
        name, arrays = self.reference.structure(row)
        symbols = {SYMBOLS[a - 1]: SYMBOLS[b - 1] for a, b in exchange.items()}
        return Start(name, symbols, self.exchanged(arrays, exchange))

    def _exchange(
        self, rng: np.random.Generator, here: Sequence[int], allowed: Sequence[int], required: Sequence[int]
    ) -> tuple[dict[int, int], float] | None:
        """Elements to exchange so that the rules hold, one at least, and how likely known crystals make it."""
        exchange: dict[int, int] = {}
        weight = 1.0

        def give(place: int, to: int) -> None:
            nonlocal weight
            exchange[place] = to
            weight *= max(float(self.exchanges[place, to]), RARE)

        for wanted in (z for z in required if z not in here):
            places = [z for z in here if z not in required and z not in exchange]
            if not places:
                return None
            odds = np.maximum(self.exchanges[places, wanted], RARE)
            give(int(rng.choice(places, p=odds / odds.sum())), wanted)
        taken = {*(z for z in here if z not in exchange), *exchange.values()}
        strangers = [z for z in here if z not in exchange and z not in allowed]
        spare = 0 if exchange or strangers else 1 + int(rng.random() < 0.4)
        movable = [z for z in here if z not in required and z not in exchange and z in allowed]
        chosen = rng.permutation(movable)[:spare].tolist() if movable else []
        for place in [*strangers, *chosen]:
            options = [z for z in allowed if z not in taken]
            odds = self.exchanges[place, options] if options else np.zeros(0)
            if odds.sum() <= 0:
                if place in allowed:
                    continue
                return None
            to = int(rng.choice(options, p=odds / odds.sum()))
            give(place, to)
            taken.add(to)
        return (exchange, weight) if exchange else None

    def _is_near_hull(self, row: int) -> bool:
        name, (_, _, numbers) = self.reference.structure(row)
        entry = self.reference.entries_by_name.get(name)
        if entry is None:
            return True
        composition = {z: float(n) for z, n in formula_key(numbers)}
        found = self.reference.hull.distance(composition, self.reference.hull.energy(entry))
        return not found.energy_above_hull > NEAR_HULL

    def exchanged(self, arrays: Arrays, exchange: dict[int, int]) -> Arrays:
        """A crystal with elements exchanged and its cell scaled to their volumes."""
        frac, cell, numbers = arrays
        changed = np.array([exchange.get(int(z), int(z)) for z in numbers], dtype=np.int64)
        ratio = float(self.volumes[changed].sum() / self.volumes[numbers].sum())
        return frac, cell * ratio ** (1 / 3), changed


def _masses() -> Floats:
    from ase.data import atomic_masses

    return np.asarray(atomic_masses[:101], dtype=np.float64)
