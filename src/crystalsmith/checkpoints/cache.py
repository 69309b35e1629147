"""The user's cache folder: models fetched from a hub, and a list of the folders that models were imported into."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from crystalsmith.errors import InputError
from crystalsmith.files import make_folder, replace_text
from crystalsmith.schema import read_json

HUB_PREFIX = "hf:"
_COMPLETE = ("config.json", "model.safetensors")


def cache_folder() -> Path:
    """``$CRYSTALSMITH_CACHE``, or ``crystalsmith`` in the user's cache folder; not made here."""
    if given := os.environ.get("CRYSTALSMITH_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crystalsmith"


def hub_folder(owner: str, repository: str, name: str, revision: str | None) -> Path:
    """Where the import of a hub model is kept."""
    return cache_folder() / "hub" / owner / repository / (name if revision is None else f"{name}@{revision}")


def cached_models() -> dict[str, Path]:
    """Hub address and folder of every model that was fetched from a hub."""
    folders = sorted((cache_folder() / "hub").glob("*/*/*"))
    return {HUB_PREFIX + "/".join(folder.parts[-3:]): folder for folder in folders if _is_model(folder)}


def imported_models() -> dict[str, Path]:
    """Every folder that a model was imported into and that still holds one, by its path."""
    return {str(folder): folder for folder in map(Path, _read_list()) if _is_model(folder)}


def remember_import(folder: Path) -> None:
    """Note a folder for :func:`imported_models`; a cache that cannot be written is no error."""
    path = _list_path()
    folders = sorted({*_read_list(), str(folder.resolve())})
    with contextlib.suppress(InputError):
        make_folder(path.parent)
        replace_text(path, json.dumps(folders, indent=1) + "\n")


def _is_model(folder: Path) -> bool:
    return not folder.name.startswith(".") and all((folder / name).is_file() for name in _COMPLETE)


def _list_path() -> Path:
    return cache_folder() / "imported.json"


def _read_list() -> list[str]:
    try:
        data = read_json(_list_path())
    except (InputError, RuntimeError):  # a home that cannot be resolved
        return []
    return [item for item in data if isinstance(item, str)] if isinstance(data, list) else []
