"""Choosing among proposals for a crystal: new compositions only, or the best of several by a predictor or by the model.

A proposal is the crystal of the plan with the next ``attempt``, that is with the next random stream of its own, so that
what is chosen depends on the seed and the index alone and not on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.selectors import find_selector

if TYPE_CHECKING:
    from crystalsmith.evaluation.reference.known import Reference

ATTEMPTS = 6
"""Proposals at most for a crystal that shall be new; the last one is kept, new or not, and the table says so."""

DEFAULT_SELECTOR = "energy-above-hull"
OWN = "own"
"""The model itself: the proposal that it would change least (:mod:`crystalsmith.generation.misfit`)."""

MAX_SELECT = 64

Make = Callable[[Sequence[Plan]], CrystalBatch | None]
"""Plans to their crystals; None where memory ran out."""

Misfit = Callable[[Sequence[Plan], CrystalBatch], Sequence[float]]
"""How far crystals are from what their model would make of them."""


@dataclass(frozen=True)
class Choosing:
    """What decides between proposals.

    Attributes:
        novel_to: folder of a reference set: a composition that it holds is turned down. Empty: none is.
        select: proposals for each crystal, of which the one of the lowest prediction stays.
        selector: a bundled predictor, the folder of one, a potential, whose hull is that of ``novel_to``, or
            :data:`OWN`.
    """

    novel_to: str = ""
    select: int = 1
    selector: str = ""

    @property
    def most(self) -> int:
        """Proposals for a crystal at most."""
        return max(self.select, ATTEMPTS if self.novel_to else 1)

    @property
    def one_plan(self) -> bool:
        """Whether all proposals for a crystal are of one plan: losses of different templates do not compare."""
        return self.select > 1 and self.selector == OWN and not self.novel_to

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Choosing:
        """The inverse of ``dataclasses.asdict``."""
        return Choosing(str(values["novel_to"]), int(values["select"]), str(values["selector"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def columns(self) -> list[str]:
        """Columns of the table of results that say how a crystal was chosen."""
        names = ["proposals"]
        if self.novel_to:
            names.append("composition_known")
        if self.select > 1:
            own = self.selector == OWN
            names.append(f"predicted_{'misfit' if own else find_selector(self.selector, self.novel_to).name}")
        return names


def make_choosing(novel_to: str | Path | None, select: int | None, selector: str | Path | None) -> Choosing | None:
    """Checked choosing, or None where every crystal is the first proposal.

    Raises:
        InputError: if the reference or the predictor cannot be used.
    """
    if selector is not None and (select is None or select < 2):
        raise InputError("--selector chooses among several proposals; give --select 4, for example, too.")
    if select is not None and not 1 <= select <= MAX_SELECT:
        raise InputError(f"--select is {select}; give a whole number from 1 to {MAX_SELECT}.")
    if novel_to is None and (select is None or select == 1):
        return None
    wanted = Choosing("" if novel_to is None else str(novel_to), select or 1, "")
    if wanted.novel_to and not _reference(wanted.novel_to).num_structures:
        raise InputError(f"--novel-to {novel_to} holds no structures; give a reference built from structures.")
    if wanted.select > 1:
        wanted = replace(wanted, selector=str(selector or DEFAULT_SELECTOR))
        if wanted.selector != OWN:
            find_selector(wanted.selector, wanted.novel_to)
    return wanted


@dataclass(frozen=True)
class _Proposal:
    plan: Plan
    crystal: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    known: bool
    value: float

    def rank(self) -> tuple[bool, float]:
        """Smaller is better: new before known, then by prediction; what cannot be predicted comes last."""
        return self.known, self.value if np.isfinite(self.value) else np.inf


def chosen(
    plans: Sequence[Plan], again: Callable[[int, int], Plan], make: Make, misfit: Misfit, choosing: Choosing
) -> tuple[list[Plan], CrystalBatch] | None:
    """The chosen plans and their crystals, or None where memory ran out.

    Args:
        plans: the first proposals.
        again: index of a crystal and number of the attempt -> its plan.
        make: plans to crystals.
        misfit: of crystals, for :data:`OWN`.
        choosing: what decides.
    """
    best: dict[int, _Proposal] = {}
    count = dict.fromkeys((plan.index for plan in plans), 0)
    waiting = list(plans)
    for attempt in range(choosing.most):
        made = make(waiting)
        if made is None:
            return None
        for proposal in _judged(waiting, made, misfit, choosing):
            index = proposal.plan.index
            count[index] += 1
            if index not in best or proposal.rank() < best[index].rank():
                best[index] = proposal
        open_ones = [i for i in count if attempt + 1 < choosing.select or best[i].known]
        waiting = [again(index, attempt + 1) for index in open_ones]
        if not waiting:
            break
    kept = [best[plan.index] for plan in plans]
    told = [replace(one.plan, labels=one.plan.labels + _labels(one, count, choosing)) for one in kept]
    return told, CrystalBatch.from_arrays([one.crystal for one in kept])


def _judged(plans: Sequence[Plan], made: CrystalBatch, misfit: Misfit, choosing: Choosing) -> list[_Proposal]:
    crystals = made.crystals()
    reference = _reference(choosing.novel_to) if choosing.novel_to else None
    known = [reference is not None and reference.knows_composition(z.astype(np.int64)) for _, _, z in crystals]
    values = [0.0] * len(crystals)
    if choosing.select > 1 and choosing.selector == OWN:
        values = list(misfit(plans, made))
    elif choosing.select > 1:
        values = list(find_selector(choosing.selector, choosing.novel_to)(crystals))
    return [_Proposal(*one) for one in zip(plans, crystals, known, values, strict=True)]


def _labels(one: _Proposal, count: Mapping[int, int], choosing: Choosing) -> tuple[tuple[str, Any], ...]:
    values: dict[str, Any] = {"proposals": count[one.plan.index], "composition_known": one.known}
    return tuple((name, values.get(name, round(float(one.value), 6))) for name in choosing.columns())


@lru_cache(maxsize=4)
def _reference(folder: str) -> Reference:
    from crystalsmith.evaluation.reference.known import Reference

    return Reference.open(folder)
