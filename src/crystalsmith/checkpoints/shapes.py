"""What ``config.json`` of a model or predictor must look like before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crystalsmith.checkpoints.model import ModelMetadata
from crystalsmith.diffusion.process import ProcessConfig
from crystalsmith.diffusion.solvers import SETTINGS
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.transformer import TransformerConfig
from crystalsmith.schema import (
    Anything,
    Either,
    Flag,
    Items,
    Map,
    Number,
    Record,
    Shape,
    Text,
    fields_of,
    of_type,
    whole,
)

MEND = "copy or download the model again"
MAX_ATOMS = 10_000
"""Largest key of a histogram of numbers of atoms."""

_LIMITS = {
    "width": 16_384,
    "num_blocks": 256,
    "head_residuals": 64,
    "attention_heads": 256,
    "num_heads": 256,
    "max_neighbors": 1024,
    "max_images": 20,
    "num_spherical": 32,
}
"""Largest values of sizes of networks; all others reach to 4,096."""


def sizes_shape(kind: type) -> Record:
    """The shape of a dataclass of sizes, its whole numbers within bounds."""
    fields = fields_of(kind)
    for name, shape in fields.items():
        if isinstance(shape, Number):
            high = _LIMITS.get(name, 4096)
            fields[name] = whole(0, high) if shape.whole else Number(0, 1000)
    return Record({}, fields, closed=True)


CONDITIONS = Items(
    Record(
        {"name": Text(200)},
        {**fields_of(ConditionConfig), "num_categories": whole(1, 100_000)},
        closed=True,
    ),
    most=200,
)

NETWORK = Record(
    {"kind": Text()},
    {"gemnet": sizes_shape(GemNetConfig), "transformer": sizes_shape(TransformerConfig), "conditions": CONDITIONS},
)

_PLAIN: tuple[Shape, ...] = (Number(-1e9, 1e9), Text(200), Flag(), Items(Anything(), most=300))

METADATA = Record(
    {},
    {
        **fields_of(ModelMetadata),
        "elements": Items(whole(1, 100), 1, 100),
        "num_atoms_histogram": Map(Number(0, 1e15), numbered=True, most=MAX_ATOMS),
        "sampling": Map(Either((*_PLAIN, Map(Either(_PLAIN), most=100))), most=100),
        "training": Record({}, {"parameters_used": whole(), "parameters_published": whole()}),
        "properties": Map(Record({}, {"min": Number(), "max": Number(), "kind": Text()}), most=200),
    },
    closed=True,
)

MODEL = Record(
    {"format": Either((whole(), Text()))},
    {"network": NETWORK, "process": of_type(ProcessConfig), "metadata": METADATA},
)
"""``config.json`` of a model."""

PREDICTOR = Record(
    {
        "format": Text(),
        "network": Record({}, {**sizes_shape(GemNetConfig).optional, "kind": Text()}, closed=True),
        "facts": Record(
            {
                "property": Text(200),
                "kind": Text(choices=("scalar", "log")),
                "unit": Text(200),
                "mean": Number(-1e30, 1e30),
                "std": Number(1e-300, 1e30),
                "elements": Items(whole(1, 100), 1, 100),
                "training": Record(
                    {},
                    {
                        "crystals": whole(),
                        "steps": whole(),
                        "validation_mae": Number(),
                        "validation_crystals": whole(),
                        "baseline_mae": Number(),
                    },
                ),
            }
        ),
    }
)
"""``config.json`` of a predictor."""


def check_sampling(sampling: Any, where: str) -> None:
    """Refuse default settings of sampling that no solver has.

    Raises:
        InputError: naming the first.
    """
    known = {key: bounds for settings in SETTINGS.values() for key, bounds in settings.items()}
    limits = {**known, "steps": (1, 10**6), "temperature": (0.05, 20.0), "guidance": (-100.0, 100.0), "select": (1, 64)}
    for key, value in sampling.items():
        if key in limits:
            low, high = limits[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{where} is damaged at metadata.sampling.{key} ({value!r}); {MEND}.")
        elif key == "targets" and not isinstance(value, Mapping):
            raise InputError(f"{where} is damaged at metadata.sampling.targets (no object); {MEND}.")
        elif key in ("templates", "selector") and not isinstance(value, str):
            raise InputError(f"{where} is damaged at metadata.sampling.{key} (no name); {MEND}.")
        elif key not in ("solver", "space_group", "targets", "templates", "selector"):
            raise InputError(f"{where} is damaged at metadata.sampling (no solver has the setting {key!r}); {MEND}.")
