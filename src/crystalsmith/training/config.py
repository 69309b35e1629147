"""The recipe of a training run: what is trained, on what, how and for how long.

Defaults are the published hyper-parameters (spec 7: Adam 1e-4, reduce on plateau 0.6 / 100 epochs / 1e-6, clipping by
value 0.5, batch 512, no EMA); everything else is a choice by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crystalsmith.errors import InputError
from crystalsmith.files import replace_text
from crystalsmith.schema import read_yaml
from crystalsmith.training.settings import assign, read, require, seconds

Precision = Literal["32", "tf32", "bf16-mixed"]
Dropout = Literal["independent", "joint", "subsets"]


@dataclass(frozen=True)
class DataSettings:
    """How crystals become batches.

    Attributes:
        batch_size: crystals per optimiser step, over all devices and micro-batches.
        micro_batch_size: most crystals in one forward pass of one device; None = the whole share of the device.
        max_atoms_per_batch: most atoms in one forward pass; None = no limit.
        bucket_batches: batches are cut from pools of this many batches sorted by number of atoms; 1 = plain shuffling.
            Within a batch the passes always hold crystals of like size. Pools halve the search for neighbours (4: 42 to
            19 ms per 64 MP-20 crystals on one core, 6 % of a step of the tiny model); padding is 5 % either way.
        stratified_times: spread the times of a batch evenly over (0, 1) (lower variance) instead of independently.
        num_workers: threads that prepare batches ahead; 0 = in the training thread.
        on_device: keep the whole training set on the device.
        symmetric_share: of the crystals, drawn anew each step, that are noised within their space group, as they will
            be where a space group is asked for; needs ``crystalsmith data symmetry``.
        free_elements: share of the crystals, drawn anew each step, whose elements are noised to a time of their own
            (:func:`crystalsmith.training.batching.draw_species_times`): one model then generates, predicts structures
            and decorates given geometries.
    """

    batch_size: int = 512
    micro_batch_size: int | None = None
    max_atoms_per_batch: int | None = None
    bucket_batches: int = 1
    stratified_times: bool = False
    num_workers: int = 1
    on_device: bool = False
    symmetric_share: float = 0.0
    free_elements: float = 0.0

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "data.batch_size must be at least 1.")
        require(
            self.micro_batch_size is None or self.micro_batch_size >= 1, "data.micro_batch_size must be at least 1."
        )
        require(
            self.max_atoms_per_batch is None or self.max_atoms_per_batch >= 1,
            "data.max_atoms_per_batch must be at least 1.",
        )
        require(self.bucket_batches >= 1, "data.bucket_batches must be at least 1.")
        require(self.num_workers >= 0, "data.num_workers must not be negative.")
        require(0 <= self.symmetric_share <= 1, "data.symmetric_share must lie between 0 and 1.")
        require(0 <= self.free_elements <= 1, "data.free_elements must lie between 0 and 1.")


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam, AdamW with decoupled weight decay on matrices (never on biases or gains), or Muon for the hidden matrices
    beside AdamW for the rest (:mod:`crystalsmith.training.muon`)."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "optimizer.lr must be positive.")
        require(all(0 <= b < 1 for b in self.betas), "optimizer.betas must lie in [0, 1).")
        require(self.weight_decay >= 0, "optimizer.weight_decay must not be negative.")


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over time, as a factor on ``optimizer.lr``.

    Attributes:
        name: ``plateau`` (times ``factor`` after ``patience`` epochs without a better training loss, down to
            ``min_lr``), ``cosine`` (down to ``final_fraction``) or ``constant``.
        warmup_steps: optimiser steps of linear warm-up, before and on top of any of the three.
        over: what the cosine runs over: ``steps`` (max_steps or max_epochs), ``time`` (max_time), or ``auto`` =
            whichever of them is nearest to its end.
    """

    name: Literal["plateau", "cosine", "constant"] = "plateau"
    warmup_steps: int = 0
    factor: float = 0.6
    patience: int = 100
    min_lr: float = 1e-6
    final_fraction: float = 0.01
    over: Literal["auto", "steps", "time"] = "auto"

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "schedule.warmup_steps must not be negative.")
        require(0 < self.factor < 1, "schedule.factor must lie between 0 and 1.")
        require(0 <= self.final_fraction <= 1, "schedule.final_fraction must lie between 0 and 1.")


@dataclass(frozen=True)
class ClippingSettings:
    """Gradient clipping: each element (``value``), the norm over all parameters (``norm``) or ``none``."""

    by: Literal["value", "norm", "none"] = "value"
    limit: float = 0.5
    max_bad_steps: int = 20

    def __post_init__(self) -> None:
        require(self.limit > 0, "clipping.limit must be positive.")
        require(self.max_bad_steps >= 1, "clipping.max_bad_steps must be at least 1.")


@dataclass(frozen=True)
class EmaSettings:
    """Exponential moving average of the weights; ``decay`` null = off. With ``warmup`` the decay of update k is at
    most (1 + k) / (10 + k), so that the average forgets the random start."""

    decay: float | None = None
    warmup: bool = True

    def __post_init__(self) -> None:
        require(self.decay is None or 0 < self.decay < 1, "ema.decay must lie between 0 and 1, or be null for off.")


@dataclass(frozen=True)
class LimitSettings:
    """When training ends: whichever comes first; 900 epochs are the published length on MP-20. ``max_time`` counts the
    time of all sessions of the run. ``patience``: validations in a row without a better loss that end the run."""

    max_epochs: int | None = 900
    max_steps: int | None = None
    max_time: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        require(self.max_epochs is None or self.max_epochs >= 1, "limits.max_epochs must be at least 1.")
        require(self.max_steps is None or self.max_steps >= 1, "limits.max_steps must be at least 1.")
        require(self.patience is None or self.patience >= 1, "limits.patience must be at least 1.")
        seconds(self.max_time, "limits.max_time")

    @property
    def max_seconds(self) -> float | None:
        """``max_time`` in seconds."""
        return seconds(self.max_time)


@dataclass(frozen=True)
class ValidationSettings:
    """Validation with fixed noise and a fixed grid of times, every ``every_steps`` steps or ``every_epochs`` epochs.

    Attributes:
        max_crystals: validation crystals used (a fixed, evenly spaced choice); None = all.
        batch_size: crystals per forward pass.
        bins: equal parts of (0, 1) in which ``val_bins.csv`` reports the losses.
    """

    every_epochs: int | None = 5
    every_steps: int | None = None
    max_crystals: int | None = 2048
    batch_size: int = 64
    bins: int = 5

    def __post_init__(self) -> None:
        for name in ("every_epochs", "every_steps", "max_crystals"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"validation.{name} must be at least 1, or null.")
        require(self.batch_size >= 1 and self.bins >= 1, "validation.batch_size and bins must be at least 1.")


@dataclass(frozen=True)
class HardwareSettings:
    """Where the run happens.

    Attributes:
        accelerator: ``auto`` (CUDA where there is one, else the CPU) or a Lightning accelerator.
        devices, num_nodes: processes per node, and nodes.
        precision: ``32``; ``tf32`` (float32 with TF32 products on CUDA, as published); ``bf16-mixed`` (autocast).
        strategy: ``auto`` (one process per device, DDP when there are several) or a Lightning strategy name.
        checkpoint_activations: compute each block again in the backward pass instead of keeping what it made: less
            memory, more time. On Linux the process also gives large freed blocks back at once.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "32"
    strategy: str = "auto"
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        require(self.devices >= 1, "hardware.devices must be at least 1.")
        require(self.num_nodes >= 1, "hardware.num_nodes must be at least 1.")


@dataclass(frozen=True)
class OutputSettings:
    """What is written and how often: a log row every ``log_every_steps``, the state every ``save_every_minutes``."""

    log_every_steps: int = 50
    save_every_minutes: float = 10.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require(self.log_every_steps >= 1, "output.log_every_steps must be at least 1.")
        require(self.save_every_minutes > 0, "output.save_every_minutes must be positive.")


NO_LICENCE = "not stated (set card.licence)"
"""Licence of weights whose maker has said nothing."""


@dataclass(frozen=True)
class CardSettings:
    """What the model card says beyond the facts of the run; an empty ``licence`` is that of the base, or not stated."""

    title: str | None = None
    notes: str = ""
    licence: str = ""


@dataclass(frozen=True)
class ConditionSettings:
    """What the model is conditioned on.

    Attributes:
        properties: name -> kind (scalar, log, category, elements; empty: as the registry says, or scalar).
        place: ``adapter`` (fine-tuning: added before each block, zero at first) or ``base`` (part of the atoms' latent
            vector from the start, for training from scratch).
        dropout: ``independent`` (each property on its own), ``joint`` (all at once; a crystal that lacks one label
            sees none) or ``subsets`` (all at once, and of what is left each with probability 1/2: for many properties
            of which any few are asked for).
        dropout_probability: with which a crystal does not see its labels, so that the model learns to do without.
        reference: folder of a reference set; ``energy_above_hull`` is then computed from its hull.
        rows: ``all`` (unlabelled crystals keep the unconditional model alive) or ``labelled`` (only crystals with at
            least one label).
    """

    properties: dict[str, Any] = field(default_factory=dict)
    place: Literal["adapter", "base"] = "base"
    dropout: Dropout = "independent"
    dropout_probability: float = 0.2
    rows: Literal["all", "labelled"] = "all"
    reference: str | None = None

    def __post_init__(self) -> None:
        require(0 <= self.dropout_probability < 1, "conditions.dropout_probability must be at least 0 and below 1.")


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: name of the model; empty: that of the folder of the run.
        seed: fixes initial weights, order of the data, times and noise.
        model: ``preset`` (tiny, small, base, transformer-tiny) and any field of that network's sizes.
        base: model whose weights the run starts from (a name or a folder); then ``model`` and ``process`` are the
            base's, except that ``process.task`` may turn a model that generates into one that predicts structures.
        freeze_base: train only what fine-tuning adds.
        conditions: properties that the model is conditioned on.
        process: ``constants`` (``data``: density and cell variance of the data set; ``published``) and any field of
            ``ProcessConfig``.
    """

    name: str = ""
    seed: int = 0
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "base"})
    process: dict[str, Any] = field(default_factory=lambda: {"constants": "data"})
    base: str | None = None
    freeze_base: bool = False
    conditions: ConditionSettings = field(default_factory=ConditionSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    clipping: ClippingSettings = field(default_factory=ClippingSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    card: CardSettings = field(default_factory=CardSettings)

    def __post_init__(self) -> None:
        frozen = self.freeze_base and self.conditions.properties and self.conditions.place == "base"
        require(not frozen, "With freeze_base only adapters learn: set conditions.place=adapter.")
        if self.schedule.name == "cosine":
            limits = self.limits
            by_steps = limits.max_steps is not None or limits.max_epochs is not None
            by_time = limits.max_time is not None
            enough, names = {
                "steps": (by_steps, "max_steps or max_epochs"),
                "time": (by_time, "max_time"),
                "auto": (by_steps or by_time, "max_steps, max_epochs or max_time"),
            }[self.schedule.over]
            require(enough, f"schedule.name=cosine over {self.schedule.over} needs an end: set limits.{names}.")

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "The recipe") -> Recipe:
        """A recipe from nested plain values.

        Raises:
            InputError: naming the setting that is unknown or wrong.
        """
        return read(Recipe, values, where)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as ``from_dict`` reads them."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def load_recipe(path: str | Path | None, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe (None = published defaults) and apply ``section.key=value`` overrides.

    Args:
        path: a YAML file, or the name of a recipe of the package (:func:`bundled_recipes`).
        overrides: settings.

    Raises:
        InputError: if the file is missing, is not YAML, or a setting is unknown or wrong.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(find_recipe(path))
    for assignment in overrides:
        assign(tree, assignment)
    # Sections of free keys start from their defaults, so that `--set model.num_blocks=2` keeps the preset.
    for section, default in (("model", {"preset": "base"}), ("process", {"constants": "data"})):
        if isinstance(tree.get(section, {}), Mapping):
            tree[section] = {**default, **tree.get(section, {})}
    return Recipe.from_dict(tree, where=Path(path).name if path is not None else "The recipe")


def bundled_recipes() -> dict[str, Path]:
    """The recipes of the package by name."""
    from importlib.resources import files

    return {path.stem: path for path in sorted(Path(str(files("crystalsmith.recipes"))).glob("*.yaml"))}


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe: one that exists as named, or the package's of that name.

    Raises:
        InputError: if there is neither.
    """
    known = bundled_recipes()
    if Path(path).is_file():
        return Path(path)
    if Path(path).parent in (Path("."), Path("recipes")) and Path(path).name.removesuffix(".yaml") in known:
        return known[Path(path).name.removesuffix(".yaml")]
    raise InputError(f"There is no recipe {path}; give a YAML file, or one of the package: {', '.join(known)}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, "mend the recipe")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"The recipe {path} must be a mapping of settings; see crystalsmith train --help.")
    return tree


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe as YAML, atomically."""
    import yaml

    replace_text(path, yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))


RESUME_MAY_CHANGE = ("limits", "hardware", "output", "card")
"""Sections that a resumed run may change: they do not change what a step does (precision aside)."""


def refuse_changes(saved: Recipe, wanted: Recipe) -> None:
    """Raise an ``InputError`` naming the first setting that a resumed run may not change."""
    old, new = saved.to_dict(), wanted.to_dict()
    for section in old:
        if section in RESUME_MAY_CHANGE or old[section] == new[section]:
            continue
        key, before, after = section, old[section], new[section]
        if isinstance(before, dict):
            name = next(k for k in {**before, **after} if before.get(k) != after.get(k))
            key, before, after = f"{section}.{name}", before.get(name), after.get(name)
        raise InputError(
            f"A resumed run keeps its recipe, but {key} changed from {before!r} to {after!r}; "
            "drop the change or start a new run in another folder."
        )
