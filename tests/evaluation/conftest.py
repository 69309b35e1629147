"""Crystals and a small reference for the tests of evaluation."""

from __future__ import annotations

import csv
import json
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

    from crystalsmith.evaluation.reference.build import build_reference

    place = tmp_path_factory.mktemp("reference")
    cifs = write_cifs(place / "cifs", ["nacl", "kcl", "mgo"])
    zeros = place / "elements.json"
    zeros.write_text(json.dumps(dict.fromkeys(["Na", "Cl", "K", "Mg", "O", "Cs"], 0.0)))
    hull = write_hull(place / "hull.csv")
    build_reference([cifs], place / "ref", hull=hull, corrections="none", elemental_energies=zeros)
    return place / "ref"


def metals() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Copper, gold, and two ordered alloys of them, near the minima of ASE's effective medium theory."""
    fcc = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    tetragonal = np.diag([2.75, 2.75, 3.75])
    return {
        "cu": (np.zeros((1, 3)), 3.59 * FCC, np.array([29])),
        "au": (np.zeros((1, 3)), 4.06 * FCC, np.array([79])),
        "cu3au": (fcc, 3.72 * np.eye(3), np.array([79, 29, 29, 29])),
        "cuau": (CORNERS, tetragonal, np.array([29, 79])),
    }


def results(out: Path) -> tuple[str, list[dict], str]:
    """What an evaluation found, without the times that it took."""
    found = json.loads((out / "metrics.json").read_text())["metrics"]
    for timed in ("efficiency", "seconds_per_crystal"):
        found.pop(timed)
    with (out / "crystals.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]
    return json.dumps(found, indent=1), rows, (out / "relaxed.extxyz").read_text()


def emt_energy(arrays) -> float:
    """eV/atom by the effective medium theory."""
    from ase import Atoms
    from ase.calculators.emt import EMT

    frac, cell, numbers = arrays
    atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, calculator=EMT())
    return float(atoms.get_potential_energy()) / len(numbers)


GOLD_ERROR = 0.2
"""eV per gold atom that the labels of the metals lie above EMT: an error of the potential, planted."""


@pytest.fixture
def metal_reference(tmp_path: Path) -> Path:
    """The metals with labels that differ from EMT by a planted error for gold, and CuAu3, which has no structure."""

    from crystalsmith.evaluation.reference.build import build_reference
    from crystalsmith.evaluation.reference.known import formula_text
    from crystalsmith.formats import extxyz_frame

    crystals = metals()
    elements = {"Cu": emt_energy(crystals["cu"]), "Au": emt_energy(crystals["au"]) + GOLD_ERROR}
    lines = ["material_id,composition,formation_energy_per_atom", "lost,CuAu3,-0.03"]
    for name, arrays in crystals.items():
        gold = float((arrays[2] == 79).mean())
        formation = emt_energy(arrays) + GOLD_ERROR * gold - gold * elements["Au"] - (1 - gold) * elements["Cu"]
        lines.append(f"{name},{formula_text(arrays[2]).decode()},{formation}")
    (tmp_path / "metals.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "metals.json").write_text(json.dumps(elements))
    frames = [extxyz_frame(*arrays, {"id": name}) for name, arrays in crystals.items()]
    (tmp_path / "metals.extxyz").write_text("".join(frames))
    build_reference(
        [tmp_path / "metals.extxyz"],
        tmp_path / "metals",
        hull=tmp_path / "metals.csv",
        corrections="none",
        elemental_energies=tmp_path / "metals.json",
    )
    return tmp_path / "metals"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single points in this process: to start another and load torch there takes seconds."""
    from crystalsmith.engine.run import Engine, run
    from crystalsmith.evaluation.potential import single_points

    def here(begin, tasks, engine, arguments, time_limit):
        return run(begin, tasks, Engine(1), arguments=arguments)

    monkeypatch.setattr(single_points, "run", here)
