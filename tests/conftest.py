"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crystalsmith.crystals import CrystalBatch

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
