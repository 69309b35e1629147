"""Small published model folders with random weights, and a cache folder of each test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.published.export import published_config, published_state
from crystalsmith.checkpoints.published.layout import published_layout
from crystalsmith.checkpoints.published.mattergen import our_names
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

TINY = GemNetConfig(
    width=16, num_blocks=1, edge_rule="published", num_radial=16, width_triplet=8, width_bilinear=8, width_cbf=4
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is a folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CRYSTALSMITH_CACHE", str(folder))
    return folder


def random_checkpoint(*conditions: ConditionConfig, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.yaml`` and checkpoint of a tiny model in the published layout, every tensor random."""
    torch.manual_seed(seed)
    model = Model(GemNetDenoiser(DenoiserConfig(TINY, conditions)), Process(ProcessConfig.published()))
    state = model.network.state_dict()
    for name, tensor in state.items():
        if name.endswith((".mean", ".std", "scale", "scale_rbf", "scale_cbf", "mix.weight")):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    used = set(our_names(model.network.config, model.network).values())
    extra = {
        name: torch.randn(tensor.shape)
        for name, tensor in published_layout(model.network.config).items()
        if name not in used and tensor.copy_of is None
    }
    config = published_config(model)
    content = {"epoch": 3, "global_step": 7, "state_dict": published_state(model, extra), "config": config}
    return config, content


def write_folder(folder: Path, config: Any, content: Any, name: str = "last.ckpt") -> Path:
    """A published model folder."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    (folder / "config.yaml").write_text(text)
    torch.save(content, folder / "checkpoints" / name)
    return folder


@pytest.fixture
def make_checkpoint() -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """The function :func:`random_checkpoint`."""
    return random_checkpoint


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """The function :func:`write_folder`."""
    return write_folder


@pytest.fixture
def published_folder(tmp_path: Path) -> Path:
    """A published model folder conditioned on the density of magnetic moments."""
    return write_folder(tmp_path / "published", *random_checkpoint(ConditionConfig("dft_mag_density")))
