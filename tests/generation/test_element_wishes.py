"""Named lists and the cap on supply are kept by every crystal; a preference moves counts and rules nothing out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from crystalsmith.contracts import Scores
from crystalsmith.diffusion.guidance import prefer_elements
from crystalsmith.elements import ALLOWED, DENY_LISTS, NUMBERS, deny_lists
from crystalsmith.errors import InputError
from crystalsmith.generation.rules import make_rules, parse_preference


def test_a_named_list_leaves_its_elements_out_and_nothing_else() -> None:
    rules = make_rules(range(1, 101), deny_list="scarce,radioactive")
    assert rules is not None
    assert set(rules.allowed) == set(range(1, 101)) - DENY_LISTS["scarce"] - DENY_LISTS["radioactive"]
    assert {NUMBERS[s] for s in ("As", "Pb", "Hg", "Cd", "Be", "Tl")} == deny_lists(["toxic"])
    with pytest.raises(InputError, match="no list of elements 'ugly'"):
        make_rules(range(1, 101), deny_list="ugly")
    with pytest.raises(InputError, match="ruled out"):
        make_rules(range(1, 101), deny_list="toxic", require="Pb")


def test_the_cap_on_supply_bounds_every_crystal_of_the_elements_it_leaves() -> None:
    from pymatgen.analysis.hhi import HHIModel
    from pymatgen.core import Composition

    rules = make_rules(sorted(ALLOWED), max_hhi=2000.0)
    assert rules is not None
    names = [s for s, z in NUMBERS.items() if z in rules.allowed]
    assert "Fe" in names
    assert "Dy" not in names
    production, reserve = HHIModel().get_hhi(Composition(dict.fromkeys(names, 1)))
    assert (production + reserve) / 2 <= 2000.0


def test_a_preference_multiplies_the_odds() -> None:
    def denoiser(batch, t, conditions=None):
        return Scores(torch.zeros(1, 3), torch.zeros(1, 3, 3), torch.zeros(1, 101))

    odds = prefer_elements(denoiser, parse_preference("Li:3,Co:0.2"))(None, None).species_logits.softmax(-1)[0]
    assert float(odds[2] / odds[0]) == pytest.approx(3.0)
    assert float(odds[26] / odds[0]) == pytest.approx(0.2)
    for text in ("Li", "Li:0", "Li:x", "Xx:2"):
        with pytest.raises(InputError):
            parse_preference(text)


@pytest.mark.parametrize("space_group", ["free", "any"])
def test_counts_with_and_without_a_preference_differ_as_they_should(untrained: Path, space_group: str) -> None:
    """Of 48 crystals, free and within space groups: nearly none or many atoms of an element, the others still there."""
    from crystalsmith.generation.loaded import load

    model = load(untrained, device="cpu")
    asked = {"seed": 3, "num_atoms": 4, "space_group": space_group, "chemical_system": "Li-O-Fe-Si"}

    def share(**more: str) -> float:
        numbers = model.generate(48, **asked, **more).batch.atomic_numbers
        return float((numbers == 3).float().mean())

    plain, liked, disliked = share(), share(prefer="Li:30"), share(prefer="Li:0.03")
    assert disliked < 0.4 * plain < plain < liked < 1.0
    assert liked > plain + 0.2
    assert math.isfinite(plain)
