"""What the tests against numbers of the published code share: the arrays, the models, and recorded random draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.published.ckpt_file import locate
from crystalsmith.checkpoints.published.mattergen import load_published
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import Draw

SORT_CHECKSUM = 4_218_731


class Golden:
    """Arrays of one file of the reference data, as tensors; ``prefix`` is put before every name."""

    def __init__(self, arrays: dict[str, NDArray[np.generic]], prefix: str = "") -> None:
        self.arrays, self.prefix = arrays, prefix

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[self.prefix + name]).copy())

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def at(self, prefix: str) -> Golden:
        """The arrays whose names begin so."""
        return Golden(self.arrays, f"{self.prefix}{prefix}")

    def names(self) -> list[str]:
        """Names after the prefix."""
        return [name.removeprefix(self.prefix) for name in self.arrays if name.startswith(self.prefix)]

    def batch(self, prefix: str = "", dtype: torch.dtype | None = None) -> CrystalBatch:
        """``pos``, ``cell`` and ``atomic_numbers`` under a prefix; the sizes may stand outside of it."""
        sizes = self[f"{prefix}num_atoms"] if f"{prefix}num_atoms" in self else self["num_atoms"]
        fields = [self[prefix + name] for name in ("pos", "cell", "atomic_numbers")]
        return CrystalBatch(fields[0], fields[1], fields[2], sizes).to(dtype=dtype)


@dataclasses.dataclass
class RecordedDraw:
    """One stage whose random numbers were recorded; the order of use does not matter."""

    frac: Tensor | None = None
    lattice: Tensor | None = None
    species: Tensor | None = None

    def atoms(self) -> Tensor:
        assert self.frac is not None
        return self.frac

    def cell(self) -> Tensor:
        assert self.lattice is not None
        return self.lattice.expand(-1, 3, 3)  # the published predictor draws (B, 1, 1)

    def categorical(self, log_probs: Tensor) -> Tensor:
        assert self.species is not None
        chosen = log_probs.gather(-1, self.species.unsqueeze(-1))
        assert bool((chosen > log_probs.amax(-1, keepdim=True) - 40).all()), "the recorded class is next to impossible"
        return self.species


class RecordedNoise:
    """Noise whose draws are handed out by (step, stage)."""

    def __init__(self, draws: dict[tuple[int, int], RecordedDraw]) -> None:
        self.draws = draws

    def at(self, step: int, stage: int) -> Draw:
        return self.draws[step, stage]


@pytest.fixture(scope="session")
def golden(shared: Callable[[str], Path]) -> Callable[[str], Golden]:
    """``golden("d3pm")``: one file of ``golden/arrays``."""

    @cache
    def read(name: str) -> Golden:
        with np.load(shared(f"golden/arrays/{name}.npz")) as file:
            return Golden({key: file[key] for key in file.files})

    return read


@pytest.fixture(scope="session")
def imported(shared: Callable[[str], Path]) -> Callable[..., Model]:
    """``imported("small_base", torch.float64)``: a reference checkpoint as a model of ours."""

    @cache
    def load(name: str, dtype: torch.dtype = torch.float32) -> Model:
        model = load_published(*locate(shared(f"golden/checkpoints/{name}")))[0].model
        model.network.to(dtype)
        return model

    return load


@pytest.fixture(scope="session")
def recorded_draw() -> type[RecordedDraw]:
    """The class :class:`RecordedDraw`."""
    return RecordedDraw


@pytest.fixture(scope="session")
def recorded_noise() -> type[RecordedNoise]:
    """The class :class:`RecordedNoise`."""
    return RecordedNoise


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Difference relative to the size of what is expected (L2)."""
    scale = float(expected.double().norm())
    return float((actual.detach().double() - expected.double()).norm()) / (scale if scale > 0 else 1.0)


@pytest.fixture(scope="session")
def difference() -> Callable[[Tensor, Tensor], float]:
    """The function :func:`relative`."""
    return relative


@pytest.fixture(scope="session")
def same_sort() -> None:
    """Skip where torch's unstable sort puts equal numbers in another order than where the reference was recorded.

    The published neighbour limit depends on it in crystals whose 50th neighbour is an image of the atom itself.
    """
    table = torch.from_numpy(np.random.default_rng(0).integers(0, 30, (40, 75)).astype(np.float32))
    order = table.sort(dim=1).indices
    if int((order * torch.arange(1, 76)).sum()) != SORT_CHECKSUM:
        pytest.skip("this machine sorts equal numbers in another order than the one of the reference data")
