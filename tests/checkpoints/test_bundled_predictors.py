"""What the bundled predictors say of well-known crystals."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk

import crystalsmith
from crystalsmith.checkpoints.predictor import bundled_predictors, load_predictor

WIDE = [bulk("MgO", "rocksalt", 4.24), bulk("NaCl", "rocksalt", 5.69), bulk("C", "diamond", 3.57)]
METALS = [bulk("Cu"), bulk("Al"), bulk("NiAl", "cesiumchloride", 2.9)]


def test_insulators_have_a_wide_gap_and_metals_have_none() -> None:
    gaps = crystalsmith.predict("band-gap", [*WIDE, *METALS]).values
    assert all(gap is not None and gap > 3.0 for gap in gaps[:3])
    assert all(gap is not None and abs(gap) < 0.1 for gap in gaps[3:])


def test_a_stretched_crystal_lies_higher_above_the_hull() -> None:
    def stretched(crystal: Atoms, factor: float) -> Atoms:
        other = crystal.copy()
        other.set_cell(crystal.cell * factor, scale_atoms=True)
        return other

    for crystal in (WIDE[0], METALS[2]):
        at_rest, wide = crystalsmith.predict("energy-above-hull", [crystal, stretched(crystal, 1.1)]).values
        assert at_rest is not None
        assert wide is not None
        assert wide > at_rest + 0.05


@pytest.mark.parametrize("name", sorted(bundled_predictors()))
def test_every_bundled_predictor_states_its_error_and_has_a_card(name: str) -> None:
    assert "mean absolute error" in load_predictor(name).note
    card = (bundled_predictors()[name] / "card.md").read_text(encoding="utf-8")
    assert "Mean absolute error" in card
    assert "Licence" in card
