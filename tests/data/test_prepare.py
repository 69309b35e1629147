"""Preparation keeps what it should, in the form it should have, and accounts for everything else."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.filters import hash_split
from crystalsmith.data.prepare import prepare
from crystalsmith.errors import InputError

PRIMITIVE_ATOMS = {"salt": 2, "diamond": 2, "titanate": 5, "low": 4, "quartz": 9}


def arrays(structure: Structure) -> tuple:
    return structure.frac_coords, structure.lattice.matrix, structure.atomic_numbers


def ledger(folder: Path) -> dict[str, str]:
    with (folder / "ledger.csv").open() as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def opened(source: Path, folder: Path, **settings) -> CrystalDataset:
    prepare(source, folder, jobs=1, progress=False, **settings)
    return CrystalDataset.open(folder)


def ids(dataset: CrystalDataset) -> list[str]:
    return [name.decode() for name in dataset.ids]


def test_known_crystals(structures, write_parquet, tmp_path) -> None:
    given = {**structures, "supercell": structures["titanate"] * (2, 2, 2)}
    data = opened(write_parquet({k: arrays(s) for k, s in given.items()}), tmp_path / "out")
    assert ids(data) == list(given)
    cell = np.asarray(data.cell, dtype=np.float64)
    assert np.array_equal(cell, cell.mT)
    assert (np.linalg.eigvalsh(cell) > 0).all()
    assert (data.frac_coords >= 0).all()
    assert (data.frac_coords < 1).all()
    for prepared, (name, original) in zip(data.batch(data.rows()).to_structures(), given.items(), strict=True):
        assert len(prepared) == PRIMITIVE_ATOMS.get(name, 5)
        assert prepared.volume / len(prepared) == pytest.approx(original.volume / len(original), rel=1e-5)
        assert StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.5).fit(prepared, original)


def test_left_handed_cell_keeps_its_chirality(structures, write_parquet, tmp_path) -> None:
    from moyopy import Cell, MoyoDataset

    frac, cell, numbers = arrays(structures["quartz"])
    left = (frac[:, [1, 0, 2]], cell[[1, 0, 2]], numbers)
    data = opened(write_parquet({"right": (frac, cell, numbers), "left": left}), tmp_path / "out")
    assert data.manifest["counts"]["left_handed"] == 1
    groups = [
        MoyoDataset(
            Cell(s.lattice.matrix.tolist(), s.frac_coords.tolist(), list(s.atomic_numbers)), symprec=1e-3
        ).number
        for s in data.batch(data.rows()).to_structures()
    ]
    assert groups == [154, 154]  # P3_2 21; its mirror image would be 152


def test_bad_rows_cost_themselves_only(structures, write_parquet, tmp_path) -> None:
    frac, cell, numbers = arrays(structures["low"])
    broken = np.array(frac)
    broken[1, 2] = np.nan
    rows = {
        "good": (frac, cell, numbers),
        "nan": (broken, cell, numbers),
        "nan_cell": (frac, np.full((3, 3), np.inf), numbers),
        "flat": (frac, cell[[0, 1, 1]], numbers),
        "squeezed": (frac, 0.1 * cell, numbers),
        "element_0": (frac, cell, [20, 14, 8, 0]),
        "element_119": (frac, cell, [20, 14, 8, 119]),
        "radon": (frac, cell, [86, 14, 8, 8]),
        "short": (frac[:3], cell, numbers),
        "empty": (np.zeros((0, 3)), cell, []),
        "twice": (frac[[0, 1, 2, 2]] + 1e-3, cell, numbers),
        "unstable": (frac, cell, numbers),
        "large": (np.random.default_rng(0).random((21, 3)), 4 * np.eye(3) * 3, [11] * 21),
        "giant": (np.random.default_rng(0).random((10000, 3)), 60 * np.eye(3), [11] * 10000),
        "last": (frac, cell, numbers),
    }
    hull = [1.0 if name == "unstable" else 0.0 for name in rows]
    data = opened(write_parquet(rows, e_above_hull=hull), tmp_path / "out")
    assert ids(data) == ["good", "last"]
    assert ledger(tmp_path / "out") == {
        "nan": "not_finite",
        "nan_cell": "not_finite",
        "flat": "bad_cell",
        "squeezed": "bad_cell",
        "element_0": "unknown_element",
        "element_119": "unknown_element",
        "radon": "element_not_allowed",
        "short": "bad_shape",
        "empty": "no_atoms",
        "twice": "overlapping_atoms",
        "unstable": "above_hull",
        "large": "too_many_atoms",
        "giant": "too_many_atoms",
    }
    counts = data.manifest["counts"]
    assert counts["rows"] == len(rows) == counts["kept"] + sum(counts["dropped"].values())


def test_steps_can_be_switched_off(structures, write_parquet, tmp_path) -> None:
    source = write_parquet({k: arrays(s) for k, s in structures.items()}, e_above_hull=[5.0] * 5)
    data = opened(
        source,
        tmp_path / "out",
        primitive=False,
        niggli=False,
        max_energy_above_hull=None,
        max_atoms=None,
        elements=None,
    )
    assert data.num_atoms.tolist() == [len(s) for s in structures.values()]
    for prepared, original in zip(data.batch(data.rows()).to_structures(), structures.values(), strict=True):
        assert prepared.lattice.parameters == pytest.approx(original.lattice.parameters, rel=1e-5)
        np.testing.assert_allclose(prepared.distance_matrix, original.distance_matrix, atol=1e-4)


def test_duplicates_are_counted_and_dropped_when_asked(structures, write_parquet, tmp_path) -> None:
    salt = structures["salt"]
    moved = salt.copy()
    moved.translate_sites(range(8), [0.1, 0.2, 0.3])
    moved = Structure.from_sites(list(reversed(moved)))
    rows = {"a": arrays(salt), "b": arrays(structures["low"]), "c": arrays(moved), "d": arrays(salt * (2, 1, 1))}
    source = write_parquet(rows)
    kept = opened(source, tmp_path / "kept")
    assert len(kept) == 4
    assert kept.manifest["counts"]["duplicate_crystals"] == 2
    dropped = opened(source, tmp_path / "dropped", drop_duplicates=True)
    assert ids(dropped) == ["a", "b"]
    assert dropped.num_atoms.tolist() == [2, 4]
    assert ledger(tmp_path / "dropped") == {"c": "duplicate_crystal", "d": "duplicate_crystal"}
    assert (
        CrystalDataset.open(tmp_path / "dropped").batch([1]).to_structures()[0].composition
        == structures["low"].composition
    )


def many(structures: dict[str, Structure], count: int) -> dict[str, tuple]:
    rng = np.random.default_rng(0)
    frac, cell, numbers = arrays(structures["low"])
    return {
        f"m-{k}": (frac + 0.01 * rng.random(np.shape(frac)), cell * rng.uniform(0.9, 1.1), numbers)
        for k in range(count)
    }


def test_result_does_not_depend_on_the_number_of_processes(structures, write_parquet, tmp_path) -> None:
    source = write_parquet(many(structures, 2500))
    one = prepare(source, tmp_path / "one", jobs=1, progress=False, name="x")
    two = prepare(source, tmp_path / "two", jobs=2, progress=False, name="x")
    assert one["sha256"] == two["sha256"]
    assert one["counts"] == two["counts"]


def test_splits_of_unmarked_rows_depend_on_the_id_alone(structures, write_parquet, tmp_path) -> None:
    rows = many(structures, 400)
    data = opened(write_parquet(rows), tmp_path / "all", split_fractions=(0.5, 0.25, 0.25))
    split = dict(zip(ids(data), data.split.tolist(), strict=True))
    assert 150 < len(data.rows("train")) < 250
    assert data.manifest["counts"]["split_from_hash"] == len(data)
    some = dict(list(reversed(rows.items()))[:50])
    part = opened(write_parquet(some, name="part.parquet"), tmp_path / "part", split_fractions=(0.5, 0.25, 0.25))
    assert all(split[name] == code for name, code in zip(ids(part), part.split.tolist(), strict=True))
    assert {hash_split(f"x{k}", (1.0, 0.0, 0.0)) for k in range(100)} == {"train"}


def test_keep_splits_and_limit(structures, write_parquet, tmp_path) -> None:
    rows = many(structures, 30)
    splits = ["train", "val", "test"] * 10
    source = write_parquet(rows, split=splits)
    data = opened(source, tmp_path / "a", keep_splits=["train", "val"], limit=25)
    counts = data.manifest["counts"]
    assert (counts["rows"], counts["train"], counts["val"], counts["test"]) == (25, 9, 8, 0)
    assert counts["dropped"] == {"split_not_kept": 8}


def test_manifest_statistics_are_those_of_the_train_rows(structures, write_parquet, tmp_path) -> None:
    rows = many(structures, 200)
    gap = np.random.default_rng(1).random(200)
    gap[::3] = np.nan
    splits = ["train"] * 150 + ["val"] * 50
    data = opened(write_parquet(rows, band_gap=gap.tolist(), split=splits), tmp_path / "out")
    train = data.rows("train")
    facts = data.manifest["labels"]["band_gap"]
    assert facts["count"] == np.isfinite(gap[:150]).sum()
    assert facts["mean"] == pytest.approx(np.nanmean(gap[:150]), rel=1e-6)
    assert facts["std"] == pytest.approx(np.nanstd(gap[:150]), rel=1e-6)
    cell = np.asarray(data.cell[train], dtype=np.float64)
    density = np.mean(4 / np.linalg.det(cell))
    assert data.manifest["mean_density"] == pytest.approx(density)
    excess = (cell - (4 / density) ** (1 / 3) * np.eye(3)) / 4 ** (1 / 3)
    expected = [np.mean(excess[:, range(3), range(3)] ** 2), np.mean(excess[:, [0, 0, 1], [1, 2, 2]] ** 2)]
    assert data.manifest["cell_variance"]["4"] == pytest.approx(expected)
    assert data.manifest["cell_variance"]["all"] == pytest.approx(expected)
    assert data.manifest["num_atoms_histogram"] == {"4": 150}
    assert data.manifest["elements"] == {"O": 300, "Si": 150, "Ca": 150}


def test_an_earlier_result_survives_a_failed_run(structures, write_parquet, tmp_path) -> None:
    good = write_parquet({k: arrays(s) for k, s in structures.items()})
    prepare(good, tmp_path / "out", jobs=1, progress=False)
    before = json.loads((tmp_path / "out" / "manifest.json").read_text())
    frac, cell, numbers = arrays(structures["low"])
    bad = write_parquet({"nan": (np.nan * frac, cell, numbers)}, name="bad.parquet")
    with pytest.raises(InputError, match="exists already"):
        prepare(good, tmp_path / "out", jobs=1, progress=False)
    with pytest.raises(InputError, match="None of the 1 rows"):
        prepare(bad, tmp_path / "out", overwrite=True, jobs=1, progress=False)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == before
    CrystalDataset.open(tmp_path / "out").verify()
    assert "not_finite" in (tmp_path / "out.ledger.csv").read_text()
    prepare(good, tmp_path / "out", overwrite=True, limit=2, jobs=1, progress=False)
    assert len(CrystalDataset.open(tmp_path / "out")) == 2
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")]


def test_a_folder_that_is_no_data_set_is_never_overwritten(structures, write_parquet, tmp_path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    source = write_parquet({"low": arrays(structures["low"])})
    with pytest.raises(InputError, match="not overwritten"):
        prepare(source, tmp_path / "precious", overwrite=True, jobs=1, progress=False)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_an_output_that_cannot_be_made_is_one_sentence(structures, write_parquet, tmp_path) -> None:
    source = write_parquet({"low": arrays(structures["low"])})
    with pytest.raises(InputError, match="is a file; choose another place"):
        prepare(source, source / "out", jobs=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


@pytest.mark.shared
def test_mp20_split_counts(shared, tmp_path) -> None:
    """24,558 / 8,325 / 8,379 rows of MP-20 hold only the 76 elements (README of the shared data)."""
    source = shared("data/mp20.parquet")
    counts = prepare(source, tmp_path / "mp20", max_energy_above_hull=None, progress=False)["counts"]
    assert (counts["rows"], counts["train"], counts["val"], counts["test"]) == (44217, 24558, 8325, 8379)
    assert counts["dropped"] == {"element_not_allowed": 44217 - 24558 - 8325 - 8379}
