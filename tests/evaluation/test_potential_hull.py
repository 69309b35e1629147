"""On a hull of the potential's own energies its systematic errors cancel, and nothing is computed twice."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from tests.evaluation.conftest import GOLD_ERROR, emt_energy, metals

from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.potential.hull import potential_hull
from crystalsmith.evaluation.potential.potentials import Potential, find_potential
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.potential.single_points import Energies, potential_file, single_point
from crystalsmith.evaluation.reference.hull import Hull
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.evaluation.stability import check_hull

EMT = "ase.calculators.emt:EMT"


def rows_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def emt_hull() -> Hull:
    """The hull of the metals' total energies."""
    arrays = metals().values()
    compositions = [{int(z): float((numbers == z).mean()) for z in set(numbers)} for _, _, numbers in arrays]
    return Hull.from_entries(compositions, [emt_energy(a) for a in arrays])


def test_the_errors_of_the_potential_cancel(tmp_path, metal_reference) -> None:
    from crystalsmith.formats import extxyz_frame

    frac, cell, numbers = metals()["cuau"]
    sheared = cell @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1.1]])
    (tmp_path / "a.extxyz").write_text(extxyz_frame(frac, sheared, numbers, {"id": "a"}))
    options = {"reference": metal_reference, "relaxation": Relaxation(EMT, fmax=0.01), "hull": "potential"}
    found = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(**options))["metrics"]
    (row,) = rows_of(tmp_path / "out" / "crystals.csv")

    # The elemental energies of the labels do not matter: only differences of the potential's own energies are left.
    expected = emt_hull().distance({29: 1.0, 79: 1.0}, float(row["energy_per_atom"])).energy_above_hull
    assert float(row["energy_above_hull"]) == pytest.approx(expected, abs=2e-6)
    assert float(row["energy_above_label_hull"]) < expected - 0.4 * GOLD_ERROR
    assert row["decomposition"] == "au 0.333; cu3au 0.667"

    hull = found["hull"]
    assert (hull["single_points_known"], hull["single_points_computed"], hull["left_out"]) == (0, 4, 1)
    assert hull["systems"][0]["entries"] == [2, 2]
    assert hull["systems"][0]["left_out"] == 1
    (lost,) = rows_of(tmp_path / "out" / "hull_left_out.csv")
    assert (lost["id"], lost["reason"], lost["chemical_system"]) == ("lost", "no_structure", "Cu-Au")

    again = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options(**options, resume=True))["metrics"]["hull"]
    assert (again["single_points_known"], again["single_points_computed"]) == (4, 0)


def test_energies_are_kept_through_interruptions_and_only_the_rest_is_computed(metal_reference, in_process) -> None:
    reference = Reference.open(metal_reference)
    told: list[str] = []
    limited = potential_hull(
        [(29, 79)], reference, Energies(reference, EMT, None), Engine(), limit=3, announce=told.append
    )
    assert "3 single points" in told[0]
    assert "1 more left out by the limit" in told[0]
    # Elements first, then what lies lowest by its label.
    assert set(limited.names) >= {"cu", "au"}
    assert limited.computed.left_for_limit == 1
    assert sorted(limited.left_out.values()) == ["no_energy", "no_structure"]

    file = potential_file(reference, find_potential(EMT), ".jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    file.write_text("\n".join([*lines[:-1], lines[-1][:30]]))  # killed while it wrote the last line
    whole = Energies(reference, EMT, None).compute(range(4), Engine())
    assert (whole.known, whole.computed) == (2, 2)
    assert len(file.read_text().splitlines()) == 5
    for row, point in whole.by_row.items():
        assert point.energy_per_atom == pytest.approx(emt_energy(reference.structure(row)[1]), abs=1e-5)

    file.write_text(lines[0] + "\nnonsense\n")
    with pytest.raises(InputError, match="delete it"):
        Energies(reference, EMT, None).compute(range(4), Engine())


def test_another_version_of_a_potential_has_a_file_of_its_own(metal_reference, monkeypatch) -> None:
    reference = Reference.open(metal_reference)
    before = potential_file(reference, find_potential(EMT), ".jsonl")
    monkeypatch.setattr(Potential, "version", property(lambda self: "0.0.0"))
    assert potential_file(reference, find_potential(EMT), ".jsonl") != before


def test_an_element_without_structure_stands_at_the_labelled_energy(tmp_path, in_process) -> None:
    from crystalsmith.evaluation.reference.build import build_reference
    from crystalsmith.formats import extxyz_frame

    crystals = metals()
    (tmp_path / "a.extxyz").write_text(extxyz_frame(*crystals["cu"], {"id": "cu"}))
    (tmp_path / "hull.csv").write_text("material_id,composition,formation_energy_per_atom\ncu,Cu,0.0\nau,Au,0.0\n")
    (tmp_path / "elements.json").write_text('{"Cu": -0.007, "Au": 0.002}')
    kwargs = {"hull": tmp_path / "hull.csv", "corrections": "none", "elemental_energies": tmp_path / "elements.json"}
    build_reference([tmp_path / "a.extxyz"], tmp_path / "ref", **kwargs)
    reference = Reference.open(tmp_path / "ref")
    found = potential_hull([(29, 79)], reference, Energies(reference, EMT, None), Engine())
    assert found.elements_from_labels == ("Au",)
    assert found.hull.distance({79: 1.0}, 0.0).energy_above_hull == 0.0
    assert found.hull.distance({29: 1.0}, 0.0).hull_energy == pytest.approx(
        emt_energy(crystals["cu"]) + 0.007, abs=1e-5
    )


def test_what_goes_wrong_with_a_structure_is_told() -> None:
    from ase.calculators.emt import EMT as Calculator

    plain = find_potential(EMT)
    salt = (np.zeros((1, 3)), 4.0 * np.eye(3), np.array([11]))
    assert single_point("x", "", salt, Calculator(), plain, "none").failure == "potential_failed"
    assert np.isnan(single_point("x", "", salt, Calculator(), plain, "none").energy_per_atom)
    shy = Calculator()
    shy.type_map = {29: 0}
    assert single_point("x", "", salt, shy, plain, "none").failure == "unknown_element"
    good = single_point("cu", "", metals()["cu"], Calculator(), plain, "none")
    assert good.energy_per_atom == emt_energy(metals()["cu"])


def test_a_hull_that_cannot_be_had_is_refused_at_once(metal_reference, tmp_path) -> None:
    reference, relaxation = Reference.open(metal_reference), Relaxation(EMT)
    check_hull("potential", 10, relaxation, reference)
    for arguments, words in (
        (("dft", None, None, None), "labels or potential"),
        (("labels", 5, None, None), "leave it out"),
        (("potential", None, None, reference), "--potential"),
        (("potential", None, relaxation, None), "--reference"),
    ):
        with pytest.raises(InputError, match=words):
            check_hull(*arguments)
    manifest = json.loads((metal_reference / "manifest.json").read_text())
    reference.manifest = manifest | {"elemental_energies": None}
    with pytest.raises(InputError, match="--elemental-energies"):
        check_hull("potential", None, relaxation, reference)
