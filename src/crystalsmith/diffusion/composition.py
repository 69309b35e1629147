"""Bounds on how many atoms of each element a crystal holds, kept while its elements are decided one by one.

Allowed and denied elements, chemical systems, required elements and exact formulas are all the same thing: a lowest
and a highest count per element. As long as ``sum(max(low - present, 0)) <= masked <= sum(high - present)``, some choice
for the masked atoms remains; each choice below keeps that true, so a finished crystal cannot break its bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import MASK, SYMBOLS
from crystalsmith.errors import InputError

_ELEMENTS = len(SYMBOLS)
_SWEEPS = 20  # of the scaling; the bounds hold for any number
_FLOOR = 1e-30  # so that an element the model rules out can still be given where a formula needs it

Pick = Callable[[Tensor], Tensor]
"""Log-probabilities ``(N, C)`` -> one column per row, ``(N,)``."""


@dataclass(frozen=True)
class CountBounds:
    """Lowest and highest count of each element in each of B crystals.

    Attributes:
        low, high: ``(B, 100)`` int64; column ``Z - 1``.
    """

    low: Tensor
    high: Tensor

    def to(self, device: torch.device | str) -> CountBounds:
        """The bounds on another device."""
        return CountBounds(self.low.to(device), self.high.to(device))

    def check(self, num_atoms: Tensor) -> None:
        """Make sure that crystals of ``num_atoms (B,)`` can keep them.

        Raises:
            InputError: naming what is impossible.
        """
        torn = (self.low > self.high).nonzero()
        if len(torn):
            crystal, column = torn[0].tolist()
            raise InputError(
                f"{SYMBOLS[column]} must appear at least {int(self.low[crystal, column])} times and at most "
                f"{int(self.high[crystal, column])} times; drop one of the two rules."
            )
        for least, most, n in zip(
            self.low.sum(-1).tolist(), self.high.sum(-1).tolist(), num_atoms.tolist(), strict=True
        ):
            if least > n:
                raise InputError(
                    f"{n} atoms cannot hold the {least} that are required; ask for more atoms or fewer elements."
                )
            if most < n:
                raise InputError(f"The rules leave room for {most} atoms, but a crystal of {n} is asked for.")

    def kept_by(self, batch: CrystalBatch) -> Tensor:
        """``(B,)`` bool: whether a finished batch keeps them, nothing masked."""
        counts = count_elements(batch.atomic_numbers, batch)
        whole = counts.sum(-1) == batch.num_atoms
        return whole & ((counts >= self.low) & (counts <= self.high)).all(-1)


def count_elements(numbers: Tensor, batch: CrystalBatch) -> Tensor:
    """``(B, 100)`` int64, atoms of each element in each crystal; masked atoms are not counted."""
    counts = torch.zeros(batch.num_crystals, MASK, dtype=torch.int64, device=numbers.device)
    ones = torch.ones_like(numbers)
    return counts.index_put_((batch.batch_index, numbers - 1), ones, accumulate=True)[:, :_ELEMENTS]


def settle(
    bounds: CountBounds, batch: CrystalBatch, fixed: Tensor, chosen: Tensor, logits: Tensor, pick: Pick, confident: bool
) -> Tensor:
    """Elements for the atoms that leave the mask in one step, within the bounds.

    Atom by atom, one of each crystal at a time, from the model's probabilities scaled to the counts that are still
    open (:func:`scaled_probabilities`). Where no bound is near, that is the model's own distribution.

    Args:
        bounds: one row per crystal; they can be kept from here on.
        batch: before the step.
        fixed: ``(N,)`` int64, the element an atom will have in any case, 0 = free.
        chosen: ``(N,)`` bool, free masked atoms that leave the mask.
        logits: ``(N, 101)``, the model's for the clean elements.
        pick: chooses a class per row.
        confident: take the atom whose best element is most probable first, instead of the first atom.

    Returns:
        ``(N,)`` atomic numbers.
    """
    index = batch.batch_index
    numbers = torch.where(fixed > 0, fixed, batch.atomic_numbers)
    columns = (bounds.high > 0).any(0).nonzero().squeeze(-1)  # the elements that are possible at all
    low, high = bounds.low[:, columns], bounds.high[:, columns]
    probs = torch.softmax(logits[:, columns].double(), -1) + _FLOOR
    open_ = chosen.clone()
    position = torch.arange(len(index), device=index.device, dtype=torch.float64)
    while bool(open_.any()):  # a round for each atom that leaves the mask in the busiest crystal; mostly none or one
        present = count_elements(numbers, batch)[:, columns]
        needed, room = (low - present).clamp(min=0), (high - present).clamp(min=0)
        masked = numbers == MASK
        scaled = scaled_probabilities(probs, masked, needed, room, index, batch.num_crystals)
        count = torch.zeros_like(batch.num_atoms).index_add(0, index, masked.long())
        spare = count > needed.sum(-1)
        allowed = (room > 0) & ((needed > 0) | spare.unsqueeze(-1))
        log_probs = scaled.clamp(min=1e-250).log().masked_fill(~allowed[index], -torch.inf)
        key = log_probs.amax(-1) if confident else -position
        now = _first_of_each(open_, key, index, batch.num_crystals)
        # Rows that do not choose may be all minus infinity.
        picked = columns[pick(torch.where(now.unsqueeze(-1), log_probs, torch.zeros_like(log_probs)))] + 1
        numbers = torch.where(now, picked, numbers)
        open_ = open_ & ~now
    return torch.where((batch.atomic_numbers == MASK) & ~chosen, batch.atomic_numbers, numbers)


def scaled_probabilities(
    probs: Tensor, masked: Tensor, needed: Tensor, room: Tensor, index: Tensor, num_crystals: int
) -> Tensor:
    """The independent distributions closest to the model's whose expected counts lie within the bounds.

    Minimises the sum of KL divergences from ``probs`` under sum over masked atoms in [needed, room] for every element:
    rows and columns are scaled in turn (Sinkhorn 1967; box constraints as in Benamou et al. 2015). This is the
    soft form of an optimal assignment: an atom that insists on an element gets it before one that does not care. The
    odds ratios of any two atoms and two elements are the model's.

    Args:
        probs: ``(N, C)`` positive, one column per element.
        masked: ``(N,)`` bool, the atoms that share the open counts.
        needed, room: ``(B, C)`` int64.
        index: ``(N,)``, the crystal of each atom.

    Returns:
        ``(N, C)``, rows of masked atoms sum to 1.
    """
    needed, room = needed.to(probs.dtype), room.to(probs.dtype)
    weights = probs * masked.unsqueeze(-1) * (room > 0)[index]
    scale = torch.ones_like(room)
    for _ in range(_SWEEPS):
        rows = weights * scale[index]
        rows = weights / rows.sum(-1, keepdim=True).clamp(min=1e-300)
        column = torch.zeros_like(room).index_add(0, index, rows).clamp(min=1e-300)
        scale = torch.ones_like(room).maximum(needed / column).minimum(room / column)
    rows = weights * scale[index]
    return rows / rows.sum(-1, keepdim=True).clamp(min=1e-300)


def _first_of_each(open_: Tensor, key: Tensor, index: Tensor, num_crystals: int) -> Tensor:
    """``(N,)`` bool: of the open atoms of each crystal, the one with the largest key (the first of several)."""
    for values in (key, -torch.arange(len(index), device=index.device, dtype=torch.float64)):
        best = torch.full((num_crystals,), -torch.inf, dtype=torch.float64, device=index.device)
        best = best.scatter_reduce(0, index, values.double().masked_fill(~open_, -torch.inf), "amax")
        open_ = open_ & (values.double() == best[index])
    return open_


def remask(bounds: CountBounds, batch: CrystalBatch, fixed: Tensor) -> CrystalBatch:
    """Mask again what keeps the bounds from being kept: surplus elements, then any atom in the way of required ones.

    Raises:
        InputError: if the fixed atoms alone cannot keep them.
    """
    numbers = batch.atomic_numbers.tolist()
    held, sizes = fixed.tolist(), batch.num_atoms.tolist()
    start = 0
    for crystal, size in enumerate(sizes):
        atoms = range(start, start + size)
        low, high = bounds.low[crystal].tolist(), bounds.high[crystal].tolist()
        _remask_one(numbers, held, atoms, low, high)
        start += size
    return batch.replace(atomic_numbers=torch.tensor(numbers, dtype=torch.int64, device=batch.atomic_numbers.device))


def _remask_one(numbers: list[int], held: list[int], atoms: range, low: list[int], high: list[int]) -> None:
    present = [0] * _ELEMENTS
    for a in atoms:
        element = held[a] or (numbers[a] if numbers[a] != MASK else 0)
        if element:
            present[element - 1] += 1
    free = [a for a in atoms if not held[a] and numbers[a] != MASK]
    masked = sum(1 for a in atoms if not held[a] and numbers[a] == MASK)
    for required in (False, True):  # surplus first: it may leave room enough
        for a in reversed(free):
            if numbers[a] == MASK:
                continue
            column = numbers[a] - 1
            missing = sum(max(need - have, 0) for need, have in zip(low, present, strict=True))
            in_the_way = required and missing > masked and present[column] > low[column]
            if present[column] > high[column] or in_the_way:
                numbers[a] = MASK
                present[column] -= 1
                masked += 1
    for column, (have, most) in enumerate(zip(present, high, strict=True)):
        if have > most:
            raise InputError(
                f"The sites that are kept hold {have} {SYMBOLS[column]}, but at most {most} are allowed; "
                "keep fewer sites or change the rule."
            )
    if sum(max(need - have, 0) for need, have in zip(low, present, strict=True)) > masked:
        raise InputError("The sites that are kept leave too few free for the elements required; keep fewer sites.")
