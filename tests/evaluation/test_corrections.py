"""The Materials Project's corrections of 2020, pinned: they have changed between releases of pymatgen.

Values in eV per atom: Wang et al., "A framework for quantifying uncertainty in DFT energy corrections", Scientific
Reports 11, 15496 (2021), table 1. Metals with a Hubbard U are corrected in oxides and fluorides only.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from crystalsmith.evaluation.potential.potentials import mp2020_correction

OXIDE, FLUORIDE = -0.687, -0.462
PEROXIDE, SUPEROXIDE = -0.465, -0.161
ANIONS = {"O": OXIDE, "S": -0.503, "F": FLUORIDE, "Cl": -0.614, "Br": -0.534, "I": -0.379, "N": -0.361, "H": -0.179}
ANIONS |= {"Se": -0.472, "Te": -0.422}
METALS = {"V": -1.700, "Cr": -1.999, "Mn": -1.668, "Fe": -2.256, "Co": -1.638, "Ni": -2.541}
METALS |= {"W": -4.438, "Mo": -3.202}


def cell(*symbols_and_places: tuple[str, tuple[float, float, float]], edge: float = 4.2) -> tuple:
    numbers = np.array([atomic_numbers[s] for s, _ in symbols_and_places], dtype=np.int64)
    return np.array([p for _, p in symbols_and_places]), edge * np.eye(3), numbers


def correction(*atoms: tuple[str, tuple[float, float, float]], edge: float = 4.2) -> float:
    return mp2020_correction(-5.0 * len(atoms), cell(*atoms, edge=edge))


def salt(cation: str, anion: str) -> tuple:
    """One formula unit of the caesium chloride type."""
    return (cation, (0, 0, 0)), (anion, (0.5, 0.5, 0.5))


@pytest.mark.parametrize("anion", sorted(ANIONS))
def test_anions(anion: str) -> None:
    cation = {"O": "Mg", "S": "Mg", "Se": "Mg", "Te": "Mg", "N": "Al"}.get(anion, "Na")
    assert correction(*salt(cation, anion)) == pytest.approx(ANIONS[anion], abs=1e-3)


@pytest.mark.parametrize("metal", sorted(METALS))
def test_metals_with_u_in_oxides(metal: str) -> None:
    assert correction(*salt(metal, "O")) == pytest.approx(METALS[metal] + OXIDE, abs=1e-3)


def test_metals_with_u_in_fluorides_and_nowhere_else() -> None:
    fluoride = (("Mn", (0, 0, 0)), ("F", (0.5, 0.5, 0)), ("F", (0.5, 0, 0.5)))
    assert correction(*fluoride) == pytest.approx(METALS["Mn"] + 2 * FLUORIDE, abs=1e-3)
    assert correction(*salt("Mn", "S")) == pytest.approx(ANIONS["S"], abs=1e-3)
    assert correction(("Fe", (0, 0, 0)), ("Al", (0.5, 0.5, 0.5))) == 0.0


@pytest.mark.parametrize(("distance", "value"), [(1.49, PEROXIDE), (1.30, SUPEROXIDE)])
def test_oxygen_pairs_are_told_by_their_distance(distance: float, value: float) -> None:
    half = distance / 2 / 6.0
    pair = [("O", (0.5 - half, 0.5, 0.5)), ("O", (0.5 + half, 0.5, 0.5))]
    metals = [("Na", (0, 0, 0)), ("Na", (0.5, 0, 0))] if value == PEROXIDE else [("K", (0, 0, 0))]
    assert correction(*metals, *pair, edge=6.0) == pytest.approx(2 * value, abs=1e-3)


def test_azides_are_not_corrected() -> None:
    # As pymatgen 2026.10 has it: a third of a charge on each nitrogen is no oxidation state that the scheme corrects.
    chain = [("N", (0.5 - 0.2, 0.5, 0.5)), ("N", (0.5, 0.5, 0.5)), ("N", (0.5 + 0.2, 0.5, 0.5))]
    assert correction(("Na", (0, 0, 0)), *chain, edge=5.85) == 0.0
