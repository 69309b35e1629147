"""The bulk modulus is the curvature of the energy, and a curve that is none is refused with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, FCC

from crystalsmith.evaluation.potential.elastic import Strains, bulk_modulus, fit_modulus
from crystalsmith.formats import extxyz_frame

GPA = 0.006241509074  # eV per cubic angstrom (CODATA 2018)
VOLUMES = 40.0 * np.linspace(0.97, 1.03, 7) ** 3


def birch_murnaghan(volumes, v0: float, b0: float, b1: float):
    x = (v0 / volumes) ** (2 / 3)
    return 9 * v0 * b0 * GPA / 16 * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x))


@pytest.mark.parametrize("modulus", [1.0, 30.0, 443.0])
def test_a_planted_modulus_comes_back(modulus: float) -> None:
    value, reason = fit_modulus(VOLUMES, -5.0 + birch_murnaghan(VOLUMES, 40.0, modulus, 4.5))
    assert reason == ""
    assert value == pytest.approx(modulus, rel=1e-4)


def test_what_is_no_equation_of_state_is_refused() -> None:
    good = birch_murnaghan(VOLUMES, 40.0, 50.0, 4.0)
    noise = np.array([0, 1, -1, 1, -1, 1, 0]) * 0.2 * np.ptp(good)
    cases = {
        "no minimum": birch_murnaghan(VOLUMES, 50.0, 50.0, 4.0),
        "not finite": np.where(np.arange(7) == 2, np.nan, good),
        "no bulk modulus": birch_murnaghan(VOLUMES, 40.0, 5000.0, 4.0),
        "do not follow": good + noise,
    }
    for expected, energies in cases.items():
        value, reason = fit_modulus(VOLUMES, energies)
        assert value is None
        assert expected in reason


def test_the_curvature_of_the_energy_is_the_slope_of_the_pressure() -> None:
    from ase import Atoms
    from ase.calculators.emt import EMT

    found = bulk_modulus((np.zeros((1, 3)), 3.6 * FCC, np.array([29])), EMT())
    assert len(found.energies) == Strains().points

    def pressure(volume: float) -> float:
        atoms = Atoms("Cu", cell=(4 * volume) ** (1 / 3) * FCC, pbc=True, calculator=EMT())
        return -atoms.get_stress()[:3].mean() / GPA

    low, high = found.volumes[0], found.volumes[-1]
    for _ in range(40):  # bisection for the volume without pressure
        middle = (low + high) / 2
        low, high = (middle, high) if pressure(middle) > 0 else (low, middle)
    slope = -(pressure(1.001 * low) - pressure(0.999 * low)) / 0.002
    assert found.value == pytest.approx(slope, rel=0.02)


def test_neither_the_size_of_the_cell_nor_its_choice_matters() -> None:
    from ase.calculators.emt import EMT

    primitive = bulk_modulus((np.zeros((1, 3)), 3.6 * FCC, np.array([29])), EMT())
    conventional = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cubic = bulk_modulus((conventional, 3.6 * np.eye(3), np.array([29] * 4)), EMT())
    assert cubic.value == pytest.approx(primitive.value, rel=1e-3)


def test_argon_of_lennard_jones_has_the_modulus_of_the_lattice_sum() -> None:
    from ase.calculators.lj import LennardJones

    # Energy per atom at the distance r of neighbours: E = 2 eps (A12 (s/r)^12 - A6 (s/r)^6), with the
    # face-centred cubic sums A12 = 12.13188 and A6 = 14.45392 (Kittel); E' = 0 gives r0, and B = r0^2 E'' / (9 V).
    a12, a6, eps, sigma = 12.13188, 14.45392, 0.0104, 3.40
    r0 = sigma * (2 * a12 / a6) ** (1 / 6)
    second = 2 * eps * (156 * a12 * (sigma / r0) ** 12 - 42 * a6 * (sigma / r0) ** 6) / r0**2
    volume = r0**3 / np.sqrt(2)
    expected = second * r0**2 / (9 * volume) / GPA
    cell = np.sqrt(2) * r0 * FCC
    found = bulk_modulus((np.zeros((1, 3)), cell, np.array([18])), LennardJones(sigma=sigma, epsilon=eps, rc=25.0))
    assert found.value == pytest.approx(expected, rel=0.01)


@pytest.mark.slow  # starts four processes
def test_an_evaluation_computes_it_once_and_for_the_control_too(tmp_path) -> None:
    from crystalsmith.evaluation.asked.request import Request
    from crystalsmith.evaluation.asked.requirements import parse_requirement
    from crystalsmith.evaluation.potential.relaxed import Relaxation
    from crystalsmith.evaluation.run import Options, evaluate

    run, free = tmp_path / "run", tmp_path / "free"
    write_metals(run, {"Cu": 29, "Au": 79}, "134")
    write_metals(free, {"Al": 13}, "")
    request = Request(control=free, requirements=(parse_requirement("bulk_modulus 120..150"),), bulk_modulus=True)
    relaxation = Relaxation("ase.calculators.emt:EMT", fmax=0.01)
    options = Options(relaxation=relaxation, request=request)
    found = evaluate(run, tmp_path / "out", options)["metrics"]
    adherence = found["adherence"]["bulk_modulus"]
    assert adherence["measured_by"] == "equation of state by ase.calculators.emt:EMT"
    assert adherence["measured"] == 2
    assert adherence["control"]["of"] == 1
    assert adherence["control"]["median"] < 60  # aluminium is soft
    assert found["requirements"]["all"]["count"] == 1
    kept = (tmp_path / "out" / "elastic.jsonl").read_text()
    again = evaluate(run, tmp_path / "out", replace(options, resume=True))["metrics"]
    assert (tmp_path / "out" / "elastic.jsonl").read_text() == kept
    assert again["adherence"] == found["adherence"]


def write_metals(folder, metals: dict[str, int], target: str) -> None:
    folder.mkdir()
    lines, frames = ["id,file,note,target_bulk_modulus"], []
    for name, z in metals.items():
        lengths = {"Cu": 3.6, "Au": 4.07, "Al": 4.0}
        frames.append(extxyz_frame(np.zeros((1, 3)), lengths[name] * FCC, np.array([z]), {"id": name}))
        lines.append(f"{name},,,{target}")
    (folder / "crystals.csv").write_text("\n".join(lines) + "\n")
    (folder / "crystals.extxyz").write_text("".join(frames))
    (folder / "manifest.json").write_text('{"format": "crystalsmith-generation-1", "settings": {}}')


# Experiment at room temperature (Kittel, Introduction to Solid State Physics; diamond: Occelli et al. 2003).
MEASURED = {
    "Cu": (np.zeros((1, 3)), 3.61 * FCC, [29], 137.0),
    "Si": (CORNERS / 2, 5.43 * FCC, [14, 14], 98.0),
    "NaCl": (CORNERS, 5.64 * FCC, [11, 17], 24.0),
    "diamond": (CORNERS / 2, 3.567 * FCC, [6, 6], 446.0),
}


@pytest.mark.slow
def test_sevennet_orders_and_sizes_known_crystals(tmp_path) -> None:
    pytest.importorskip("sevenn", reason="SevenNet is not installed (pip install 'crystalsmith[evaluate]')")
    from crystalsmith.evaluation.potential.potentials import find_potential, make_calculator
    from crystalsmith.evaluation.potential.relaxation import relax
    from crystalsmith.evaluation.potential.relaxed import Relaxation

    calculator = make_calculator(find_potential("7net-0"), "cpu")
    for name, (frac, cell, numbers, measured) in MEASURED.items():
        relaxed = relax(name, "", (frac, cell, np.array(numbers)), calculator, Relaxation(fmax=0.01))
        found = bulk_modulus(relaxed.arrays, calculator)
        print(f"{name}: {found.value} GPa {found.reason} (experiment {measured})")
        assert found.value == pytest.approx(measured, rel=0.2)
