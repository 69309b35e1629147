"""The state of an unfinished run in one safetensors file: tensors by name, and numbers as JSON in its header.

Nothing in it is executed on loading, and it is replaced in one atomic rename.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crystalsmith.errors import InputError
from crystalsmith.files import replacing

FILE = "resume.safetensors"
FORMAT = 1


def save_state(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able numbers; an earlier file stays whole until the new one is on disk.

    Raises:
        InputError: if the disk does not take it.
    """
    from safetensors.torch import save_file

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, metadata={"format": str(FORMAT), "state": json.dumps(dict(numbers))})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_state`` wrote.

    Raises:
        InputError: if there is no such file or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"There is no training state at {path}; start without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            numbers = json.loads(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"The training state {path} is damaged ({error}); start a new run.") from None
    if metadata.get("format") != str(FORMAT):
        raise InputError(f"The training state {path} has format {metadata.get('format')}; this version reads {FORMAT}.")
    return tensors, numbers


def split(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
