"""A property predictor on disk and in use: the layout of a model folder, with a network of another kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalsmith.checkpoints.shapes import PREDICTOR
from crystalsmith.checkpoints.store import (
    CARD,
    CONFIG,
    WEIGHTS,
    check_state,
    read_config,
    read_weights,
    write_tensors,
)
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.files import replacing_folder
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.layers import empty_weights
from crystalsmith.network.predictor import PropertyNetwork
from crystalsmith.schema import Record, interpreting

BUNDLED = Path(__file__).resolve().parents[1] / "predictors"
"""Folder of the predictors that come with the package."""

FORMAT = "crystalsmith-predictor-1"

Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class PredictorFacts:
    """What a predictor is, beside its weights.

    Attributes:
        property: canonical name.
        kind: ``scalar``, or ``log``: the network sees log10.
        unit: of the property.
        mean, std: of the training labels (log10 for ``log``), which the network's output is scaled by.
        elements: atomic numbers that it was trained on.
        training: crystals, steps, and the errors on the validation crystals.
    """

    property: str
    kind: str = "scalar"
    unit: str = ""
    mean: float = 0.0
    std: float = 1.0
    elements: tuple[int, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


class Predictor:
    """A trained regressor, as evaluations take it (``evaluation.measures.Predictor``)."""

    def __init__(self, network: PropertyNetwork, facts: PredictorFacts) -> None:
        self.network, self.facts = network, facts

    @property
    def name(self) -> str:
        """The property."""
        return self.facts.property

    @property
    def note(self) -> str:
        """What it is and how far it errs."""
        told, unit = self.facts.training, f" {self.facts.unit}".rstrip()
        if "validation_mae" not in told:
            return f"by a predictor whose error was not measured ({told.get('crystals', 0):,} training crystals)"
        return (
            f"by a predictor with a mean absolute error of {told['validation_mae']:.3g}{unit} on "
            f"{told['validation_crystals']:,} validation crystals (saying the mean: {told['baseline_mae']:.3g}{unit})"
        )

    def to_values(self, output: Tensor) -> Tensor:
        """From the network's output to the property."""
        x = output * self.facts.std + self.facts.mean
        return 10.0**x if self.facts.kind == "log" else x

    def __call__(self, crystals: Sequence[Arrays], batch_size: int = 64) -> list[float]:
        """The property of each crystal; NaN where an element was not in training or the network gives no number."""
        device = next(self.network.parameters()).device
        known = set(self.facts.elements)
        kept = [k for k, c in enumerate(crystals) if set(c[2].tolist()) <= known]
        kept.sort(key=lambda k: len(crystals[k][2]))  # crystals of like size together
        values = [math.nan] * len(crystals)
        with torch.inference_mode():
            for first in range(0, len(kept), batch_size):
                some = kept[first : first + batch_size]
                batch = batch_of([crystals[k] for k in some]).to(device)
                for k, value in zip(some, self.to_values(self.network(batch)).tolist(), strict=True):
                    values[k] = value if math.isfinite(value) else math.nan
        return values


def batch_of(crystals: Sequence[Arrays]) -> CrystalBatch:
    """Crystals as a float32 batch."""
    return CrystalBatch(
        torch.tensor(np.concatenate([c[0] % 1.0 for c in crystals]), dtype=torch.float32) % 1.0,
        torch.tensor(np.stack([c[1] for c in crystals]), dtype=torch.float32),
        torch.tensor(np.concatenate([c[2] for c in crystals]), dtype=torch.int64),
        torch.tensor([len(c[2]) for c in crystals], dtype=torch.int64),
    )


def save_predictor(predictor: Predictor, folder: Path) -> None:
    """Write a predictor as ``folder``, which is the earlier one or the new one at every moment.

    Raises:
        InputError: if the disk does not take it.
    """
    config = {
        "format": FORMAT,
        "network": {"kind": "gemnet-property", **asdict(predictor.network.config)},
        "facts": asdict(predictor.facts),
    }
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    card = f"# Predictor of {predictor.name}\n\nValues are {predictor.note}.\n"
    with replacing_folder(folder, keep=lambda _: True) as new:
        write_tensors(new / WEIGHTS, predictor.network.state_dict(), {"format": "pt"})
        (new / CONFIG).write_text(text, encoding="utf-8")
        (new / CARD).write_text(card, encoding="utf-8")


def bundled_predictors() -> dict[str, Path]:
    """Name and folder of every predictor that comes with the package."""
    return {folder.parent.name: folder.parent for folder in sorted(BUNDLED.glob(f"*/{CONFIG}"))}


def load_predictor(folder: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """A bundled predictor by name, or one of ``train --task property``: the folder ``best`` of the run, or the run.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    folder = bundled_predictors().get(str(folder), Path(folder))
    if not (folder / CONFIG).is_file() and (folder / "best" / CONFIG).is_file():
        folder = folder / "best"
    if not (folder / CONFIG).is_file():
        known = ", ".join(bundled_predictors()) or "none"
        raise InputError(
            f"{folder} holds no predictor; make one with crystalsmith train --task property, or name a bundled one "
            f"({known})."
        )
    if read_config(folder, Record()).get("format") != FORMAT:
        raise InputError(f"{folder} is no predictor of this version; make one with crystalsmith train --task property.")
    config = read_config(folder, PREDICTOR)
    with interpreting(f"The predictor {folder}", "copy it again"):
        sizes = {k: v for k, v in config["network"].items() if k != "kind"}
        told = dict(config["facts"])
        # JSON has whole numbers of any size, tensors have not.
        told |= {"elements": tuple(told["elements"]), "mean": float(told["mean"]), "std": float(told["std"])}
        facts = PredictorFacts(**{f.name: told[f.name] for f in fields(PredictorFacts)})
        with empty_weights():
            network = PropertyNetwork(GemNetConfig(**sizes))
    state = read_weights(folder / WEIGHTS)
    check_state(network.state_dict(), state, folder / WEIGHTS)
    single = {name: x.to(torch.float32 if x.is_floating_point() else x.dtype, copy=True) for name, x in state.items()}
    network.load_state_dict(single, assign=True)
    return Predictor(network.to(device).eval(), facts)
