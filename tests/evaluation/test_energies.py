"""Energies from files: every entry is placed, or counted and named; what makes no sense is refused with its cause."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import write_cifs

from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.build import build_reference
from crystalsmith.evaluation.reference.energies import read_energies, read_entries
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.reference.schemes import release_warning, scheme_name
from crystalsmith.evaluation.run import Options, evaluate


def entry(name: str | None, composition: dict[str, float], energy: float, **more) -> dict:
    """A computed entry in pymatgen's plain form."""
    plain = {"@module": "pymatgen.entries.computed_entries", "@class": "ComputedEntry", "entry_id": name}
    plain |= {"composition": composition, "energy": energy, "correction": 0.0, "energy_adjustments": []}
    return plain | {"parameters": {}, "data": {}} | more


MG, O2, MGO = entry("e1", {"Mg": 2}, -3.2), entry("e2", {"O": 2}, -9.9), entry("e3", {"Mg": 1, "O": 1}, -12.6)
MGO2 = entry("e4", {"Mg": 1, "O": 2}, -17.6)


def write(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def structure(symbols: list[str], edge: float) -> dict:
    corners = [[0, 0, 0], [0.5, 0.5, 0.5]]
    sites = [{"species": [{"element": s, "occu": 1}], "abc": abc} for s, abc in zip(symbols, corners, strict=True)]
    return {"lattice": {"matrix": (edge * np.eye(3)).tolist()}, "sites": sites}


def hull_of(reference: Reference) -> dict[str, float]:
    return {reference.entry_name(k): reference.hull.energy(k) for k in range(reference.num_entries)}


def test_reference_from_entries(tmp_path) -> None:
    write(tmp_path / "entries.json", [MG, O2, MGO])
    manifest = build_reference([tmp_path / "entries.json"], tmp_path / "r1", corrections="none")
    assert manifest["counts"]["structures"] == 0
    assert hull_of(Reference.open(tmp_path / "r1"))["e3"] == pytest.approx(-3.025)
    cesium, chlorine = entry("c1", {"Cs": 2}, -1.7), entry("c2", {"Cl": 2}, -3.6)
    chloride = entry("c3", {"Cs": 1, "Cl": 1}, -6.8)
    forms = ((["Cs", "Cs"], 6.1), (["Cl", "Cl"], 5.0), (["Cs", "Cl"], 4.12))
    rows = [e | {"structure": structure(*f)} for e, f in zip((cesium, chlorine, chloride), forms, strict=True)]
    write(tmp_path / "structures.json", rows)
    manifest = build_reference([tmp_path / "structures.json"], tmp_path / "r2", corrections="None")
    assert manifest["counts"]["structures"] == 3
    assert hull_of(Reference.open(tmp_path / "r2"))["c3"] == pytest.approx(-3.4 + (1.7 + 3.6) / 4)


def test_hull_entries_dropped(tmp_path) -> None:
    """Elements that only --elemental-energies gives place the entries; what has no place is counted and named."""
    cifs = write_cifs(tmp_path / "cifs", ["mgo"])
    hull = write(tmp_path / "hull.json", [MG, MGO, MGO2, entry("e5", {"Mg": 1, "F": 2}, -15.0)])
    elements = write(tmp_path / "elements.json", {"Mg": -1.6, "O": -4.95})
    manifest = build_reference([cifs], tmp_path / "r", hull=hull, elemental_energies=elements, corrections="none")
    energies = hull_of(Reference.open(tmp_path / "r"))
    assert energies["e3"] == pytest.approx(-3.025)
    assert energies["e4"] == pytest.approx(-2.03333, abs=1e-4)
    assert manifest["counts"]["hull_left_out"] == {"no_elemental_energy": 1}
    assert manifest["hull_left_out"] == {"no_elemental_energy": ["e5 (F)"]}
    lonely = write(tmp_path / "h2.json", [MGO, entry("e5", {"Mg": 1, "F": 2}, -15.0)])
    with pytest.raises(InputError, match=r"F, Mg, O lack.*--elemental-energies"):
        build_reference([cifs], tmp_path / "r2", hull=lonely, corrections="none")


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (entry("g", {"Mg": 1}, -2.0, **{"@class": "GibbsComputedStructureEntry"}), "free_energy"),
        ({"@class": "ExpEntry", "composition": "MgO", "thermodata": []}, "experimental"),
        (entry("n", {"Mg": 1}, None), "no_energy"),  # type: ignore[arg-type]
        (entry("u", {"Xx": 1}, -2.0), "unreadable"),
        ({"energy": -1.0}, "unreadable"),
        ([1, 2], "unreadable"),
        (entry("i", {"Mg": 1}, float("nan")), "not_finite"),
    ],
)
def test_entries_of_other_kinds_are_counted(tmp_path, odd, reason) -> None:
    read = read_entries([write(tmp_path / "e.json", [MG, O2, MGO, odd])])
    assert len(read.names) == 3
    assert {why: len(names) for why, names in read.left_out.items()} == {reason: 1}


def test_every_kind_that_pymatgen_writes(tmp_path) -> None:
    from monty.json import MontyEncoder
    from pymatgen.analysis.phase_diagram import GrandPotPDEntry, PDEntry
    from pymatgen.core import Element
    from pymatgen.entries.computed_entries import CompositionEnergyAdjustment, ComputedEntry

    fixed = CompositionEnergyAdjustment(-0.5, 1, name="oxide")
    entries = [
        PDEntry("Mg", -1.6),
        PDEntry("O2", -9.9),
        ComputedEntry("MgO", -12.1, energy_adjustments=[fixed], entry_id="mgo"),
        GrandPotPDEntry(PDEntry("MgO2", -17.6), {Element("O"): -4.0}),
    ]
    text = json.dumps(entries, cls=MontyEncoder)
    (tmp_path / "e.json").write_text(text)
    read = read_entries([tmp_path / "e.json"])
    assert read.corrected
    assert read.energies[2:] == pytest.approx([-3.025, -2.03333], abs=1e-4)


def test_functionals_are_told_apart(tmp_path) -> None:
    gga = [entry(None, {"Mg": 2}, -3.2, parameters={"run_type": "GGA"}), entry("b", {"O": 2}, -9.9)]
    gga.append(entry("c", {"Mg": 1, "O": 1}, -12.6, parameters={"run_type": "GGA+U"}))
    read_entries([write(tmp_path / "gga.json", gga)])
    for other in (
        entry("mp-1-r2SCAN", {"Mg": 1}, -8.0),
        entry("x", {"Mg": 1}, -8.0, parameters={"run_type": "R2SCAN"}),
        entry("x", {"Mg": 1}, -8.0, data={"run_type": "r2SCAN"}),
    ):
        with pytest.raises(InputError, match="2 of GGA and 1 of r2SCAN"):
            read_entries([write(tmp_path / "mixed.json", [*gga, other])])


def hull_table(path: Path, energies: list[float], head: str = "id,composition,formation_energy_per_atom") -> Path:
    formulas = ["MgO", "Na2O", "LiFePO4", "KCl", "Al2O3", "TiO2"]
    lines = [f"m{k},{formulas[k % 6]},{e}" for k, e in enumerate(energies)]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


SANE = np.array([-3.0, -1.4, -2.6, -2.2, -3.4, -3.3])
SIZES = np.array([2, 3, 7, 2, 5, 3])


@pytest.mark.parametrize(
    ("energies", "cause"),
    [
        (1000 * SANE, "meV/atom"),
        (96.485 * SANE, "kJ/mol"),
        (6 * SANE, "total energies"),
        (SIZES * SANE * 1.8, "whole cell"),
        (0.001 * SANE, "meV/atom of zero"),
    ],
    ids=["meV", "kJ/mol", "totals", "cells", "tiny"],
)
def test_energies_out_of_sense_name_their_cause(tmp_path, energies, cause) -> None:
    with pytest.raises(InputError, match=cause):
        build_reference([hull_table(tmp_path / "h.csv", list(energies))], tmp_path / "r", corrections="none")
    assert not (tmp_path / "r").exists()


def test_a_single_wild_energy_is_left_out_by_name(tmp_path) -> None:
    energies = [*np.tile(SANE, 40), 60.0]
    manifest = build_reference([hull_table(tmp_path / "h.csv", energies)], tmp_path / "r", corrections="none")
    assert manifest["hull_left_out"] == {"energy_out_of_range": ["m240 (60 eV/atom)"]}


def test_an_id_with_two_values(tmp_path) -> None:
    (tmp_path / "h.csv").write_text("id,formula,e_form\na,MgO,-3.0\na,MgO,-2.9\n")
    with pytest.raises(InputError, match=r"id a twice, with -3 and -2\.9"):
        read_entries([tmp_path / "h.csv"])
    with pytest.raises(InputError, match="id e3 twice"):
        read_entries([write(tmp_path / "e.json", [MG, O2, MGO, MGO | {"energy": -12.0}])])
    (tmp_path / "e.csv").write_text("id,energy_per_atom\na,-3.0\nb,-1\na,-2.0\n")
    with pytest.raises(InputError, match="id a twice"):
        read_energies(tmp_path / "e.csv")
    (tmp_path / "e.csv").write_text("id,energy_per_atom\na,-3.0\na,-3.0\na,\n")
    assert read_energies(tmp_path / "e.csv") == {"a": {"total": -3.0}}


@pytest.mark.parametrize(
    "head", ["ID,Formula,E_form", "Material_ID;composition;formation_energy", "name\tFormula\te_form"]
)
def test_tables_in_any_dress(tmp_path, head) -> None:
    delimiter = next(d for d in ",;\t" if d in head)
    row = delimiter.join(["a", "MgO", "-3,0" if delimiter != "," else "-3.0"])
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "h.csv").write_bytes(f"{head}\n{row}\n".encode(encoding))
        read = read_entries([tmp_path / "h.csv"])
        assert (read.names, read.energies) == (["a"], [-3.0])
    (tmp_path / "e.csv").write_text("Material_ID;Energy_per_atom\na;-3,5\nb;failed\n")
    assert read_energies(tmp_path / "e.csv") == {"a": {"total": -3.5}, "b": {}}


def test_energies_missing_rows(tmp_path, reference_folder) -> None:
    """A row that is missing and a row that is empty give the same verdict, and no other rate changes."""
    names = ["nacl", "kcl", "mgo", "cscl"]
    cifs = write_cifs(tmp_path / "cifs", names)
    ids = sorted(p.stem for p in cifs.iterdir())
    found = []
    for rows in (f"{ids[0]},-2.0\n{ids[1]},-2.0\n", f"{ids[0]},-2.0\n{ids[1]},-2.0\n{ids[2]},\n{ids[3]},\n"):
        (tmp_path / "e.csv").write_text("id,formation_energy_per_atom\n" + rows)
        options = Options(reference_folder, tmp_path / "e.csv", "NONE")
        found.append(evaluate(cifs, tmp_path / "out", options)["metrics"])
        ledger = (tmp_path / "out" / "ledger.csv").read_text()
        assert ledger.count("no_energy") == 2
    few, empty = ({k: v for k, v in one.items() if k != "efficiency"} for one in found)
    assert few == empty
    assert few["no_energy"] == {"count": 2, "ids": ids[2:]}
    assert few["unique"]["rate"] == 1.0
    assert few["novel"]["rate"] == 0.25
    assert few["failures"] == {}
    assert few["stable"]["0.1"]["count"] == 1


def test_crystal_energies_of_another_unit_are_refused(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "kcl"])
    ids = sorted(p.stem for p in cifs.iterdir())
    (tmp_path / "e.csv").write_text(f"id,formation_energy_per_atom\n{ids[0]},-2000\n{ids[1]},-2200\n")
    with pytest.raises(InputError, match="meV/atom"):
        evaluate(cifs, tmp_path / "out", Options(reference_folder, tmp_path / "e.csv", "none"))


def test_a_crystal_whose_energy_makes_no_sense_has_none(tmp_path, reference_folder) -> None:
    """It would be the most stable of all."""
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "kcl", "mgo"])
    ids = sorted(p.stem for p in cifs.iterdir())
    (tmp_path / "e.csv").write_text(f"id,formation_energy_per_atom\n{ids[0]},-2.0\n{ids[1]},-1.5e8\n{ids[2]},-2.5\n")
    found = evaluate(cifs, tmp_path / "out", Options(reference_folder, tmp_path / "e.csv", "none"))["metrics"]
    assert found["no_energy"] == {"count": 1, "ids": [ids[1]]}
    assert found["energy_above_hull"]["of"] == 2
    assert "-1.5e+08 eV/atom is no formation energy" in (tmp_path / "out" / "ledger.csv").read_text()


def test_names_of_schemes() -> None:
    names = ("MP2020", "mp2020", "Mp-2020", "MaterialsProject2020Compatibility", "NONE", "TRI2024")
    assert [scheme_name(n) for n in names] == ["mp2020", "mp2020", "mp2020", "mp2020", "none", "tri2024"]


def test_the_release_of_pymatgen_is_noted_and_compared(tmp_path, reference_folder, capsys) -> None:
    manifest = Reference.open(reference_folder).manifest
    assert manifest["pymatgen"]
    assert release_warning(manifest) is None  # without corrections it matters to nobody
    corrected = manifest | {"corrections": "mp2020"}
    assert release_warning(corrected) is None
    assert "2023.5.10" in str(release_warning(corrected | {"pymatgen": "2023.5.10"}))
    assert "did not note" in str(release_warning({k: v for k, v in corrected.items() if k != "pymatgen"}))
    write(tmp_path / "hull.json", [MG, O2, MGO | {"correction": -0.5}])
    build_reference([tmp_path / "hull.json"], tmp_path / "r", corrections="mp2020")
    old = json.loads((tmp_path / "r" / "manifest.json").read_text()) | {"pymatgen": "2023.5.10"}
    write(tmp_path / "r" / "manifest.json", old)
    cifs = write_cifs(tmp_path / "cifs", ["mgo"])
    name = next(cifs.iterdir()).stem
    (tmp_path / "e.csv").write_text(f"id,energy_per_atom\n{name},-6.5\n")
    found = evaluate(cifs, tmp_path / "out", Options(tmp_path / "r", tmp_path / "e.csv", "mp2020"))
    assert "2023.5.10" in found["metrics"]["warnings"][0]
    assert "2023.5.10" in capsys.readouterr().err
