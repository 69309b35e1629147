"""What goes out to DFT can be read by what reads it, and what comes back says how wrong the potential was."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from crystalsmith.discovery.archive import ranked
from crystalsmith.discovery.energies import compare
from crystalsmith.discovery.handoff import export
from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.errors import InputError


@pytest.fixture
def run(tmp_path: Path, wish: Wish, alloy) -> Path:
    """A ledger of three accepted alloys, 0.00, 0.02 and 0.05 eV/atom above the hull, written by hand."""
    folder = Folder.create(tmp_path / "run", wish, Limits(want=3), {"model": {"source": "none", "weights_sha256": ""}})
    for number, (pair, above) in enumerate([("CuPt", 0.05), ("NiPd", 0.0), ("AgAu", 0.02)]):
        arrays, energy = alloy(pair[:2], pair[2:])
        crystal = {"frac": arrays[0].tolist(), "cell": arrays[1].tolist(), "numbers": arrays[2].tolist()}
        plan = {"source": "known:0", "kinds": "2", "size": "1-6"}
        folder.add({"stage": "proposed", "number": number, "round": 0, "plan": plan, "crystal": crystal, "at": number})
        total = 2 * energy
        values = {"energy": total, "forces": [[0.0] * 3] * 2, "stress": [0.0] * 6, "formula": pair, "steps": 3}
        folder.add({"stage": "relaxed", "number": number, "values": values, "crystal": crystal, "at": number})
        folder.add({"stage": "accepted", "number": number, "values": {"energy_above_hull": above}, "at": number})
    return tmp_path / "run"


def test_the_most_stable_come_first_and_no_more_than_asked(run: Path) -> None:
    place, number = export(run, "vasp", 2)
    rows = list(csv.DictReader((place / "index.csv").open()))
    assert number == 2
    assert [r["id"] for r in rows] == ["c00001", "c00002"]
    assert not (place / "c00000").exists()


def test_vasp_inputs_are_those_of_the_materials_project(run: Path) -> None:
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    place, _ = export(run, "vasp", 1)
    here = place / "c00001"
    incar = Incar.from_file(here / "INCAR")
    assert (incar["ENCUT"], incar["ISIF"], incar["ISPIN"]) == (520, 3, 2)
    assert Kpoints.from_file(here / "KPOINTS").num_kpts == 0
    structure = Poscar.from_file(here / "POSCAR", check_for_potcar=False).structure
    assert structure.composition.reduced_formula == "NiPd"
    assert (here / "POTCAR.spec").read_text().split() == ["Ni_pv", "Pd"]


def test_quantum_espresso_reads_its_input(run: Path) -> None:
    from ase.io import read

    place, _ = export(run, "qe", 3)
    atoms = read(place / "c00001" / "pw.in", format="espresso-in")
    candidate = ranked(Folder.open(run).state())[0]
    assert sorted(atoms.numbers) == sorted(candidate.relaxed[2])
    assert np.allclose(atoms.cell.array, candidate.relaxed[1], atol=1e-6)
    text = (place / "c00001" / "pw.in").read_text()
    assert "nspin = 2" in text
    assert "starting_magnetization(1)" in text


def test_other_packages_read_theirs(run: Path) -> None:
    from ase.io import read
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    frames = read(export(run, "ase", 3)[0] / "candidates.extxyz", ":")
    entries = json.loads((export(run, "pymatgen", 3)[0] / "entries.json").read_text())
    for atoms, entry in zip(frames, entries, strict=True):
        found = ComputedStructureEntry.from_dict(entry)
        assert atoms.info["id"] == found.entry_id
        assert atoms.get_potential_energy() == pytest.approx(found.energy)


def test_what_cannot_be_written_is_refused(run: Path, tmp_path: Path, wish: Wish) -> None:
    with pytest.raises(InputError, match="use vasp"):
        export(run, "abinit", 3)
    Folder.create(tmp_path / "empty", wish, Limits(want=1), {"model": {"source": "", "weights_sha256": ""}})
    with pytest.raises(InputError, match="accepted no candidate"):
        export(tmp_path / "empty", "vasp", 3)


def test_a_planted_error_of_the_potential_is_found_and_the_ranking_follows_the_new_energies(run: Path) -> None:
    from crystalsmith.evaluation.reference.known import Reference

    folder = Folder.open(run)
    reference = Reference.open(folder.wish.reference)
    lines = ["id,formation_energy_per_atom"]
    # The given hull distances, 0.03 above the potential's; the best one is worse still.
    wanted = {"c00000": 0.08, "c00001": 0.13, "c00002": 0.05}
    for candidate in folder.state().accepted:
        composition = dict.fromkeys(candidate.relaxed[2].tolist(), 1.0)
        hull = reference.hull.distance(composition, 0.0)
        lines.append(f"{candidate.name},{wanted[candidate.name] - hull.energy_above_hull}")
    (run / "dft.csv").write_text("\n".join(lines) + "\n")
    found = compare(run, run / "dft.csv", "none")
    assert found.bias == pytest.approx(-(0.03 + 0.13 + 0.03) / 3, abs=1e-5)
    assert found.mae == pytest.approx(-found.bias, abs=1e-5)
    assert (found.candidates, found.still, found.missing) == (3, 3, 0)
    rows = list(csv.DictReader((run / "reranked.csv").open()))
    assert [r["id"] for r in rows] == ["c00002", "c00000", "c00001"]
    with pytest.raises(InputError, match="scheme"):
        compare(run, run / "dft.csv", "mp2020")
    with pytest.raises(InputError, match="--corrections"):
        compare(run, run / "dft.csv", None)
