"""The prepared folder: opens quickly, gives back what was written, and notices damage."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.prepare import prepare
from crystalsmith.errors import InputError


@pytest.fixture
def folder(structures, write_parquet, tmp_path) -> Path:
    crystals = {k: (s.frac_coords, s.lattice.matrix, s.atomic_numbers) for k, s in structures.items()}
    splits = ["train", "train", "val", "test", "train"]
    source = write_parquet(crystals, band_gap=[5.0, None, 1.8, 2.0, 5.7], split=splits)
    prepare(source, tmp_path / "data", jobs=1, progress=False)
    return tmp_path / "data"


def test_batches_hold_the_rows_asked_for_in_their_order(folder) -> None:
    data = CrystalDataset.open(folder)
    assert data.rows("train").tolist() == [0, 1, 4]
    assert data.rows("val").tolist() == [2]
    batch = data.batch([4, 0, 4, 2])
    singles = [data.batch([k]) for k in (4, 0, 4, 2)]
    assert batch.num_atoms.tolist() == [9, 2, 9, 5]
    assert torch.equal(batch.frac_coords, torch.cat([s.frac_coords for s in singles]))
    assert torch.equal(batch.cell, torch.cat([s.cell for s in singles]))
    assert torch.equal(batch.atomic_numbers, torch.cat([s.atomic_numbers for s in singles]))
    assert batch.frac_coords.dtype == batch.cell.dtype == torch.float32
    assert [s.reduced_formula for s in batch.to_structures()] == ["SiO2", "NaCl", "SiO2", "SrTiO3"]
    assert len(data.batch([])) == 0


def test_labels(folder) -> None:
    data = CrystalDataset.open(folder)
    found = data.labels([1, 0, 2], ["band_gap", "chemical_system"])
    assert found["band_gap"].tolist()[1:] == pytest.approx([5.0, 1.8])
    assert found["band_gap"][0].isnan()
    assert [row.nonzero()[:, 0].tolist() for row in found["chemical_system"]] == [[6], [11, 17], [8, 22, 38]]
    with pytest.raises(InputError, match="no label 'magic'"):
        data.labels([0], ["magic"])


def test_a_data_set_travels_to_other_processes_as_its_path(folder) -> None:
    data = CrystalDataset.open(folder)
    sent = pickle.dumps(data)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).batch([3]).cell, data.batch([3]).cell)


@pytest.mark.parametrize("name", ["frac_coords.npy", "cell.npy", "offsets.npy", "ids.npy", "labels/band_gap.npy"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage", "other size"])
def test_damaged_files_are_named(folder, name, damage) -> None:
    file = folder / name
    if damage == "truncated":
        os.truncate(file, file.stat().st_size - 4)
    elif damage == "missing":
        file.unlink()
    elif damage == "garbage":
        file.write_bytes(os.urandom(200))
    else:
        np.save(file, np.load(file)[:-1])
    with pytest.raises(InputError, match=r"prepare the data set again") as error:
        CrystalDataset.open(folder)
    assert damage == "other size" or name in str(error.value)


def test_pickled_arrays_are_not_loaded(folder) -> None:
    np.save(folder / "ids.npy", np.array([{"x": 1}] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="ids"):
        CrystalDataset.open(folder)


def test_verify_finds_a_flipped_bit(folder) -> None:
    data = CrystalDataset.open(folder)
    data.verify()
    file = folder / "cell.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="cell"):
        CrystalDataset.open(folder).verify()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"format": "crystalsmith-dataset-1"}'])
def test_a_broken_manifest_is_one_sentence(folder, text) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        CrystalDataset.open(folder)


def test_a_label_name_cannot_lead_out_of_the_folder(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["labels"]["../../secret"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="no plain file name"):
        CrystalDataset.open(folder)


def test_reading_needs_no_chemistry_package(folder) -> None:
    code = (
        "import sys\n"
        "for name in ('pymatgen', 'ase', 'moyopy', 'pyarrow', 'lightning'): sys.modules[name] = None\n"
        "from crystalsmith.data.dataset import CrystalDataset\n"
        f"print(len(CrystalDataset.open({str(folder)!r}).batch([0, 1])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr
