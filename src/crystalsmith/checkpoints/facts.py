"""What a model folder says about its model, read without building the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from crystalsmith.checkpoints.model import ModelMetadata
from crystalsmith.checkpoints.store import CARD, WEIGHTS, read_config, weights_sha256
from crystalsmith.elements import symbol
from crystalsmith.errors import InputError


def model_facts(folder: Path) -> dict[str, Any]:
    """Plain data for a listing: name, sizes, conditions, elements, sampling defaults, licence, hash and card.

    Raises:
        InputError: if the folder holds no readable model.
    """
    config = read_config(folder)
    metadata = ModelMetadata.from_dict(config.get("metadata", {}))
    weights = folder / WEIGHTS
    try:
        with safe_open(weights, framework="np") as file:
            parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{weights} cannot be read ({error}); copy or download the model again.") from None
    card = folder / CARD
    return {
        "name": metadata.name,
        "purpose": _purpose(config),
        "folder": str(folder),
        # Of an imported model the count that goes with the published one, frozen scale factors included.
        "parameters": metadata.training.get("parameters_used", parameters),
        "bytes": weights.stat().st_size,
        "conditions": [condition["name"] for condition in config.get("network", {}).get("conditions", ())],
        "elements": [symbol(z) for z in metadata.elements],
        "num_atoms": {str(n): p for n, p in metadata.num_atoms_histogram.items()},
        "sampling": dict(metadata.sampling),
        "training": dict(metadata.training),
        "licence": metadata.licence,
        "weights_sha256": weights_sha256(folder),
        "card": str(card) if card.is_file() else None,
    }


def _purpose(config: Mapping[str, Any]) -> str:
    """What a model is for, in a few words that follow from its task and its conditions."""
    names = [str(condition["name"]) for condition in config.get("network", {}).get("conditions", ())]
    if config.get("process", {}).get("task") == "csp":
        what = "predicts structures of given compositions"
    else:
        what = "generates crystals"
    return f"{what}; follows {', '.join(names)}" if names else what
