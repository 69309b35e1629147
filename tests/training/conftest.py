"""Small prepared data sets for training tests, written without the room that prepares data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalsmith.data.dataset import FORMAT

SPLITS = {"train": 0, "val": 1, "test": 2}


def write_dataset(folder: Path, counts: dict[str, int], seed: int = 0, max_atoms: int = 6) -> Path:
    """A prepared data set of random crystals of 1 to ``max_atoms`` atoms in the layout of ``data.dataset``."""
    rng = np.random.default_rng(seed)
    total = sum(counts.values())
    sizes = rng.integers(1, max_atoms + 1, total)
    edges = (18.0 * sizes) ** (1 / 3)
    cells = np.eye(3) + 0.1 * rng.standard_normal((total, 3, 3))
    cells = edges[:, None, None] * (cells + cells.transpose(0, 2, 1)) / 2
    volumes = np.abs(np.linalg.det(cells))
    atoms = int(sizes.sum())
    arrays: dict[str, np.ndarray] = {
        "frac_coords": rng.random((atoms, 3)).astype(np.float32),
        "cell": cells.astype(np.float32),
        "atomic_numbers": rng.choice([3, 8, 14, 26], atoms).astype(np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "split": np.repeat([SPLITS[name] for name in counts], list(counts.values())).astype(np.uint8),
        "ids": np.array([f"random-{i}" for i in range(total)]),
    }
    folder.mkdir(parents=True)
    hashes = {}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        hashes[f"{name}.npy"] = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
    (folder / "labels").mkdir()
    numbers, occurrences = np.unique(sizes, return_counts=True)
    manifest = {
        "format": FORMAT,
        "name": "random",
        "source": "random numbers",
        "source_sha256": "0" * 64,
        "settings": {},
        "counts": {"rows": total, "kept": total, "dropped": {}, **counts},
        "num_atoms_histogram": {str(n): int(c) for n, c in zip(numbers, occurrences, strict=True)},
        "mean_density": float((sizes / volumes).mean()),
        "cell_variance": {"all": [0.05, 0.02]},
        "labels": {},
        "elements": {"Li": 1, "O": 1, "Si": 1, "Fe": 1},
        "sha256": hashes,
        "created": "2000-01-01T00:00:00Z",
        "version": "0",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """24 training, 6 validation and 4 test crystals."""
    return write_dataset(tmp_path / "data", {"train": 24, "val": 6, "test": 4})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """``make_dataset(train=24, val=6)`` -> folder."""

    def make(seed: int = 0, max_atoms: int = 6, **counts: int) -> Path:
        return write_dataset(tmp_path / f"data-{seed}-{'-'.join(map(str, counts.values()))}", counts, seed, max_atoms)

    return make


@pytest.fixture
def small_recipe() -> dict[str, Any]:
    """A recipe whose network trains in milliseconds; tests change what they are about."""
    return {
        "name": "test",
        "model": {
            "preset": "tiny",
            "width": 16,
            "num_blocks": 1,
            "cutoff": 4.0,
            "max_neighbors": 8,
            "num_radial": 8,
            "num_spherical": 3,
            "width_triplet": 8,
            "width_bilinear": 8,
            "width_rbf": 4,
            "width_cbf": 4,
        },
        "data": {"batch_size": 8, "num_workers": 0},
        "limits": {"max_epochs": None, "max_steps": 6},
        "validation": {"every_epochs": None, "every_steps": 3},
        "hardware": {"accelerator": "cpu"},
        "output": {"log_every_steps": 2},
    }
