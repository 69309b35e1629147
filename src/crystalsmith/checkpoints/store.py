"""Models on disk: ``config.json`` + ``model.safetensors`` + ``card.md``; reading them executes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from crystalsmith.checkpoints.model import FORMAT, UPDATES, Model
from crystalsmith.checkpoints.shapes import MEND, MODEL, check_sampling
from crystalsmith.errors import InputError
from crystalsmith.files import replacing, replacing_folder, sha256_of
from crystalsmith.schema import Anything, Record, Shape, check, read_json, say
from crystalsmith.versions import up_to_date

MAX_CONFIG = 16 * 2**20
"""Bytes of ``config.json`` that are read."""

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "card.md"


def save_model(model: Model, folder: str | Path, card: str = "", weights_dtype: torch.dtype | None = None) -> None:
    """Write a model as ``folder``, which is the earlier model or the new one at every moment.

    Args:
        model: to be written.
        folder: made if it is missing; other files in it stay.
        card: text of ``card.md``.
        weights_dtype: precision of the stored floating-point weights, e.g. ``torch.float16``; default as they are.

    Raises:
        InputError: if the disk does not take it.
    """
    with replacing_folder(Path(folder), keep=lambda _: True) as new:
        write_model(model, new, card, weights_dtype)


def write_model(model: Model, folder: Path, card: str = "", weights_dtype: torch.dtype | None = None) -> None:
    """Write the files of a model into a folder; arguments as in :func:`save_model`."""
    state = {
        name: (x.to(weights_dtype) if weights_dtype is not None and _may_shrink(name, x) else x)
        for name, x in model.network.state_dict().items()
    }
    write_tensors(folder / WEIGHTS, state, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(model.config_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def _may_shrink(name: str, tensor: torch.Tensor) -> bool:
    """Weights may lose precision; the scales of labels, which may be 1e-12, may not."""
    return tensor.is_floating_point() and tensor.dim() > 0 and not name.endswith((".mean", ".std"))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file as a whole.

    Raises:
        InputError: if the disk does not take it.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, metadata=metadata)


def read_model(folder: Path, device: torch.device | str = "cpu") -> Model:
    """The model in a folder; float32, in evaluation mode.

    Raises:
        InputError: if it does not exist, is damaged, or weights and configuration do not belong together.
    """
    model = Model.from_config(read_config(folder), empty=True)
    path = folder / WEIGHTS
    state = read_weights(path)
    check_state(model.network.state_dict(), state, path)
    # Copies: a tensor of the file is mapped from it, and half precision on disk is single precision here.
    single = {name: x.to(torch.float32 if x.is_floating_point() else x.dtype, copy=True) for name, x in state.items()}
    model.network.load_state_dict(single, assign=True)
    model.network.to(device).eval()
    return model


def read_config(folder: Path, shape: Shape = MODEL) -> dict[str, Any]:
    """``config.json`` of a model folder as plain data, checked against its shape (``checkpoints.shapes``).

    Raises:
        InputError: if it is no JSON object of that shape.
    """
    path = folder / CONFIG
    data: dict[str, Any] = read_json(path, Record({"format": Anything()}), MEND, max_bytes=MAX_CONFIG)
    if shape is MODEL:
        now = up_to_date(data, "", UPDATES)
        if now is None:  # another version may look different altogether
            raise InputError(f"{path} has format {say(data['format'])}; this version reads {FORMAT}.")
        data = now
    check(data, shape, str(path), MEND)
    if shape is MODEL:
        check_sampling(data.get("metadata", {}).get("sampling", {}), str(path))
    return data


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"The model {path.parent} has no {path.name}; copy or download it again.") from None
    except Exception as error:  # the library has an error of its own, and others for types of number it does not know
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} is not a readable safetensors file ({reason}); copy or download it again.") from None


def check_state(expected: dict[str, torch.Tensor], given: dict[str, torch.Tensor], where: Path | str) -> None:
    """Refuse weights with a missing, extra, misshapen, mistyped or non-finite tensor, by name.

    Raises:
        InputError: naming the first such tensor.
    """
    if missing := sorted(set(expected) - set(given)):
        raise InputError(f"{where} lacks the tensor '{missing[0]}' ({len(missing)} missing); it is of another model.")
    if extra := sorted(set(given) - set(expected)):
        raise InputError(f"{where} holds an unknown tensor '{extra[0]}' ({len(extra)} extra); it is of another model.")
    for name, tensor in given.items():
        want, have = tuple(expected[name].shape), tuple(tensor.shape)
        if want != have:
            raise InputError(f"{where}: the tensor '{name}' has shape {have}, not {want}; it is of another model.")
        if not _same_kind(expected[name].dtype, tensor.dtype):
            raise InputError(
                f"{where}: the tensor '{name}' holds numbers of type {_type(tensor.dtype)}, not "
                f"{_type(expected[name].dtype)}; it is of another model, or damaged."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where}: the tensor '{name}' holds numbers that are not finite; the file is damaged.")


def _same_kind(want: torch.dtype, have: torch.dtype) -> bool:
    """Whether numbers on disk may stand for those of the network: any precision of ours, never another kind."""
    return have in _PRECISIONS if want.is_floating_point else have == want


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 of the weights file of a model folder, which tells models apart."""
    return sha256_of(Path(folder) / WEIGHTS)
