"""From a recipe and a data set to a fresh model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.elements import ALLOWED, SYMBOLS, atomic_number
from crystalsmith.errors import InputError
from crystalsmith.training.config import Recipe
from crystalsmith.training.settings import convert, refuse_unknown

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

Manifest = Mapping[str, Any]


def denoiser_config(settings: Mapping[str, Any]) -> Any:
    """The network's configuration: a preset and overrides of its fields.

    Raises:
        InputError: for an unknown preset or field.
    """
    from crystalsmith.network.denoiser import PRESETS, DenoiserConfig

    overrides = dict(settings)
    preset = overrides.pop("preset", "base")
    if preset not in PRESETS:
        raise InputError(f"model.preset must be one of {', '.join(PRESETS)}, not {preset!r}.")
    names = [f.name for f in dataclasses.fields(DenoiserConfig)]
    refuse_unknown(overrides, ["preset", *names], "model")
    return DenoiserConfig.from_dict({**PRESETS[preset].to_dict(), **overrides})


def process_config(settings: Mapping[str, Any], manifest: Manifest) -> ProcessConfig:
    """The constants of the corruption processes: ours with the density and cell variance of the data, or the published.

    Raises:
        InputError: for an unknown choice or field.
    """
    overrides = dict(settings)
    constants = overrides.pop("constants", "data")
    names = [f.name for f in dataclasses.fields(ProcessConfig)]
    refuse_unknown(overrides, ["constants", *names], "process")
    if constants == "published":
        base = ProcessConfig.published()
    elif constants == "data":
        missing = [key for key in ("mean_density", "cell_variance") if key not in manifest]
        if missing:
            raise InputError(
                f"The data set's manifest has no {missing[0]}; prepare it again, or train with "
                "--set process.constants=published."
            )
        base = ProcessConfig.from_dict(
            {"limit_density": float(manifest["mean_density"]), "cell_variance": manifest["cell_variance"]}
        )
    else:
        raise InputError(f"process.constants must be data or published, not {constants!r}.")
    hints = {f.name: type(f.default) for f in dataclasses.fields(ProcessConfig) if isinstance(f.default, (float, bool))}
    for name, value in overrides.items():
        if name in hints:
            overrides[name] = convert(hints[name], value, f"process.{name}")
    return ProcessConfig.from_dict({**base.to_dict(), **overrides})


def elements_of(manifest: Manifest) -> tuple[int, ...]:
    """Atomic numbers that occur in the data; all allowed ones where the manifest does not say."""
    counts = manifest.get("elements") or {}
    present = tuple(sorted(atomic_number(name) for name, count in counts.items() if count and name in SYMBOLS))
    return present or tuple(sorted(ALLOWED))


def build_model(recipe: Recipe, manifest: Manifest) -> Model:
    """A model with fresh weights, which depend on the recipe's seed only."""
    from crystalsmith.checkpoints.model import Model, ModelMetadata
    from crystalsmith.network.denoiser import GemNetDenoiser

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = GemNetDenoiser(denoiser_config(recipe.model))
    histogram = {int(n): float(count) for n, count in (manifest.get("num_atoms_histogram") or {}).items()}
    metadata = ModelMetadata(
        name=recipe.name,
        elements=elements_of(manifest),
        num_atoms_histogram=histogram,
        sampling={},
        training={},
        licence=recipe.card.licence,
    )
    return Model(network, Process(process_config(recipe.process, manifest)), metadata)
