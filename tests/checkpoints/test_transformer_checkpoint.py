"""A transformer on disk: it comes back as it was, is adapted, and is not exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.published.export import export_model
from crystalsmith.checkpoints.store import save_model
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.errors import InputError
from crystalsmith.network.registry import build_network
from crystalsmith.network.transformer import TransformerConfig, TransformerDenoiserConfig
from crystalsmith.training.build import build_model
from crystalsmith.training.config import load_recipe
from crystalsmith.training.labels import Coverage

SIZES = TransformerConfig(width=16, num_blocks=1, pair_width=8, pair_hidden=8, message_width=8, num_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Model(build_network(TransformerDenoiserConfig(SIZES)), Process(ProcessConfig()))
    for parameter in model.network.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("transformer") / "model"
    save_model(model, path)
    return path


def test_it_comes_back_as_it_was(folder: Path, make_batch) -> None:  # type: ignore[no-untyped-def]
    first, again = load_model(folder), load_model(folder)
    assert first.network.config == TransformerDenoiserConfig(SIZES)
    batch, t = make_batch([3, 5], dtype=torch.float32), torch.tensor([0.3, 0.8])
    a, b = first.denoiser(batch, t), again.denoiser(batch, t)
    assert torch.equal(a.frac_coords, b.frac_coords)
    save_model(first, folder.parent / "copy")
    for name in ("model.safetensors", "config.json"):
        assert (folder.parent / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_it_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformer"):
        export_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_builds_it_and_refuses_settings_of_the_other_network() -> None:
    recipe = load_recipe(None, ["model.preset=transformer-tiny", "model.width=32", "process.constants=published"])
    assert build_model(recipe, {}).network.config.width == 32
    recipe = load_recipe(None, ["model.preset=transformer-tiny", "model.max_neighbors=9"])
    with pytest.raises(InputError, match="max_neighbors"):
        build_model(recipe, {})


def test_an_adapted_model_starts_as_its_base(folder: Path, make_batch) -> None:  # type: ignore[no-untyped-def]
    settings = ["freeze_base=true", "conditions.place=adapter", "conditions.properties={band_gap: scalar}"]
    recipe = load_recipe(None, [f"base={folder}", *settings])
    coverage = {"band_gap": Coverage("band_gap", "scalar", "eV", "column", 10, 10, 0, mean=1.0, std=2.0)}
    adapted, base = build_model(recipe, {}, coverage), load_model(folder)
    batch, t = make_batch([3, 5], dtype=torch.float32), torch.tensor([0.3, 0.8])
    gap = {"band_gap": torch.tensor([1.5, float("nan")])}
    a, b = adapted.denoiser(batch, t, gap), base.denoiser(batch, t)
    torch.testing.assert_close(a.frac_coords, b.frac_coords)
    trained = {name for name, p in adapted.network.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("adapters.band_gap.", "properties.band_gap.")) for name in trained)
