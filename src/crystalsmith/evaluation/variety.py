"""How different the crystals of a set are from one another, and how well they cover crystals that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.evaluation.fingerprints import Fingerprints, fingerprints
from crystalsmith.evaluation.matching import Arrays, Candidate, first_match
from crystalsmith.evaluation.statistics import rate

MOST = 2000
"""Crystals of a set that are compared with one another; of more, so many are drawn."""

WIDTH = 0.5
"""Angstrom of mean difference in average minimum distances over which likeness falls to 1/e."""

NEAREST = 5
"""A crystal lies within a set if it is no further from some member than that member's so many-th neighbour."""


def variety(crystals: Sequence[Arrays], seed: int = 0) -> dict[str, Any]:
    """Vendi scores (Friedman and Dieng, TMLR 2023): as how many wholly different crystals a set counts.

    The likeness of two crystals is the share of atoms that agree in element (``composition``), the exponential of minus
    their structures' gap over ``WIDTH`` (``structure``), or the product of both (``both``).

    Returns:
        The three scores and ``of``, how many crystals they are of; nothing for an empty set.
    """
    found, _ = fingerprints(drawn(crystals, seed))
    if not len(found):
        return {}
    same = 1.0 - found.composition_gaps(found)
    alike = np.exp(-found.structure_gaps(found) / WIDTH)
    kinds = {"composition": same, "structure": alike, "both": same * alike}
    return {"of": len(found), **{name: round(vendi(kernel), 3) for name, kernel in kinds.items()}}


def vendi(kernel: NDArray[np.float64]) -> float:
    """The exponential of the entropy of a kernel's eigenvalues over their number; the diagonal is one."""
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def coverage(crystals: Sequence[Arrays], held_out: Sequence[tuple[str, Arrays]], seed: int = 0) -> dict[str, Any]:
    """Precision and recall against crystals that were held out (Kynkaanniemi et al., NeurIPS 2019).

    Returns:
        ``precision``: share of the crystals that lie among the held-out ones; ``recall``: share of the held-out ones
        that lie among the crystals; ``rediscovered``: share of the held-out ones that a crystal matches, all of them
        looked at. Among a set means: no further from a member than its ``NEAREST``-th neighbour in the set.
    """
    ours, _ = fingerprints(drawn(crystals, seed))
    theirs, _ = fingerprints(drawn([arrays for _, arrays in held_out], seed))
    found: dict[str, Any] = {"held_out": len(held_out), "rediscovered": rediscovered(crystals, held_out)}
    if min(len(ours), len(theirs)) > NEAREST:
        found["precision"] = rate(within(ours, theirs))
        found["recall"] = rate(within(theirs, ours))
    return found


def within(points: Fingerprints, members: Fingerprints) -> list[bool | None]:
    """Whether each point lies among the members."""
    own = gaps(members, members)
    reach = np.partition(own, NEAREST, axis=1)[:, NEAREST]  # the nearest of all is the member itself
    return [bool(flag) for flag in np.any(gaps(points, members) <= reach, axis=1)]


def gaps(one: Fingerprints, other: Fingerprints) -> NDArray[np.float64]:
    """``(C, D)``: composition (share of atoms) and structure (in units of ``WIDTH``) as legs of a right angle."""
    return np.hypot(one.composition_gaps(other), one.structure_gaps(other) / WIDTH)


def rediscovered(crystals: Sequence[Arrays], held_out: Sequence[tuple[str, Arrays]]) -> dict[str, Any]:
    """Share of the held-out crystals that the ordered matcher finds among the crystals."""
    made: dict[Any, list[Candidate]] = {}
    for number, arrays in enumerate(crystals):
        candidate = Candidate(str(number), arrays)
        made.setdefault(candidate.formula, []).append(candidate)
    flags: list[bool | None] = []
    for name, arrays in held_out:
        target = Candidate(name, arrays)
        flags.append(first_match(target, made.get(target.formula, [])) is not None)
    return rate(flags)


def drawn(crystals: Sequence[Arrays], seed: int) -> list[Arrays]:
    """At most ``MOST`` of them, drawn by a seed."""
    if len(crystals) <= MOST:
        return list(crystals)
    places = np.random.default_rng(seed).choice(len(crystals), MOST, replace=False)
    return [crystals[place] for place in np.sort(places)]
