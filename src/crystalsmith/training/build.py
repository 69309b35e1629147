"""From a recipe and a data set to a fresh model."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.elements import ALLOWED, SYMBOLS, atomic_number
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig, PropertyEmbedding, module_key
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.registry import PRESETS, Config, Network, architecture, build_network
from crystalsmith.training.config import NO_LICENCE, Recipe
from crystalsmith.training.labels import Coverage
from crystalsmith.training.settings import convert, refuse_unknown
from crystalsmith.training.widen import widened

Manifest = Mapping[str, Any]

LOSS_WEIGHTS = ("weight_frac_coords", "weight_cell", "weight_species", "cross_entropy_weight")
"""Settings of the process that a run may change in a model that it starts from: they are of training alone."""


def denoiser_config(settings: Mapping[str, Any]) -> Config:
    """The network's configuration: a preset and overrides of its sizes.

    Raises:
        InputError: for an unknown preset or size, or a value of the wrong type.
    """
    overrides = dict(settings)
    preset = overrides.pop("preset", "base")
    if preset not in PRESETS:
        raise InputError(f"model.preset must be one of {', '.join(PRESETS)}, not {preset!r}.")
    base = PRESETS[preset]
    part = architecture(base)
    hints = typing.get_type_hints(type(getattr(base, part)))
    refuse_unknown(overrides, ["preset", *hints], "model")
    sizes = {name: convert(hints[name], value, f"model.{name}") for name, value in overrides.items()}
    for name, value in sizes.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0:
            raise InputError(f"model.{name} must be positive, not {value}.")
    return dataclasses.replace(base, **{part: dataclasses.replace(getattr(base, part), **sizes)})


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
    hints = typing.get_type_hints(ProcessConfig)
    for name, value in overrides.items():
        if name != "cell_variance":  # a mapping of pairs, which ProcessConfig reads itself
            overrides[name] = convert(hints[name], value, f"process.{name}")
    return ProcessConfig.from_dict({**base.to_dict(), **overrides})


def elements_of(manifest: Manifest) -> tuple[int, ...]:
    """Atomic numbers that occur in the data; all allowed ones where the manifest does not say."""
    counts = manifest.get("elements") or {}
    present = tuple(sorted(atomic_number(name) for name, count in counts.items() if count and name in SYMBOLS))
    return present or tuple(sorted(ALLOWED))


def build_model(recipe: Recipe, manifest: Manifest, coverage: Mapping[str, Coverage] | None = None) -> Model:
    """The model that a run starts from: fresh weights, which depend on the recipe's seed only, or the base's and more.

    Args:
        recipe: of the run.
        manifest: of the data set.
        coverage: of the labels it is conditioned on (``labels.Labelled.coverage``).
    """
    coverage = coverage or {}
    if recipe.base is not None:
        return adapted_model(recipe, manifest, coverage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = denoiser_config(recipe.model)
        conditions = tuple(condition_config(seen, recipe.conditions.place) for seen in coverage.values())
        network = build_network(dataclasses.replace(config, conditions=conditions))
    fit_scalers(network, coverage, list(coverage))
    histogram = {int(n): float(count) for n, count in (manifest.get("num_atoms_histogram") or {}).items()}
    metadata = ModelMetadata(
        name=recipe.name, elements=elements_of(manifest), licence=recipe.card.licence or NO_LICENCE
    )
    metadata = dataclasses.replace(metadata, properties={name: c.facts() for name, c in coverage.items()})
    if histogram:
        metadata = dataclasses.replace(metadata, num_atoms_histogram=histogram)
    return Model(network, Process(process_config(recipe.process, manifest)), metadata)


def adapted_model(recipe: Recipe, manifest: Manifest, coverage: Mapping[str, Coverage]) -> Model:
    """The base model with each property that it does not know yet, attention or twice the width if asked for.

    What it knew stays and what is new mixes in nothing at first, so the new model begins as the base. Its task is the
    recipe's if that names one: a denoiser that generates has seen crystals with every share of their elements known,
    also with all of them.
    """
    from crystalsmith.checkpoints.find import load_model

    assert recipe.base is not None
    base = load_model(recipe.base)
    if _grows(recipe, base.network.config):
        base = Model(widened(base.network, seed=recipe.seed), base.process, base.metadata)
    known = {c.name for c in base.network.config.conditions}
    added = [name for name in coverage if name not in known]
    new = tuple(condition_config(coverage[name], recipe.conditions.place) for name in added)
    config = dataclasses.replace(base.network.config, conditions=(*base.network.config.conditions, *new))
    if "attention_heads" in recipe.model:
        assert isinstance(config, DenoiserConfig)
        heads = convert(int, recipe.model["attention_heads"], "model.attention_heads")
        config = dataclasses.replace(config, gemnet=dataclasses.replace(config.gemnet, attention_heads=heads))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build_network(config)
    network.load_state_dict(grown_weights(base.network, network), strict=False)
    fit_scalers(network, coverage, added)
    if recipe.freeze_base:
        mine = tuple(f"{module}.{module_key(name)}." for module in ("properties", "adapters") for name in added)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(mine))
    metadata = dataclasses.replace(
        base.metadata,
        name=recipe.name,
        licence=recipe.card.licence or base.metadata.licence,
        elements=tuple(sorted({*base.metadata.elements, *elements_of(manifest)})),
        properties={**base.metadata.properties, **{name: coverage[name].facts() for name in added}},
    )
    return Model(network, Process(task_config(recipe, base.process.config)), metadata)


def _grows(recipe: Recipe, config: Config) -> bool:
    """Whether the recipe asks for twice the base's width.

    Raises:
        InputError: if it asks for another one.
    """
    if "width" not in recipe.model:
        return False
    width = convert(int, recipe.model["width"], "model.width")
    if width not in (config.width, 2 * config.width):
        raise InputError(
            f"The run starts from the model {recipe.base}, which is {config.width} wide; "
            f"model.width may be {2 * config.width} or left out."
        )
    return width != config.width


def grown_weights(base: Network, network: Network) -> dict[str, Tensor]:
    """The base's weights for a network with more properties in its latent vector: their columns start at zero."""
    weights = base.state_dict()
    if base.base_names == network.base_names:
        return weights
    if not (isinstance(base, GemNetDenoiser) and isinstance(network, GemNetDenoiser)):
        raise InputError("Only a GemNet model can gain properties in its base; set conditions.place=adapter.")
    columns = weights["latent.weight"].split(base.config.width, dim=1)  # species, time, then the properties by name
    old = dict(zip(base.base_names, columns[2:], strict=True))
    zero = torch.zeros_like(columns[0])
    new = [old.get(name, zero) for name in network.base_names]
    return weights | {"latent.weight": torch.cat([*columns[:2], *new], dim=1)}


def task_config(recipe: Recipe, base: ProcessConfig) -> ProcessConfig:
    """The process of a run that starts from a model: the model's, with the task and loss weights of the recipe, if any.

    Raises:
        InputError: if there is no such task, or the recipe names settings of network or process that are the model's.
    """
    task = recipe.process.get("task")
    free = ("attention_heads", "width")
    fixed = [f"model.{k}" for k, value in recipe.model.items() if (k, value) != ("preset", "base") and k not in free]
    own = (("constants", "data"), ("task", task))
    weights = {key: value for key, value in recipe.process.items() if key in LOSS_WEIGHTS}
    base = dataclasses.replace(base, **{k: convert(float, v, f"process.{k}") for k, v in weights.items()})
    rest = {key: value for key, value in recipe.process.items() if key not in LOSS_WEIGHTS}
    fixed += [f"process.{key}" for key, value in rest.items() if (key, value) not in own]
    if fixed:
        raise InputError(f"The run starts from the model {recipe.base}, which has its own {fixed[0]}; leave it out.")
    return dataclasses.replace(base, task=task) if task is not None else base


def condition_config(seen: Coverage, place: Literal["adapter", "base"]) -> ConditionConfig:
    """How the network takes a property; a table of categories reaches to the largest label, 230 at least."""
    largest = int(seen.max or 0) if seen.kind == "category" else 0
    return ConditionConfig(seen.name, seen.kind, place, max(230, largest))


def fit_scalers(network: Network, coverage: Mapping[str, Coverage], names: list[str]) -> None:
    """Give the embeddings of these properties the mean and spread of their training labels."""
    for name in names:
        embedding, seen = network.properties[module_key(name)], coverage[name]
        if seen.mean is not None and seen.kind in ("scalar", "log"):
            assert isinstance(embedding, PropertyEmbedding)
            embedding.mean.fill_(seen.mean)
            embedding.std.fill_(seen.std or 1.0)
