"""Samples of one composition: the likely arrangements first, and none again where that brings nothing."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from crystalsmith.checkpoints.arrangements import Choice
from crystalsmith.generation.compositions import formula_counts
from crystalsmith.generation.plans.allotment import Possible, allotted, possible
from crystalsmith.generation.space_groups import SpaceGroups
from crystalsmith.symmetry.wyckoff import Template

CUBE = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def one(name: str, probability: float, free: int) -> Possible:
    return Possible(1, Choice(Template(1, name, CUBE), (), probability), free)


def gain(some: list[Possible], counts: list[int]) -> float:
    """The chance that the right arrangement is among those possible, and that a sample of it is the crystal."""
    return sum(p.choice.probability * (1 - (1 - p.found) ** n) for p, n in zip(some, counts, strict=True))


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 6])
def test_no_other_allotment_of_as_many_samples_finds_more(samples: int) -> None:
    some = [one("a", 0.5, 6), one("b", 0.3, 0), one("c", 0.2, 2)]
    given = Counter(p.choice.template.letters for p in allotted(some, samples))
    best = max(gain(some, list(n)) for n in product(range(samples + 1), repeat=3) if sum(n) == samples)
    assert gain(some, [given[name] for name in "abc"]) == pytest.approx(best)


def test_possible_arrangements_have_the_composition_and_probabilities_that_add_up() -> None:
    found = possible("CaF2", (1, 2), SpaceGroups())
    assert sum(p.choice.probability for p in found) == pytest.approx(1.0)
    assert [p.choice.probability for p in found] == sorted((p.choice.probability for p in found), reverse=True)
    templates = SpaceGroups().templates
    for p in found[:40]:
        counts: Counter[int] = Counter()
        for z, size in zip(p.choice.elements, templates.orbit_sizes(p.choice.template), strict=True):
            counts[z] += size
        assert counts == {z: p.units * n for z, n in formula_counts("CaF2")}
    fluorite = next(p for p in found if p.choice.template.number == 225)
    assert (fluorite.units, fluorite.free) == (1, 0)
    rutile = next(p for p in found if p.choice.template.number == 136 and p.choice.template.letters == "af")
    assert (rutile.units, rutile.free) == (2, 1)


def test_nothing_is_allotted_where_nothing_is_known() -> None:
    assert allotted([], 5) == []
