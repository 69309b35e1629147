"""Crystals and a small reference for the tests of evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

FCC = 0.5 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
CORNERS = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])

CRYSTALS = {
    "nacl": (CORNERS, 5.64 * FCC, [11, 17]),
    "kcl": (CORNERS, 6.29 * FCC, [19, 17]),
    "mgo": (CORNERS, 4.21 * FCC, [12, 8]),
    "cscl": (CORNERS, 4.12 * np.eye(3), [55, 17]),
    "nacl-dense": (CORNERS, 3.5 * np.eye(3), [11, 17]),
}
"""Name to fractional coordinates, cell in angstrom and atomic numbers."""

ENERGIES = {"nacl": -2.0, "kcl": -2.2, "mgo": -3.0, "cscl": -2.2, "nacl-dense": -1.9}
"""Made-up formation energies, eV/atom."""


def write_cifs(folder: Path, names, rng=None, rattle: float = 0.0) -> Path:
    """A folder of CIFs of the named crystals, rattled by so many angstrom."""
    from crystalsmith.formats import cif_text

    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        frac, cell, numbers = CRYSTALS[name]
        moved = frac if rng is None else frac + rattle * rng.standard_normal(frac.shape) @ np.linalg.inv(cell)
        (folder / f"{k:03d}-{name}.cif").write_text(cif_text(name, moved, cell, np.array(numbers)))
    return folder


def write_hull(path: Path, energies: dict[str, float] = ENERGIES) -> Path:
    """A table of composition and formation energy."""
    from crystalsmith.elements import SYMBOLS

    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["material_id", "composition", "formation_energy_per_atom"])
        for name, energy in energies.items():
            table.writerow([name, "".join(SYMBOLS[z - 1] for z in CRYSTALS[name][2]), energy])
    return path


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference of rock salt, KCl and MgO with a hull of all the energies and elemental energies of zero."""
    import json

    from crystalsmith.evaluation.reference_build import build_reference

    place = tmp_path_factory.mktemp("reference")
    cifs = write_cifs(place / "cifs", ["nacl", "kcl", "mgo"])
    zeros = place / "elements.json"
    zeros.write_text(json.dumps(dict.fromkeys(["Na", "Cl", "K", "Mg", "O", "Cs"], 0.0)))
    hull = write_hull(place / "hull.csv")
    build_reference([cifs], place / "ref", hull=hull, corrections="none", elemental_energies=zeros)
    return place / "ref"
