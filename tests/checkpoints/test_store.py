"""Laws of models on disk: what is saved comes back, what is damaged is refused in one sentence."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crystalsmith.checkpoints import store
from crystalsmith.checkpoints.find import find_model, load_model
from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.checkpoints.store import CARD, CONFIG, WEIGHTS, save_model, weights_sha256
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

SIZES = GemNetConfig(
    width=12,
    num_blocks=1,
    cutoff=5.0,
    max_neighbors=8,
    num_radial=8,
    num_spherical=3,
    width_triplet=4,
    width_bilinear=4,
    width_rbf=4,
    width_cbf=3,
    head_residuals=1,
    crystal_context=True,
)


def make_model() -> Model:
    torch.manual_seed(0)
    network = GemNetDenoiser(DenoiserConfig(SIZES, (ConditionConfig("gap"),)))
    process = Process(ProcessConfig(cell_variance={"all": (0.3, 0.1), "4": (0.2, 0.05)}))
    metadata = ModelMetadata(
        name="toy",
        elements=(8, 26),
        num_atoms_histogram={2: 0.25, 4: 0.75},
        sampling={"solver": "ancestral", "steps": 50},
        training={"hours": 1.5},
        licence="CC-BY-4.0",
    )
    return Model(network, process, metadata)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    save_model(make_model(), folder, "# Toy\n")
    return folder


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / CONFIG).read_text())
    change(data)
    (folder / CONFIG).write_text(json.dumps(data))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = {name: x.clone() for name, x in load_file(folder / WEIGHTS).items()}
    change(state)
    save_file(state, folder / WEIGHTS)


def test_a_model_round_trips(saved: Path, make_batch: Callable[..., CrystalBatch]) -> None:
    model, back = make_model(), load_model(saved)
    assert sorted(path.name for path in saved.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    assert (saved / CARD).read_text() == "# Toy\n"
    assert back.config_dict() == model.config_dict()
    assert back.metadata == model.metadata
    assert not back.network.training
    batch, t = make_batch([2, 4], dtype=torch.float32), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        a, b = model.denoiser(batch, t), back.denoiser(batch, t)
    assert torch.equal(a.cell, b.cell)
    assert torch.equal(a.frac_coords, b.frac_coords)
    assert torch.equal(a.species_logits, b.species_logits)


def test_the_denoiser_is_preconditioned(saved: Path, make_batch: Callable[..., CrystalBatch]) -> None:
    model = load_model(saved)
    batch, t = make_batch([2, 4], dtype=torch.float32), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        added = model.denoiser(batch, t).cell - model.network(batch, t).cell
    torch.testing.assert_close(added, model.process.cell.gaussian_output(batch.cell, t, batch.num_atoms))


def test_half_precision_on_disk_is_single_precision_in_memory(tmp_path: Path) -> None:
    model = make_model()
    save_model(model, tmp_path / "full")
    save_model(model, tmp_path / "half", weights_dtype=torch.float16)
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.75 * (tmp_path / "full" / WEIGHTS).stat().st_size
    for name, x in load_model(tmp_path / "half").network.state_dict().items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, model.network.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_saving_again_replaces_and_the_hash_tells_models_apart(saved: Path, tmp_path: Path) -> None:
    before = weights_sha256(saved)
    save_model(make_model(), tmp_path / "twin")
    assert weights_sha256(tmp_path / "twin") == before
    model = make_model()
    with torch.no_grad():
        next(model.network.parameters()).add_(1.0)
    save_model(model, saved)
    assert weights_sha256(saved) != before
    assert len(list(saved.iterdir())) == 3


def test_files_have_the_permissions_of_any_new_file(saved: Path) -> None:
    ordinary = saved / "ordinary"
    ordinary.touch()
    for name in (CONFIG, WEIGHTS, CARD):
        assert stat.S_IMODE(os.stat(saved / name).st_mode) == stat.S_IMODE(os.stat(ordinary).st_mode)


def drop(state: dict[str, Any]) -> None:
    del state["latent.bias"]


def misshape(state: dict[str, Any]) -> None:
    state["latent.bias"] = torch.zeros(13)


def poison(state: dict[str, Any]) -> None:
    state["latent.bias"][3] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lacks the tensor 'latent.bias'"),
        (lambda s: s.update({"latent.more": torch.zeros(2)}), r"unknown tensor 'latent.more'"),
        (misshape, r"'latent.bias' has shape \(13,\), not \(12,\)"),
        (poison, r"'latent.bias' holds numbers that are not finite"),
    ],
)
def test_weights_that_do_not_belong_are_named(saved: Path, change: Callable, message: str) -> None:
    edit_weights(saved, change)
    refused(saved, message)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 600


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[:keep])
    refused(saved, "not a readable safetensors file")


def test_weights_that_are_something_else_are_refused(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(b"\x80\x04\x95 pickled rubbish" * 50)
    refused(saved, "not a readable safetensors file")
    (saved / WEIGHTS).unlink()
    refused(saved, f"has no {WEIGHTS}")


@pytest.mark.parametrize("text", ["", "{", "not json", '{"format": 1', "\x00\x01"])
def test_a_configuration_that_is_not_json_is_refused(saved: Path, text: str) -> None:
    (saved / CONFIG).write_text(text)
    refused(saved, "cannot be read as JSON")


def test_a_configuration_in_no_encoding_is_refused(saved: Path) -> None:
    (saved / CONFIG).write_bytes(b"\xff\xfe\x00")
    refused(saved, "no text in UTF-8")


@pytest.mark.parametrize("value", [[], 3, "text", None])
def test_a_configuration_that_is_no_object_is_refused(saved: Path, value: Any) -> None:
    (saved / CONFIG).write_text(json.dumps(value))
    refused(saved, "instead of an object")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "format 2; this version reads 1"),
        (["format"], None, "format nothing"),
        (["network", "kind"], "transformer", "transformer"),
        (["network", "gemnet", "widht"], 3, "widht"),
        (["network", "gemnet", "width"], "wide", "width|config.json"),
        (["network", "gemnet", "width"], -4, "width"),
        (["network", "gemnet", "width"], 2.5, "config.json"),
        (["network", "gemnet", "edge_rule"], "closest", "closest"),
        (["network", "gemnet"], [1], "config.json"),
        (["network", "conditions"], 7, "config.json"),
        (["network", "conditions"], [{"name": "a.b"}], "lacks the tensor"),
        (["network", "conditions"], [{"name": "sg", "kind": "category", "num_categories": -1}], "config.json"),
        (["network", "colour"], "red", "colour"),
        (["network"], 5, "config.json"),
        (["network"], [1, 2], "config.json"),
        (["process", "sigma"], 1.0, "sigma"),
        (["process", "sigma_min"], "small", "config.json"),
        (["process", "cell_variance"], {"all": [1, 2, 3]}, "cell_variance|config.json"),
        (["process", "cell_variance"], {"all": ["a", "b"]}, "cell_variance|config.json"),
        (["process", "cell_variance"], {"four": [1, 2], "all": [1, 2]}, "cell_variance|config.json"),
        (["process"], "none", "process|config.json"),
        (["metadata", "author"], "me", "author"),
        (["metadata", "elements"], ["Fe"], "metadata"),
        (["metadata", "num_atoms_histogram"], {"four": 1.0}, "metadata"),
        (["metadata", "num_atoms_histogram"], [4], "metadata"),
        (["metadata"], 1, "config.json"),
    ],
)
def test_a_damaged_configuration_is_refused_in_one_sentence(
    saved: Path, path: list[str], value: Any, message: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    edit_config(saved, change)
    refused(saved, message)


def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'nowhere-to-be-found'"):
        find_model("nowhere-to-be-found")
    with pytest.raises(InputError, match=f"holds no {CONFIG}"):
        find_model(tmp_path)


@pytest.mark.parametrize("broken", ["save_file", "replace"])
def test_a_failed_write_leaves_the_old_model_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = make_model()
    with torch.no_grad():
        next(model.network.parameters()).add_(1.0)

    def fail(*args: Any, **kwargs: Any) -> None:
        if broken == "save_file":  # the disk fills up half-way
            Path(args[1]).write_bytes(b"half")
        raise OSError("No space left on device")

    if broken == "save_file":
        monkeypatch.setattr(store, "save_file", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="free some space"):
        save_model(model, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_loading_runs_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.Unpickler", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_model(saved)


def test_reading_a_model_imports_neither_a_compiler_nor_chemistry():
    code = (
        "import sys; from crystalsmith.checkpoints.find import load_model; load_model('mp20-tiny'); "
        "print(sorted({'torch._dynamo', 'sympy', 'pymatgen', 'ase', 'moyopy', 'lightning'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
