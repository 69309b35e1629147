"""Pairs of crystals of one formula that are hard to tell apart, and the verdicts of pymatgen's matcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from crystalsmith.evaluation.matching import (
    SETTINGS,
    Arrays,
    Candidate,
    formula_key,
    matches,
    merged,
    substitution_groups,
)

KINDS = ("copies", "polymorphs", "supercells", "alloys")


def crystal(frac, cell, numbers) -> Arrays:
    return np.array(frac, dtype=float), np.array(cell, dtype=float), np.array(numbers, dtype=np.int64)


def disturbed(arrays: Arrays, rng: np.random.Generator, position: float = 0.05, strain: float = 0.02) -> Arrays:
    """Another setting of nearly the same crystal: rattled, strained, moved, its axes mixed, its atoms in any order."""
    frac, cell, numbers = arrays
    cell = cell @ (np.eye(3) + strain * rng.standard_normal((3, 3)))
    frac = frac + position * rng.standard_normal(frac.shape) @ np.linalg.inv(cell) + rng.random(3)
    mix = [[1, 0, 0], [1, 1, 0], [0, -1, 1]]
    order = rng.permutation(len(numbers))
    return (frac @ np.linalg.inv(mix))[order], mix @ cell, numbers[order]


def doubled(arrays: Arrays, axis: int = 0) -> Arrays:
    """Two cells of a crystal as one."""
    frac, cell, numbers = arrays
    scale = np.ones(3)
    scale[axis] = 2
    shift = np.eye(3)[axis] / 2
    return np.concatenate([frac / scale, frac / scale + shift]), cell * scale[:, None], np.concatenate([numbers] * 2)


def redecorated(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """The same crystal with the elements that may substitute for one another shuffled over their sites."""
    frac, cell, numbers = arrays
    changed = numbers.copy()
    for members in substitution_groups(frozenset(numbers.tolist())):
        sites = np.flatnonzero(np.isin(numbers, list(members)))
        changed[sites] = rng.permutation(numbers[sites])
    return frac, cell, changed


def hard_pairs(
    structures: Sequence[Arrays], rng: np.random.Generator, number: int
) -> Iterator[tuple[str, Arrays, Arrays]]:
    """So many pairs of each of ``KINDS``, disturbed by little and by so much that the verdict may be either."""
    formulas: dict = {}
    for arrays in structures:
        formulas.setdefault(formula_key(arrays[2]), []).append(arrays)
    several = [group for group in formulas.values() if len(group) > 1]
    alloys = [a for a in structures if Candidate("", a).can_be_disordered]

    def any_of(choice: Sequence) -> Arrays:
        return choice[int(rng.integers(len(choice)))]

    def shaken(arrays: Arrays) -> Arrays:
        size = float(rng.choice([0.02, 0.1, 0.25, 0.5]))
        return disturbed(arrays, rng, size, size / 5)

    for _ in range(number):
        one = any_of(structures)
        yield "copies", one, shaken(one)
        group = any_of(several)
        first, second = rng.choice(len(group), 2, replace=False)
        yield "polymorphs", group[int(first)], group[int(second)]
        one = any_of(structures)
        yield "supercells", one, shaken(doubled(one, int(rng.integers(3))))
        one = any_of(alloys)
        if rng.random() < 0.5:
            one = doubled(one, int(rng.integers(3)))
        yield "alloys", one, shaken(redecorated(one, rng))


def our_verdicts(one: Arrays, other: Arrays) -> tuple[bool, bool]:
    """By the ordered matcher, and by either."""
    first, second = Candidate("", one), Candidate("", other)
    ordered = matches(first, second)
    return ordered, ordered or matches(first, second, disordered=True)


def plain_verdicts(one: Arrays, other: Arrays) -> tuple[bool, bool]:
    """The same by pymatgen's matcher alone, which reduces and compares both crystals each time."""
    ordered = plain_verdict(one, other)
    alike = (merged(arrays[2]) for arrays in (one, other))
    first, second = ((frac, cell, numbers) for (frac, cell, _), numbers in zip((one, other), alike, strict=True))
    return ordered, ordered or plain_verdict(first, second)


def plain_verdict(one: Arrays, other: Arrays) -> bool:
    """The ordered matcher of pymatgen alone."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    a, b = (Structure(cell, numbers.tolist(), frac) for frac, cell, numbers in (one, other))
    return bool(StructureMatcher(attempt_supercell=False, **SETTINGS).fit(a, b))
