"""Exact compositions on orbits of several atoms: elements drawn jointly, so that whole orbits make up the counts.

One atom at a time, any element that is still open may be taken; orbits are knapsacks, and a choice can make the rest
impossible. So elements are drawn exactly from the product of the model's own probabilities, conditioned on the counts:
sums over all ways of placing the rest are tabulated by the counts that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import Draw
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.elements import MASK

Counts = tuple[tuple[int, int], ...]
"""Atomic number and number of atoms, each element once."""

_FLOOR = 1e-12  # probability of an element that the model rules out, so that every composition can be placed


class Ways:
    """The weight of all ways to give orbits one element each so that the counts come out.

    Args:
        orbits: atoms of each orbit.
        counts: atoms of each element; their sum is that of the orbits.
        weight: of orbit i having element z.
        best: the weight of the best way instead of the sum over all.
    """

    def __init__(
        self, orbits: Sequence[int], counts: Counts, weight: Callable[[int, int], float], best: bool = False
    ) -> None:
        self.orbits, self.weight, self.best = tuple(orbits), weight, best
        self.elements = tuple(z for z, _ in counts)
        self.start = tuple(n for _, n in counts)
        self._known: dict[tuple[int, tuple[int, ...]], float] = {}

    def total(self, i: int, left: tuple[int, ...]) -> float:
        """The weight of orbits ``i``, ``i + 1``, ... on the atoms that are ``left`` of each element."""
        if i == len(self.orbits):
            return 0.0 if any(left) else 1.0
        key = (i, left)
        if key not in self._known:
            terms = [w for w, _ in self.options(i, left)]
            self._known[key] = (max(terms, default=0.0)) if self.best else sum(terms)
        return self._known[key]

    def options(self, i: int, left: tuple[int, ...]) -> list[tuple[float, int]]:
        """What orbit ``i`` may take: the weight of all ways that go on from there, and the place of the element."""
        size = self.orbits[i]
        fits = [k for k, n in enumerate(left) if n >= size]
        return [(self.weight(i, self.elements[k]) * self.total(i + 1, less(left, k, size)), k) for k in fits]


def less(left: tuple[int, ...], place: int, atoms: int) -> tuple[int, ...]:
    """The counts with some atoms of one element taken."""
    return (*left[:place], left[place] - atoms, *left[place + 1 :])


class CountedProcess(Process):
    """A process whose atoms stand for orbits and whose elements come out in given numbers of atoms.

    Args:
        config: of the process.
        sizes: ``(M,)`` int64, atoms of each orbit.
        counts: of each crystal; some way of placing them on its orbits exists.
    """

    def __init__(self, config: ProcessConfig, sizes: Tensor, counts: Sequence[Counts]) -> None:
        super().__init__(config)
        self.sizes, self.counts = sizes.tolist(), list(counts)

    def predict_species(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Process.predict_species`; which orbits leave the mask is left to it."""
        drawn, likely = super().predict_species(batch, scores, t, t_next, draw, **settings)
        uniform = draw.uniform(1).tolist()
        probs = torch.softmax(scores.species_logits.double(), -1) + _FLOOR
        return self._placed(batch, drawn, probs, uniform), self._placed(batch, likely, probs, None)

    def _placed(self, batch: CrystalBatch, free: Tensor, probs: Tensor, uniform: list[float] | None) -> Tensor:
        """The elements of the orbits that leave the mask: drawn, or the best way of all without ``uniform``."""
        before, after = batch.atomic_numbers.tolist(), free.tolist()
        first = 0
        for crystal, size in enumerate(batch.num_atoms.tolist()):
            orbits = range(first, first + size)
            first += size
            leaving = [o for o in orbits if before[o] == MASK and after[o] != MASK]
            if not leaving:
                continue
            waiting = [o for o in orbits if before[o] == MASK and after[o] == MASK]
            self._place(crystal, orbits, leaving, waiting, before, after, probs, uniform)
        return torch.tensor(after, dtype=torch.int64, device=free.device)

    def _place(
        self,
        crystal: int,
        orbits: range,
        leaving: list[int],
        waiting: list[int],
        before: list[int],
        after: list[int],
        probs: Tensor,
        uniform: list[float] | None,
    ) -> None:
        counts = self.counts[crystal]
        taken = {z: sum(self.sizes[o] for o in orbits if before[o] == z) for z, _ in counts}
        order = leaving + waiting
        table = {z: probs[order, z - 1].tolist() for z, _ in counts}
        left = tuple((z, n - taken[z]) for z, n in counts)
        found = Ways([self.sizes[o] for o in order], left, lambda i, z: table[z][i], best=uniform is None)
        rest = found.start
        for i, orbit in enumerate(leaving):
            options = found.options(i, rest)
            place = max(options)[1] if uniform is None else _pick(options, uniform[orbit])
            after[orbit] = found.elements[place]
            rest = less(rest, place, self.sizes[orbit])


def _pick(options: list[tuple[float, int]], uniform: float) -> int:
    threshold = uniform * sum(weight for weight, _ in options)
    for weight, place in options:
        threshold -= weight
        if threshold < 0:
            return place
    return max(options)[1]
