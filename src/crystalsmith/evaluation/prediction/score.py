"""Structure prediction scored: which structures of a test set were found, and how closely.

The measures of the field, by pymatgen's ``StructureMatcher`` (stol 0.5, angle_tol 10 degrees, ltol 0.3, primitive
cells, scaled to equal volume; Xie et al., CDVAE, 2022; Jiao et al., DiffCSP, 2023):

- match rate at k: the share of targets that one of their first k samples matches; RMSE at k: the mean, over matched
  targets, of the least root mean square displacement, in units of the cube root of the volume per atom;
- METRe ("match everyone to reference", Martirossyan et al. 2025): the same with every target compared with all samples
  of its composition, also with those made for another target, so that polymorphs are not scored by who was asked first;
- cRMSE (ibid.): the mean over all targets, with the matcher's stol for each that was not matched, so that a higher
  match rate does not make the error worse.

Chirality does not count: the matcher takes a mirror image for the same structure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crystalsmith.engine.run import Engine, plainly, run
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.statistics import bootstrap, rate
from crystalsmith.evaluation.structures import Sample

SETTINGS = {"stol": 0.5, "angle_tol": 10.0, "ltol": 0.3}
"""Settings of the matcher that the field scores structure prediction with; the others are pymatgen's defaults."""

RULES = ("target", "name", "formula")
"""How a prediction finds the target that it was made for; see :func:`assign`."""

TARGET_COLUMNS = ("target", "target_id")
"""Columns of a table that name the target; ``crystalsmith generate --compositions`` writes the first."""

Pair = tuple[int, int]
"""Numbers of a prediction and a target."""


@dataclass
class Scored:
    """One target and what was found of it.

    Attributes:
        target: the true structure.
        made_for: numbers of the predictions that were made for it, in order: the first is sample 1.
        distances: prediction number to normalised RMS displacement, for all predictions that match it.
        unfinished: prediction number to why the matcher gave no answer (``timed_out``, ``crashed``, ``error``); such a
            pair counts as no match.
    """

    target: Sample
    made_for: list[int] = field(default_factory=list)
    distances: dict[int, float] = field(default_factory=dict)
    unfinished: dict[int, str] = field(default_factory=dict)

    def least(self, numbers: Iterable[int]) -> float | None:
        """The least displacement among some predictions; None where none of them matches."""
        return min((self.distances[n] for n in numbers if n in self.distances), default=None)

    def first_match(self) -> int | None:
        """How many samples it took to match the target; None where none did."""
        return next((k for k, n in enumerate(self.made_for, start=1) if n in self.distances), None)


def assign(
    predicted: Sequence[Sample], truth: Sequence[Sample], rule: str | None = None
) -> tuple[str, list[list[int]]]:
    """Which predictions were made for which target.

    Args:
        rule: ``target``: a column ``target`` of the predictions holds the id of the target. ``name``: the id of a
            prediction is that of its target, or that and a suffix of ``_``, ``-``, ``#``, ``/``, ``.`` or ``:`` and
            anything (``mp-149_0``, ``mp-149#2``); the longest id that fits. ``formula``: a prediction is a sample of
            every target of its reduced formula. None: the first of the three that gives every prediction that exists
            a target; ``formula`` if none does.

    Returns:
        The rule and, for each target, the numbers of its predictions in their order.

    Raises:
        InputError: if there is no such rule, or no prediction finds a target.
    """
    index = {sample.id: k for k, sample in enumerate(truth)}
    if rule is not None and rule not in RULES:
        raise InputError(f"There is no rule '{rule}' to match by; use {', '.join(RULES)}.")
    found: list[list[int]] = []
    for name in (rule,) if rule is not None else RULES:
        found = _finders[name](predicted, index, truth)
        exist = [bool(places) for sample, places in zip(predicted, found, strict=True) if not sample.failure]
        if rule is not None or (exist and all(exist)):
            break
    if not any(found):
        raise InputError(
            f"None of the {len(predicted)} predictions belongs to any of the {len(truth)} structures: no column "
            "'target', no id and no reduced formula agrees; check that the two belong together."
        )
    made_for: list[list[int]] = [[] for _ in truth]
    for number, places in enumerate(found):
        for place in places:
            made_for[place].append(number)
    return name, made_for


def _by_target(predicted: Sequence[Sample], index: dict[str, int], truth: Sequence[Sample]) -> list[list[int]]:
    columns = [next((s.columns[c] for c in TARGET_COLUMNS if s.columns.get(c)), "") for s in predicted]
    return [[index[name]] if name in index else [] for name in columns]


def _by_name(predicted: Sequence[Sample], index: dict[str, int], truth: Sequence[Sample]) -> list[list[int]]:
    found = []
    for sample in predicted:
        ends = [m.start() for m in re.finditer(r"[_\-#/.:]", sample.id)]
        starts = [sample.id, *(sample.id[:end] for end in reversed(ends))]
        found.append(next(([index[name]] for name in starts if name in index), []))
    return found


def _by_formula(predicted: Sequence[Sample], index: dict[str, int], truth: Sequence[Sample]) -> list[list[int]]:
    places: dict[Any, list[int]] = {}
    for k, sample in enumerate(truth):
        places.setdefault(formula_key(sample.numbers), []).append(k)
    return [[] if s.failure else places.get(formula_key(s.numbers), []) for s in predicted]


_finders: dict[str, Callable[[Sequence[Sample], dict[str, int], Sequence[Sample]], list[list[int]]]] = {
    "target": _by_target,
    "name": _by_name,
    "formula": _by_formula,
}


def score(
    predicted: Sequence[Sample],
    truth: Sequence[Sample],
    made_for: Sequence[list[int]],
    *,
    engine: Engine = Engine(),
    time_limit: float = 60.0,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Scored]:
    """Compare every target with all predictions of its reduced formula.

    Args:
        predicted: the predictions; those that failed match nothing.
        truth: the targets.
        made_for: for each target, the numbers of its own predictions.
        engine: where pairs are compared.
        time_limit: seconds for one pair.
        tell: told how many more pairs are done.
    """
    scored = [Scored(target, list(numbers)) for target, numbers in zip(truth, made_for, strict=True)]
    pairs = same_formula(predicted, truth)
    tasks = [(predicted[p].arrays, truth[t].arrays) for p, t in pairs]
    for end in run(plainly(_answer), tasks, engine, time_limit=time_limit):
        number, place = pairs[end.number]
        if end.status or isinstance(end.value, str):
            scored[place].unfinished[number] = end.status or "error"
        elif end.value is not None:
            scored[place].distances[number] = end.value
        tell(1)
    return scored


def same_formula(predicted: Sequence[Sample], truth: Sequence[Sample]) -> list[Pair]:
    """The pairs that could match: a prediction that exists and a target of the same reduced formula."""
    places: dict[Any, list[int]] = {}
    for k, sample in enumerate(truth):
        places.setdefault(formula_key(sample.numbers), []).append(k)
    keys = [None if s.failure else formula_key(s.numbers) for s in predicted]
    return [(p, t) for p, key in enumerate(keys) for t in places.get(key, ())]


def displacement(one: Arrays, other: Arrays) -> float | None:
    """The matcher's RMS displacement of two structures, over the cube root of the volume per atom; None: no match."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    pair = [Structure(Lattice(cell), numbers.tolist(), frac) for frac, cell, numbers in (one, other)]
    found = StructureMatcher(**SETTINGS).get_rms_dist(*pair)
    return None if found is None else float(found[0])


def _answer(pair: tuple[Arrays, Arrays]) -> float | str | None:
    try:
        return displacement(*pair)
    except Exception as error:  # the matcher raises several kinds on cells that are none
        return f"{type(error).__name__}: {error}"


def summarise(scored: Sequence[Scored], samples: Sequence[int]) -> dict[str, Any]:
    """The measures at each number of samples, with 95 % intervals (Wilson for rates, bootstrap for means).

    Args:
        scored: all targets, those without predictions included: they count as not found.
        samples: numbers of samples k.

    Returns:
        By k: ``match_rate``, ``rmse``, ``crmse`` and, under ``metre``, the same against all samples of the composition.
    """
    found: dict[str, Any] = {}
    for k in samples:
        allowed = {number for one in scored for number in one.made_for[:k]}
        own = [one.least(one.made_for[:k]) for one in scored]
        anyone = [one.least(n for n in one.distances if n in allowed) for one in scored]
        found[str(k)] = _measures(own) | {"metre": _measures(anyone)}
    return found


def _measures(least: Sequence[float | None]) -> dict[str, Any]:
    matched = [x for x in least if x is not None]
    penalised = [SETTINGS["stol"] if x is None else x for x in least]
    return {"match_rate": rate([x is not None for x in least]), "rmse": _mean(matched), "crmse": _mean(penalised)}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    known = np.array(values)
    low, high = bootstrap(known, np.mean)
    return {"mean": float(known.mean()), "low": low, "high": high, "of": len(known)}
