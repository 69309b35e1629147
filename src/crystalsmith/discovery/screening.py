"""Before money is spent: is a crystal sane, is it known, has the run seen it already."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.judge import facts_or_problem
from crystalsmith.evaluation.matching import Arrays, Candidate, first_match, formula_key
from crystalsmith.evaluation.plausible import plausibility
from crystalsmith.evaluation.reference.known import Reference


class Seen:
    """The crystals that a run has had, by formula, for uniqueness."""

    def __init__(self) -> None:
        self._by_formula: dict[tuple[tuple[int, int], ...], list[Candidate]] = {}

    def same(self, candidate: Candidate) -> str:
        """The name of the first that is the same crystal; empty where there is none."""
        return first_match(candidate, self._by_formula.get(candidate.formula, [])) or ""

    def add(self, candidate: Candidate) -> None:
        """One more."""
        self._by_formula.setdefault(candidate.formula, []).append(candidate)


def sanity(arrays: Arrays, allowed: Collection[int], strict: bool = True) -> tuple[Facts | None, str, str]:
    """The facts of a crystal, or why it is dropped: a word and a sentence.

    Args:
        allowed: atomic numbers that the rules leave.
        strict: ask for a plausible crystal, not only a valid one. Charges are not asked for: alloys have none.
    """
    outside = sorted({int(z) for z in arrays[2]} - set(allowed))
    if outside:
        return None, "broken_rule", "it holds an element that the rules exclude"
    facts, problem = facts_or_problem(arrays)
    if facts is None:
        return None, "not_valid", problem
    if not facts.valid:
        return facts, "not_valid", f"shortest distance {facts.shortest_distance:.2f} angstrom"
    if strict and (doubts := plausibility(*arrays, None).doubts):
        return facts, "implausible", ", ".join(doubt.replace("_", " ") for doubt in doubts)
    return facts, "", ""


def known_as(candidate: Candidate, reference: Reference | None) -> str:
    """The id of the known crystal that a candidate is; empty for a new one."""
    if reference is None or not reference.num_structures:
        return ""
    size = _volume_per_atom(candidate.arrays)
    peers = [Candidate(name, arrays) for name, arrays in reference.same_formula(candidate.arrays[2])]
    # Any match settles the question, so the likeliest come first.
    peers.sort(key=lambda k: abs(math.log(_volume_per_atom(k.arrays) / size)))
    return first_match(candidate, peers) or ""


def relatives(arrays: Arrays, reference: Reference | None, parent: str = "", most: int = 3) -> list[dict[str, str]]:
    """The nearest known crystals: the parent, other structures of the formula, and what differs."""
    if reference is None or not reference.num_structures:
        return []
    found: list[dict[str, str]] = []
    row = reference.structures_by_name.get(parent) if parent else None
    if row is not None:
        found.append(_relative(parent, reference.structure(row)[1], arrays))
    size = _volume_per_atom(arrays)
    peers = sorted(reference.same_formula(arrays[2]), key=lambda k: abs(math.log(_volume_per_atom(k[1]) / size)))
    found += [_relative(name, known, arrays) for name, known in peers if name != parent]
    return found[:most]


def _relative(name: str, known: Arrays, ours: Arrays) -> dict[str, str]:
    from crystalsmith.elements import SYMBOLS
    from crystalsmith.evaluation.facts import reduced_formula
    from crystalsmith.symmetry.groups import space_group

    here, there = ({SYMBOLS[z - 1] for z, _ in formula_key(one[2])} for one in (ours, known))
    groups = [space_group(*one, 0.1) for one in (known, ours)]
    volumes = [_volume_per_atom(one) for one in (known, ours)]
    parts = []
    if here != there:
        gone, came = " ".join(sorted(there - here)), " ".join(sorted(here - there))
        parts.append(f"{gone or 'nothing'} -> {came or 'nothing'}")
    if groups[0] != groups[1]:
        parts.append(f"space group {groups[0]} -> {groups[1]}")
    parts.append(f"volume {100 * (volumes[1] / volumes[0] - 1):+.0f} %")
    return {"id": name, "formula": reduced_formula(known[2]), "differs": ", ".join(parts)}


def _volume_per_atom(arrays: Arrays) -> float:
    return abs(float(np.linalg.det(arrays[1]))) / len(arrays[2])


__all__ = ["Candidate", "Seen", "formula_key", "known_as", "relatives", "sanity"]
