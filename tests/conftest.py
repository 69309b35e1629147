"""Fixtures that every room's tests share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

# One thread each, also in processes that tests start: the tensors are small, and threads that wait for one another on a
# busy machine cost minutes. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would the processes that they start.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.dataset import FORMAT, SPLIT_CODES

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("golden/arrays/d3pm.npz")`` -> path in the reference data, or a visible skip where there is none."""
    root = Path(os.environ.get("CRYSTALSMITH_SHARED", _ROOT.parent / "shared"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"reference data not found: {path} (set CRYSTALSMITH_SHARED)")
        return path

    return find


def random_batch(sizes: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> CrystalBatch:
    """Sane random crystals: sheared cells of about 18 cubic angstrom per atom, uniform positions and elements."""
    generator = torch.Generator().manual_seed(seed)
    crystals = []
    for n in sizes:
        edge = (18.0 * n) ** (1 / 3)
        cell = edge * (torch.eye(3) + 0.12 * torch.randn(3, 3, generator=generator))
        crystals.append((torch.rand(n, 3, generator=generator), cell, torch.randint(1, 90, (n,), generator=generator)))
    return CrystalBatch.from_arrays(crystals, dtype)


@pytest.fixture
def make_batch() -> Callable[..., CrystalBatch]:
    """The function :func:`random_batch`."""
    return random_batch


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
        "split": np.repeat([SPLIT_CODES[name] for name in counts], list(counts.values())).astype(np.uint8),
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
    """A small prepared data set: 24 training, 6 validation and 4 test crystals."""
    return write_dataset(tmp_path / "data", {"train": 24, "val": 6, "test": 4})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """``make_dataset(train=24, val=6)`` -> folder."""

    def make(seed: int = 0, max_atoms: int = 6, **counts: int) -> Path:
        return write_dataset(tmp_path / f"data-{seed}-{'-'.join(map(str, counts.values()))}", counts, seed, max_atoms)

    return make


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a very small model with random weights, which samples in five steps."""
    from crystalsmith.checkpoints.model import Model, ModelMetadata
    from crystalsmith.checkpoints.store import save_model
    from crystalsmith.diffusion.process import Process, ProcessConfig
    from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
    from crystalsmith.network.gemnet import GemNetConfig

    torch.manual_seed(0)
    sizes = GemNetConfig(
        width=16, num_blocks=1, cutoff=5.0, max_neighbors=8, num_radial=16, width_triplet=8, width_bilinear=8
    )
    metadata = ModelMetadata(
        name="untrained",
        num_atoms_histogram={1: 0.1, 2: 0.2, 4: 0.4, 7: 0.2, 11: 0.1},
        sampling={"solver": "predictor_corrector", "steps": 5},
    )
    process = Process(ProcessConfig(cell_variance={"all": (0.1, 0.1)}))
    folder = tmp_path_factory.mktemp("models") / "untrained"
    save_model(Model(GemNetDenoiser(DenoiserConfig(sizes)), process, metadata), folder, "# A model for tests\n")
    return folder


@pytest.fixture(scope="session")
def conditional(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with adapters, random as well, for properties of every kind."""
    import dataclasses

    from crystalsmith.checkpoints.find import load_model
    from crystalsmith.checkpoints.model import Model
    from crystalsmith.checkpoints.store import save_model
    from crystalsmith.network.conditioning import ConditionConfig
    from crystalsmith.network.denoiser import GemNetDenoiser

    base = load_model(untrained)
    conditions = (
        ConditionConfig("band_gap"),
        ConditionConfig("bulk_modulus", "log"),
        ConditionConfig("space_group", "category"),
        ConditionConfig("chemical_system", "elements"),
    )
    torch.manual_seed(1)
    network = GemNetDenoiser(dataclasses.replace(base.network.config, conditions=conditions))
    network.load_state_dict(base.network.state_dict(), strict=False)
    for name, parameter in network.named_parameters():
        if name.endswith("mix.weight"):
            torch.nn.init.normal_(parameter)
    facts = {"band_gap": {"kind": "scalar", "unit": "eV", "min": 0.0, "max": 9.0}}
    metadata = dataclasses.replace(base.metadata, name="conditional", properties=facts)
    folder = tmp_path_factory.mktemp("models") / "conditional"
    save_model(Model(network, base.process, metadata), folder, "# A conditional model for tests\n")
    return folder
