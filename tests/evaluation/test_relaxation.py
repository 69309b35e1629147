"""Relaxation finds the minimum, survives whatever a crystal does, and goes on where it stopped."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, FCC

from crystalsmith.errors import InputError
from crystalsmith.evaluation.potential.potentials import (
    find_potential,
    make_calculator,
    mp2020_correction,
    refuse_scheme,
)
from crystalsmith.evaluation.potential.relaxation import FILE, recover, relax
from crystalsmith.evaluation.potential.relaxed import Relaxation, key_of
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.files import append_line

EMT = "ase.calculators.emt:EMT"
"""ASE's effective medium theory: a real, quick potential for a few metals."""

COPPER = np.zeros((1, 3)), 3.7 * FCC, np.array([29])


def cu3au(rattle: float = 0.05):
    rng = np.random.default_rng(0)
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) + rattle * rng.random((4, 3)) / 3.9
    return frac, 3.9 * np.eye(3), np.array([79, 29, 29, 29])


def test_copper_finds_its_lattice_constant() -> None:
    found = relax("cu", "", COPPER, make_calculator(find_potential(EMT)), Relaxation(EMT, fmax=0.005))
    assert found.failure == ""
    assert abs(np.linalg.det(found.arrays[1])) == pytest.approx(3.5898**3 / 4, rel=2e-3)  # ASE's EMT minimum
    assert np.abs(found.stress).max() < 1e-3
    assert found.rmsd == pytest.approx(0.0, abs=1e-3)


def test_what_goes_wrong_is_told() -> None:
    emt = make_calculator(find_potential(EMT))
    assert (
        relax("x", "", (CORNERS, 4.0 * np.eye(3), np.array([11, 17])), emt, Relaxation(EMT)).failure
        == "potential_failed"
    )
    assert relax("x", "", cu3au(0.5), emt, Relaxation(EMT, steps=1)).failure == "not_converged"
    huge = relax("x", "", (np.zeros((1, 3)), 2.0 * FCC, np.array([29])), emt, Relaxation(EMT, max_volume_change=1.5))
    assert huge.failure == "exploded"
    assert relax("x", "", cu3au(0.5), emt, Relaxation(EMT, fmax=1e-9, time_limit=0.0)).failure == "timed_out"


def test_a_run_is_kept_and_goes_on(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    crystals = [cu3au(), cu3au(0.1), (CORNERS, 5.64 * FCC, np.array([11, 17]))]
    text = "".join(extxyz_frame(f, c, z, {"id": f"c{k}"}) for k, (f, c, z) in enumerate(crystals))
    (tmp_path / "a.extxyz").write_text(text)
    options = Options(relaxation=Relaxation(EMT))
    found = evaluate(tmp_path / "a.extxyz", tmp_path / "out", options)["metrics"]
    assert found["relaxed"]["count"] == 2
    assert found["unique"]["count"] == 1
    assert found["failures"] == {"potential_failed": 1}
    assert found["rmsd"]["of"] == 2
    relaxed = (tmp_path / "out" / "relaxed.extxyz").read_text()
    assert relaxed.count("energy=") == 2
    assert "forces" in relaxed
    assert {path.name for path in (tmp_path / "out" / "relaxed").iterdir()} == {"c0.cif", "c1.cif"}

    file = tmp_path / "out" / "relaxed.jsonl"
    with pytest.raises(InputError, match="--resume"):
        evaluate(tmp_path / "a.extxyz", tmp_path / "out", options)
    lines = file.read_text().splitlines()
    kept = json.loads(lines[1])
    # A run that was killed while it wrote its last line.
    file.write_text("\n".join([lines[0], lines[1], lines[2][:40]]))
    again = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(relaxation=Relaxation(EMT), resume=True))
    assert again["metrics"]["relaxed"] == found["relaxed"]
    after = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert len(after) == 3
    assert kept in after
    with pytest.raises(InputError, match="another steps"):
        evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(relaxation=Relaxation(EMT, steps=7), resume=True))


def test_an_absent_potential_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no_such_package"):
        make_calculator(find_potential("no_such_package:make"))
    with pytest.raises(InputError, match="no potential 'unheard'"):
        find_potential("unheard")
    with pytest.raises(InputError, match="has no 'nothing'"):
        make_calculator(find_potential("ase.calculators.emt:nothing"))


def test_scales_that_cannot_be_joined_are_refused() -> None:
    refuse_scheme(find_potential("7net-0"), "mp2020")
    refuse_scheme(find_potential("7net-0"), "none")
    refuse_scheme(find_potential("chgnet"), "mp2020")
    with pytest.raises(InputError, match="cannot be brought"):
        refuse_scheme(find_potential("chgnet"), "none")
    with pytest.raises(InputError, match="cannot be brought"):
        refuse_scheme(find_potential("7net-0"), "tri2024")


def test_corrections_are_the_published_ones() -> None:
    """Wang et al. 2021, Table 1: oxide -0.687 eV per O, Fe in oxides -2.256, chloride -0.614 eV per Cl."""
    lithium_oxide = np.array([[0, 0, 0], [0.25] * 3, [0.75] * 3]), 4.62 * FCC, np.array([8, 3, 3])
    assert mp2020_correction(-14.0, lithium_oxide) == pytest.approx(-0.687, abs=1e-3)
    wuestite = CORNERS, 4.3 * FCC, np.array([26, 8])
    assert mp2020_correction(-14.0, wuestite) == pytest.approx(-0.687 - 2.256, abs=1e-3)
    assert mp2020_correction(-6.0, (CORNERS, 5.64 * FCC, np.array([11, 17]))) == pytest.approx(-0.614, abs=1e-3)
    assert mp2020_correction(-9.0, (CORNERS, 2.9 * np.eye(3), np.array([26, 13]))) == 0.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(InputError, match="free some space"):
        append_line(Path("/dev/full"), {"id": "x" * 100})


def test_keys_tell_crystals_apart() -> None:
    assert key_of(cu3au()) == key_of(cu3au())
    assert key_of(cu3au()) != key_of(cu3au(0.051))


def test_a_reference_without_the_correction_is_refused_before_anything_is_computed(tmp_path, reference_folder) -> None:
    from crystalsmith.formats import cif_text

    (tmp_path / "cu.cif").write_text(cif_text("cu", *COPPER))
    options = Options(reference=reference_folder, relaxation=Relaxation("chgnet"))
    with pytest.raises(InputError, match="cannot be brought"):
        evaluate(tmp_path / "cu.cif", tmp_path / "out", options)
    assert not (tmp_path / "out" / "relaxed.jsonl").exists()


def test_energies_of_the_potential_reach_the_hull(tmp_path, reference_folder) -> None:
    """EMT puts the elements near zero, so a copper-gold crystal lands on its own energy above an empty hull."""
    from crystalsmith.evaluation.reference.build import build_reference

    (tmp_path / "hull.csv").write_text("composition,formation_energy_per_atom\nCu3Au,-0.05\n")
    (tmp_path / "elements.json").write_text('{"Cu": -0.007, "Au": 0.002}')
    kwargs = {"hull": tmp_path / "hull.csv", "corrections": "none", "elemental_energies": tmp_path / "elements.json"}
    build_reference([], tmp_path / "ref", **kwargs)
    from crystalsmith.formats import cif_text

    (tmp_path / "cu3au.cif").write_text(cif_text("cu3au", *cu3au()))
    evaluate(tmp_path / "cu3au.cif", tmp_path / "out", Options(reference=tmp_path / "ref", relaxation=Relaxation(EMT)))
    with (tmp_path / "out" / "crystals.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    energy = float(row["energy_per_atom"])
    assert float(row["formation_energy_per_atom"]) == pytest.approx(energy - (3 * -0.007 + 0.002) / 4, abs=1e-5)
    assert float(row["energy_above_hull"]) == pytest.approx(float(row["formation_energy_per_atom"]) + 0.05, abs=1e-5)
    assert row["relaxed_space_group_0.01"]


def test_the_minimum_is_that_of_another_optimiser() -> None:
    """Within 1 meV/atom of ASE's FIRE with its own scale of the cell."""
    from ase import Atoms
    from ase.calculators.emt import EMT as Emt
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    for frac, cell, numbers in (COPPER, cu3au(0.3)):
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, calculator=Emt())
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=500)
        found = relax("x", "", (frac, cell, numbers), Emt(), Relaxation(EMT, fmax=0.02))
        assert found.failure == ""
        assert abs(found.energy - atoms.get_potential_energy()) / len(atoms) < 1e-3
        assert np.linalg.norm(found.forces, axis=1).max() < 0.02
        assert np.allclose(atoms.get_volume(), abs(np.linalg.det(found.arrays[1])), rtol=0.01)


@pytest.mark.slow
def test_sevennet_finds_the_same_minimum_as_fire() -> None:
    """Known crystals, strained and rattled; energies within 1 meV/atom."""
    pytest.importorskip("sevenn")
    from ase.build import bulk
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    calculator = make_calculator(find_potential("7net-0"), "cpu")
    for seed, atoms in enumerate([bulk("NaCl", "rocksalt", a=5.64), bulk("Cu", a=3.61), bulk("Si", a=5.43)]):
        rng = np.random.default_rng(seed)
        strain = 1.03 * np.eye(3) + 0.01 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(0.08, rng=rng)
        arrays = (atoms.get_scaled_positions(), atoms.cell.array.copy(), atoms.numbers.astype(np.int64))
        found = relax("x", "", arrays, calculator, Relaxation())
        atoms.calc = calculator
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=500)
        assert found.failure == ""
        assert abs(found.energy - atoms.get_potential_energy()) / len(atoms) < 1e-3


class Broken:
    """A potential whose energies or forces are not numbers."""

    def __new__(cls, name: str):
        from ase.calculators.emt import EMT as Emt

        class Calculator(Emt):
            def calculate(self, *args, **kwargs) -> None:
                super().calculate(*args, **kwargs)
                self.results[name] = self.results[name] * float("nan")

        return Calculator()


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_numbers_that_are_none_are_a_failure(name) -> None:
    found = relax("x", "", cu3au(), Broken(name), Relaxation(EMT))
    assert found.failure == "exploded"
    assert "not finite" in found.detail


def test_an_element_that_the_potential_does_not_know_is_named() -> None:
    calculator = make_calculator(find_potential(EMT))
    calculator.type_map = {29: 0}
    found = relax("x", "", cu3au(), calculator, Relaxation(EMT))
    assert found.failure == "unknown_element"
    assert "Au" in found.detail


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch) -> None:
    """The second result does not fit; what the first cost is not paid again."""
    import errno

    from crystalsmith.evaluation.potential import relaxation
    from crystalsmith.formats import extxyz_frame

    text = "".join(extxyz_frame(*cu3au(0.1 * k), {"id": f"c{k}"}) for k in range(3))
    (tmp_path / "a.extxyz").write_text(text)
    write, calls = relaxation.append_line, []

    def full(file, record) -> None:
        calls.append(record)
        if len(calls) == 3:
            with file.open("a") as stream:
                stream.write(json.dumps(record)[:50])
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise InputError(f"{file} cannot be extended ({error.strerror})")
        write(file, record)

    monkeypatch.setattr(relaxation, "append_line", full)
    options = Options(relaxation=Relaxation(EMT))
    with pytest.raises(InputError, match="No space left"):
        evaluate(tmp_path / "a.extxyz", tmp_path / "out", options)
    monkeypatch.setattr(relaxation, "append_line", write)
    first = json.loads((tmp_path / "out" / "relaxed.jsonl").read_text().splitlines()[1])
    found = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(relaxation=Relaxation(EMT), resume=True))
    assert found["metrics"]["relaxed"]["count"] == 3
    kept = [json.loads(line) for line in (tmp_path / "out" / "relaxed.jsonl").read_text().splitlines()[1:]]
    assert len(kept) == 3
    assert first in kept


def test_relaxed_crystals_are_files_with_their_symmetry(tmp_path) -> None:
    from crystalsmith.evaluation.report.cifs import file_name, relaxed_cif

    text = relaxed_cif("x", cu3au(0.01), EMT)
    assert "relaxed by ase.calculators.emt:EMT, symmetry within 0.1 angstrom" in text
    assert "_space_group_IT_number 221" in text
    rng = np.random.default_rng(0)
    bare = relaxed_cif("x", (rng.random((3, 3)), 4 * np.eye(3) + rng.random((3, 3)), np.array([29, 79, 13])), EMT)
    assert "_space_group_IT_number 1\n" in bare
    assert "symmetry within" not in bare
    assert file_name("a/b:c", set()) == "a_b_c"
    assert file_name("a/b", {"a_b"}) == "a_b-2"
    taken: set[str] = set()
    assert [file_name(name, taken) for name in ("x", "X", "x")] == ["x", "X-2", "x-3"]


def test_a_file_without_results_stands_in_nobodys_way(tmp_path: Path) -> None:
    """What a potential that cannot be loaded leaves behind."""
    file = tmp_path / FILE
    assert recover(file, Relaxation("no.such:potential"), resume=False) == []
    assert recover(file, Relaxation("7net-0"), resume=False) == []
    append_line(file, {"id": "a", "key": "k", "failure": "timeout"})
    with pytest.raises(InputError, match="add --resume"):
        recover(file, Relaxation("7net-0"), resume=False)
    assert [one.id for one in recover(file, Relaxation("7net-0"), resume=True)] == ["a"]
    with pytest.raises(InputError, match="another potential"):
        recover(file, Relaxation("chgnet"), resume=True)
