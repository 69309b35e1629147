"""Models by name: those that come with the package, of a hub, imported ones, and any folder."""

from __future__ import annotations

from pathlib import Path

import torch

from crystalsmith.checkpoints.cache import HUB_PREFIX, cached_models, imported_models
from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.store import CONFIG, read_config, read_model
from crystalsmith.errors import InputError

BUNDLED = Path(__file__).resolve().parents[1] / "models"
"""Folder of the models that come with the package."""


def list_models() -> dict[str, Path]:
    """Name and folder of every model that is known: bundled, cached from a hub, and imported (by folder)."""
    return {**bundled_models(), **cached_models(), **imported_models()}


def bundled_models() -> dict[str, Path]:
    """Name and folder of every model that comes with the package."""
    return {folder.name: folder for folder in sorted(BUNDLED.iterdir()) if (folder / CONFIG).is_file()}


def models_that_follow(name: str) -> list[str]:
    """The bundled models that are conditioned on a property."""
    return [model for model, folder in bundled_models().items() if name in followed(folder)]


def followed(folder: Path) -> tuple[str, ...]:
    """The properties that the model in a folder is conditioned on."""
    return tuple(c.get("name", "") for c in read_config(folder).get("network", {}).get("conditions", ()))


def find_model(name_or_folder: str | Path) -> Path:
    """The folder of a bundled model, of a model on disk, or of a hub model ``hf:owner/repository/name``.

    A hub model is imported into the user's cache the first time.

    Raises:
        InputError: if there is none.
    """
    bundled = bundled_models()
    if str(name_or_folder) in bundled:
        return bundled[str(name_or_folder)]
    if str(name_or_folder).startswith(HUB_PREFIX):
        from crystalsmith.checkpoints.published.hub import cached_import

        return cached_import(str(name_or_folder))
    folder = Path(name_or_folder)
    if (folder / CONFIG).is_file():
        return folder
    known = ", ".join(bundled) or "none"
    what = f"The folder {folder} holds no {CONFIG}" if folder.is_dir() else f"There is no model '{name_or_folder}'"
    raise InputError(f"{what}; give a model folder, hf:owner/repository/name, or a bundled name ({known}).")


def load_model(name_or_folder: str | Path, device: torch.device | str = "cpu") -> Model:
    """A bundled model by name, of a hub, or in a folder; float32, in evaluation mode.

    Raises:
        InputError: if it does not exist, is damaged, or weights and configuration do not belong together.
    """
    return read_model(find_model(name_or_folder), device)
