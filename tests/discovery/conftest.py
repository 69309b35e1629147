"""Binary alloys of metals that ASE's effective medium theory knows: a reference with gaps, quick to relax."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.elements import NUMBERS, SYMBOLS

METALS = {"Al": 4.0, "Ni": 3.49, "Cu": 3.59, "Pd": 3.88, "Ag": 4.06, "Pt": 3.93, "Au": 4.06}
"""Lattice constants of the fcc metals under the theory, angstrom, roughly."""

KNOWN = ["AlNi", "CuAu", "AlPd", "CuPd", "AgPd", "NiPt", "CuPt", "AgAu", "NiCu", "AlAu", "AlAg"]

FCC = 0.5 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])


def emt() -> object:
    """For ``--potential tests...:emt``; a calculator of the effective medium theory."""
    from ase.calculators.emt import EMT

    return EMT()


def energy(arrays) -> float:
    """eV/atom."""
    from ase import Atoms

    frac, cell, numbers = arrays
    atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, calculator=emt())
    return float(atoms.get_potential_energy()) / len(numbers)


def tetragonal(a: str, b: str):
    """The L1_0 alloy of two metals in its cell of two atoms."""
    edge = 0.5 * (METALS[a] + METALS[b])
    frac = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    return frac, np.diag([edge / 2**0.5, edge / 2**0.5, edge]), np.array([NUMBERS[a], NUMBERS[b]])


@pytest.fixture(scope="session")
def alloys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference of the metals and of some of their L1_0 alloys, with energies of the potential itself."""
    from crystalsmith.evaluation.reference.build import build_reference
    from crystalsmith.evaluation.reference.known import formula_text
    from crystalsmith.formats import extxyz_frame

    place = tmp_path_factory.mktemp("alloys")
    crystals = {m: (np.zeros((1, 3)), a * FCC, np.array([NUMBERS[m]])) for m, a in METALS.items()}
    pure = {m: energy(one) for m, one in crystals.items()}
    for text in KNOWN:
        crystals[text] = tetragonal(text[:2], text[2:])
    lines = ["material_id,composition,formation_energy_per_atom"]
    for name, arrays in crystals.items():
        parts = [SYMBOLS[z - 1] for z in arrays[2]]
        formation = energy(arrays) - sum(pure[p] for p in parts) / len(parts)
        lines.append(f"{name},{formula_text(arrays[2]).decode()},{formation}")
    (place / "hull.csv").write_text("\n".join(lines) + "\n")
    (place / "elements.json").write_text(json.dumps(pure))
    (place / "known.extxyz").write_text("".join(extxyz_frame(*a, {"id": n}) for n, a in crystals.items()))
    build_reference(
        [place / "known.extxyz"],
        place / "ref",
        hull=place / "hull.csv",
        corrections="none",
        elemental_energies=place / "elements.json",
    )
    return place / "ref"


@pytest.fixture
def alloy():
    """An L1_0 alloy of two metals and its energy by the potential, eV/atom."""
    return lambda a, b: (tetragonal(a, b), energy(tetragonal(a, b)))


@pytest.fixture
def potential(monkeypatch: pytest.MonkeyPatch) -> str:
    """The effective medium theory by a name that can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "emt_potential:make"


@pytest.fixture
def wish(alloys: Path, untrained: Path, potential: str) -> Wish:
    """New alloys of the metals, within 0.5 eV/atom of the hull."""
    return Wish(
        model=str(untrained),
        steering={"allow": ",".join(METALS)},
        num_atoms=(1, 4),
        requirements=("energy_above_hull<=0.5",),
        reference=str(alloys),
        potential=potential,
        proposals=10,
        relaxations=3,
        fmax=0.1,
        relax_steps=60,
    )


@pytest.fixture
def limits() -> Limits:
    """Seven relaxations."""
    return Limits(relaxations=7)
