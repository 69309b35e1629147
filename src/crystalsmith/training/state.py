"""The state of an unfinished run in one safetensors file: tensors by name, and numbers as JSON in its header.

Nothing in it is executed on loading, and it is replaced in one atomic rename.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crystalsmith.errors import InputError, brief
from crystalsmith.files import replacing
from crystalsmith.schema import Items, Map, Number, Record, Text, parse_json, whole

FILE = "resume.safetensors"
FORMAT = 1
MEND = "start a new run"

_ANY = Number(-math.inf, math.inf, nan=True, none=True)
_SUM = Number(-math.inf, math.inf, nan=True)
_LOSSES = Map(_SUM, most=100, none=True)
NUMBERS = Record(
    {
        "step": whole(),
        "crystals": whole(),
        "seconds": Number(0, 1e12),
        "meter": Items(_SUM, 1, 100),
        "epoch_meter": Items(_SUM, 1, 100),
        "rate": Record({"best": _ANY, "bad_epochs": whole(), "reduced": Number(0)}),
        "ema_updates": whole(),
        "data": Text(),
    },
    {
        "skipped": whole(),
        "bad_in_row": whole(),
        "lr": Number(0),
        "validated": whole(),
        "stale": whole(),
        "best": Record({"total": _ANY, "step": whole(none=True)}),
        "train_means": _LOSSES,
        "last_validation": _LOSSES,
        "busy": Number(0, 1e12),
    },
)
"""The numbers beside the tensors."""


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"The training state {path} is damaged ({brief(error)}); {MEND}.") from None
    if metadata.get("format") != str(FORMAT):
        raise InputError(f"The training state {path} has format {metadata.get('format')}; this version reads {FORMAT}.")
    return tensors, parse_json(metadata.get("state", ""), f"The training state {path}", NUMBERS, MEND)


def split(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
