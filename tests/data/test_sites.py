"""Laws of the symmetry kept beside a prepared data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.prepare import prepare
from crystalsmith.data.sites import TEMPLATES, find_sites, open_sites
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.symmetric import SymmetricProcess, Symmetry
from crystalsmith.errors import InputError
from crystalsmith.symmetry.groups import space_group
from crystalsmith.symmetry.wyckoff import read_templates

GROUPS = {"salt": 225, "diamond": 227, "titanate": 221, "low": 1, "quartz": 154}


@pytest.fixture
def dataset(structures, write_parquet, tmp_path: Path) -> CrystalDataset:
    crystals = {k: (s.frac_coords, s.lattice.matrix, s.atomic_numbers) for k, s in structures.items()}
    source = write_parquet(crystals, split=["train"] * 4 + ["val"])
    prepare(source, tmp_path / "data", jobs=1, progress=False)
    return CrystalDataset.open(tmp_path / "data")


def test_known_crystals_are_noised_within_their_space_groups(dataset) -> None:
    with pytest.raises(InputError, match="data symmetry"):
        open_sites(dataset)
    symmetric, templates = find_sites(dataset, 1)
    assert (symmetric, templates) == (4, 4)
    table, rows = open_sites(dataset), dataset.rows()
    clean = dataset.batch(rows)
    keep = np.array([True] * len(rows))
    process = SymmetricProcess(Process(ProcessConfig()), Symmetry.from_arrays(table.batch(rows, keep)))
    metric = clean.cell @ clean.cell.mT
    torch.testing.assert_close(process.symmetry.average_metric(metric), metric, atol=1e-3, rtol=1e-4)
    draw = CrystalNoise(0, torch.arange(len(rows)), clean.num_atoms).at(0, 0)
    noisy = process.corrupt(clean, torch.full((len(rows),), 0.4), draw)
    ids = [str(name, "utf-8") if isinstance(name, bytes) else str(name) for name in dataset.ids]
    for name, (frac, cell, _), (_, _, numbers) in zip(ids, noisy.crystals(), clean.crystals(), strict=True):
        assert space_group(frac, cell, numbers, 1e-3) == GROUPS[name]
    volumes = torch.linalg.det(noisy.cell) / torch.linalg.det(clean.cell)
    assert float((volumes - 1).abs().min()) > 1e-3  # all cells were noised


def test_crystals_that_do_not_keep_theirs_are_free(dataset) -> None:
    find_sites(dataset, 1)
    rows = dataset.rows()[[2, 0, 4]]
    keep = np.array([False, True, False])
    some = Symmetry.from_arrays(open_sites(dataset).batch(rows, keep))
    assert some.trivial.flatten().tolist() == [True, False, True]
    sizes = dataset.num_atoms[rows]
    assert some.first[: sizes[0]].tolist() == list(range(sizes[0]))
    assert some.owner.tolist() == np.repeat([0, 1, 2], sizes).tolist()


def test_templates_count_training_crystals_only(dataset) -> None:
    find_sites(dataset, 1, source="five crystals")
    templates = read_templates(dataset.path / TEMPLATES)
    assert templates.source == "five crystals"
    assert {t.number for t in templates.counts} == {225, 227, 221, 1}


def test_a_table_of_other_data_is_refused(dataset, tmp_path) -> None:
    find_sites(dataset, 1)
    file = dataset.path / "symmetry.npz"
    with np.load(file) as data:
        arrays = dict(data)
    arrays["offsets"] = arrays["offsets"] + 1
    np.savez(file, **arrays)
    with pytest.raises(InputError, match="other data"):
        open_sites(dataset)
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        open_sites(dataset)
