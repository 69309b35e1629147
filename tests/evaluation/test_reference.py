"""A reference finds peers by formula, keeps its energies' scheme, and refuses what does not belong together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, ENERGIES, write_cifs, write_hull

from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.build import build_reference
from crystalsmith.evaluation.reference.compositions import parse_composition
from crystalsmith.evaluation.reference.energies import read_energies, read_entries
from crystalsmith.evaluation.reference.known import Reference


def test_structures_come_back_by_reduced_formula(reference_folder) -> None:
    reference = Reference.open(reference_folder)
    assert (reference.num_structures, reference.num_entries) == (3, 5 + 6)
    found = list(reference.same_formula(np.array([17, 11, 17, 11])))
    assert [name for name, _ in found] == ["000-nacl"]
    frac, cell, numbers = found[0][1]
    assert sorted(numbers.tolist()) == [11, 17]
    assert abs(np.linalg.det(cell)) == pytest.approx(abs(np.linalg.det(CRYSTALS["nacl"][1])), rel=1e-5)
    assert frac.shape == (2, 3)
    assert not list(reference.same_formula(np.array([11, 17, 17])))
    assert sorted(reference.space_groups.tolist()) == [225, 225, 225]
    assert reference.num_elements.tolist() == [2, 2, 2]
    assert reference.element_counts[17] == 2


def test_the_hull_counts_from_the_elements(reference_folder) -> None:
    reference = Reference.open(reference_folder)
    assert reference.hull.distance({11: 1, 17: 1}, -1.9).energy_above_hull == pytest.approx(0.1)
    assert reference.hull.distance({11: 1}, 0.0).energy_above_hull == pytest.approx(0.0)
    assert reference.hull.distance({11: 1, 92: 1}, 0.0).missing == ("U",)
    assert reference.formation_energy({11: 2, 17: 2}, -1.5) == pytest.approx(-1.5)
    assert reference.without_elemental_energy({11: 1, 92: 1}) == ("U",)


def test_structures_without_energies_judge_novelty_only(tmp_path) -> None:
    build_reference([write_cifs(tmp_path / "cifs", ["nacl"])], tmp_path / "ref")
    reference = Reference.open(tmp_path / "ref")
    assert reference.corrections is None
    with pytest.raises(InputError, match="holds no energies"):
        _ = reference.hull


def test_energies_need_their_correction_scheme(tmp_path) -> None:
    with pytest.raises(InputError, match="correction scheme"):
        build_reference([write_hull(tmp_path / "hull.csv")], tmp_path / "ref")
    assert not (tmp_path / "ref").exists()


def test_computed_entries_become_formation_energies(tmp_path) -> None:
    entries = [
        {"composition": {"Li": 2}, "energy": -4.0, "correction": 0.0},
        {"composition": {"O": 1}, "energy": -5.0, "correction": 0.5},
        {"composition": {"Li": 2, "O": 1}, "energy": -14.0, "correction": -0.5, "entry_id": "li2o"},
    ]
    (tmp_path / "entries.json").write_text(json.dumps(entries))
    read = read_entries([tmp_path / "entries.json"])
    assert read.names[2] == "li2o"
    assert read.energies == pytest.approx([0.0, 0.0, (-14.5 + 4.0 + 4.5) / 3])
    assert read.elemental_energies == pytest.approx({"Li": -2.0, "O": -4.5})
    with pytest.raises(InputError, match="carry corrections"):
        build_reference([], tmp_path / "ref", hull=tmp_path / "entries.json", corrections="none")


def test_energies_beside_structures_make_the_hull(tmp_path, make_dataset) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = list(CRYSTALS)
    table = {
        "material_id": names,
        "lattice": [np.asarray(CRYSTALS[n][1]).ravel().tolist() for n in names],
        "frac": [np.asarray(CRYSTALS[n][0]).ravel().tolist() for n in names],
        "Z": [list(CRYSTALS[n][2]) for n in names],
        "split": ["train", "train", "val", "test", "train"],
        "formation_energy_per_atom": [ENERGIES[n] for n in names],
    }
    pq.write_table(pa.table(table), tmp_path / "set.parquet")
    manifest = build_reference(
        [tmp_path / "set.parquet"], tmp_path / "ref", corrections="mp2020", splits=["train", "val"]
    )
    assert manifest["counts"] == {
        "structures": 4,
        "hull_entries": 4 + 5,
        "hull_left_out": {},
        "refused": {"other_split": 1},
    }
    prepared = build_reference([make_dataset(train=5, val=2)], tmp_path / "other", splits=["val"])
    assert prepared["counts"]["structures"] == 2


@pytest.mark.parametrize("broken", ["manifest.json", "cell.npy"])
def test_a_damaged_reference_is_one_sentence(tmp_path, broken) -> None:
    build_reference([write_cifs(tmp_path / "cifs", ["nacl"])], tmp_path / "ref")
    (tmp_path / "ref" / broken).write_text("{")
    with pytest.raises(InputError, match=r"build (it|the reference) again"):
        Reference.open(tmp_path / "ref")


def test_compositions_are_read_in_all_their_forms() -> None:
    assert parse_composition("Li2 O1") == parse_composition('{"Li": 0.666667, "O": 0.333333}') == {3: 2.0, 8: 1.0}
    assert parse_composition({"Fe": 3, "O": 4}) == parse_composition("Fe3O4")
    with pytest.raises((ValueError, KeyError)):
        parse_composition("Li2(OH")


def test_energies_of_crystals_are_read_by_id(tmp_path) -> None:
    (tmp_path / "e.csv").write_text("id,energy_per_atom,e_form\na,-3.5,\nb,,-1.0\nc,nan,\n")
    assert read_energies(tmp_path / "e.csv") == {"a": {"total": -3.5}, "b": {"formation": -1.0}, "c": {}}
    (tmp_path / "e.json").write_text('{"a": -1.5}')
    assert read_energies(tmp_path / "e.json") == {"a": {"formation": -1.5}}
