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
