"""A training run from the outside: check the folders, start the processes, train, tell how it ended.

Lightning Fabric gives devices, precision and processes (DDP, SLURM, torchrun). The loop is ours rather than
Lightning's Trainer, because a resumed run must repeat the uninterrupted one bit for bit, in the middle of an epoch and
with gradient accumulation over unequal passes, and its state must load without unpickling anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from crystalsmith.checkpoints.find import find_model, followed
from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.store import read_config
from crystalsmith.errors import InputError
from crystalsmith.files import make_folder
from crystalsmith.locks import is_empty, locked
from crystalsmith.signals import stop_on_signals
from crystalsmith.training.build import build_model, denoiser_config, process_config, task_config
from crystalsmith.training.config import Recipe, load_recipe, refuse_changes, save_recipe
from crystalsmith.training.labels import FEW_LABELS, Coverage, Labelled, check_labels, kind_of
from crystalsmith.training.log import Console
from crystalsmith.training.loop import Loop, Outcome
from crystalsmith.training.state import FILE

RECIPE = "recipe.yaml"


def train(data: str | Path, out: str | Path, recipe: Recipe, resume: bool = False, quiet: bool = False) -> Outcome:
    """Train a model on a prepared data set.

    Args:
        data: folder that ``crystalsmith data prepare`` wrote.
        out: folder of the run: ``recipe.yaml``, ``log.csv``, ``val_bins.csv``, ``last/`` and ``best/`` (models),
            ``resume.safetensors`` (state). Must be new or empty unless resuming.
        recipe: what to do; see :func:`resume_recipe` for a resumed run.
        resume: go on where the run in ``out`` stopped.
        quiet: no progress.

    Raises:
        InputError: if something about data, folder, recipe or hardware cannot work.
    """
    data, out = Path(data), Path(out)
    recipe = named(recipe, out.resolve().name)
    with quiet_lightning():
        fabric = make_fabric(recipe)
        if launching_rank() != 0:
            return fabric.launch(_session, data, out, recipe, resume, quiet)
        check(data, recipe)
        with locked(out, "crystalsmith train"):
            prepare_folder(out, recipe, resume)
            return fabric.launch(_session, data, out, recipe, resume, quiet)


def resume_recipe(out: str | Path, recipe: str | Path | None, overrides: list[str]) -> Recipe:
    """The recipe of a resumed run: the saved one with overrides that do not change what is trained.

    Raises:
        InputError: if there is nothing to resume, or the model, data or optimisation would change.
    """
    saved_path = Path(out) / RECIPE
    if not saved_path.is_file():
        raise InputError(f"There is no run to resume in {out}; start it without --resume.")
    saved = load_recipe(saved_path)
    wanted = named(load_recipe(recipe if recipe is not None else saved_path, overrides), saved.name)
    refuse_changes(saved, wanted)
    return wanted


def named(recipe: Recipe, name: str) -> Recipe:
    """The recipe, with this name for the model unless it has one."""
    return recipe if recipe.name else dataclasses.replace(recipe, name=name)


def check(data: Path, recipe: Recipe) -> None:
    """Find what cannot work before any process starts or any file is written.

    Raises:
        InputError: naming it.
    """
    from crystalsmith.data.dataset import CrystalDataset

    dataset = CrystalDataset.open(data)
    if len(dataset.rows("train")) == 0:
        raise InputError(f"The data set {data} has no training rows; prepare it again with a train split.")
    if recipe.base is None:
        denoiser_config(recipe.model)
        process_config(recipe.process, dataset.manifest)
    else:
        base = Model.from_config(read_config(find_model(recipe.base)), empty=True)
        task_config(recipe, base.process.config)
    properties = recipe.conditions.properties
    wanted = {name: kind_of(name, str(kind or ""), dataset.manifest) for name, kind in properties.items()}
    check_labels(dataset, wanted, recipe.conditions.reference)


def prepare_folder(out: Path, recipe: Recipe, resume: bool) -> None:
    """Make the folder of a run and write its recipe.

    Raises:
        InputError: if it holds something already, or nothing to resume.
    """
    if resume:
        if not (out / RECIPE).is_file():
            raise InputError(f"There is no run to resume in {out}; start it without --resume.")
    elif out.exists() and (not out.is_dir() or not is_empty(out)):
        raise InputError(f"{out} is not empty; continue its run with --resume or choose a new folder.")
    make_folder(out)
    save_recipe(recipe, out / RECIPE)


def launching_rank() -> int:
    """Rank of this process by the launcher's environment; 0 where nothing launched it."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def choose_accelerator(recipe: Recipe) -> str:
    """The recipe's accelerator; ``auto`` is CUDA where there is one, else the CPU."""
    wanted = recipe.hardware.accelerator
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"  # Lightning would choose MPS on a Mac, without float64


def make_fabric(recipe: Recipe) -> Any:
    """Lightning Fabric for the recipe's hardware.

    Raises:
        InputError: if Lightning is not installed or the hardware is not there.
    """
    try:
        from lightning.fabric import Fabric
    except ImportError:
        raise InputError("Training needs Lightning; install it with: pip install 'crystalsmith[train]'.") from None
    hardware = recipe.hardware
    several = hardware.devices * hardware.num_nodes > 1
    strategy = hardware.strategy if hardware.strategy != "auto" else ("ddp" if several else "auto")
    try:
        return Fabric(
            accelerator=choose_accelerator(recipe),
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            strategy=strategy,
            precision="32-true",  # mixed precision is the business of objective.FlatNetwork
        )
    except (ValueError, RuntimeError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(f"This hardware setting cannot work here: {sentence}") from None
    except Exception as error:  # Lightning's own exception classes differ between versions
        if type(error).__name__ == "MisconfigurationException":
            raise InputError(f"This hardware setting cannot work here: {' '.join(str(error).split())}") from None
        raise


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """What tells one prepared data set from another: a hash over the hashes of its arrays."""
    facts = manifest.get("sha256") or manifest.get("counts")
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _session(fabric: Any, data: Path, out: Path, recipe: Recipe, resume: bool, quiet: bool) -> Outcome:
    """What each process does."""
    from crystalsmith.data.dataset import CrystalDataset

    dataset: Any = CrystalDataset.open(data)
    coverage: dict[str, Coverage] = {}
    if recipe.conditions.properties:
        dataset = Labelled(dataset, recipe.conditions.properties, recipe.conditions.reference)
        dataset.require_labels()
        coverage = dataset.coverage
    model = build_model(recipe, dataset.manifest, coverage)
    known = () if recipe.base is None else followed(find_model(recipe.base))
    with (
        matmul_precision("high" if recipe.hardware.precision == "tf32" else "highest"),
        Console(quiet or fabric.global_rank != 0) as console,
        stop_on_signals() as asked_to_stop,
    ):
        console.say(
            f"Training {recipe.name} on {len(dataset.rows('train')):,} crystals: "
            f"{sum(p.numel() for p in model.network.parameters()):,} parameters, batch {recipe.data.batch_size}, "
            f"{fabric.world_size} process(es), {fabric.device.type}, precision {recipe.hardware.precision}"
        )
        for seen in coverage.values():
            console.say(seen.sentence())
            if seen.count < FEW_LABELS and fabric.global_rank == 0 and seen.name not in known:
                print(
                    f"Warning: only {seen.count:,} training crystals carry {seen.name}; below {FEW_LABELS:,} "
                    "a model learns to follow it poorly.",
                    file=sys.stderr,
                )
            if seen.constant and fabric.global_rank == 0:
                print(f"Warning: {seen.constant_sentence()}", file=sys.stderr)
        loop = Loop(recipe, dataset, fingerprint(dataset.manifest), out, fabric, model, console, asked_to_stop)
        # A run that was killed before its first save has a recipe but no state: it starts over.
        outcome = loop.run(resume and (out / FILE).is_file())
        return dataclasses.replace(outcome, signum=asked_to_stop.signum)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within the block Lightning does not announce what it found."""
    logger = logging.getLogger("lightning.fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Within the block float32 products have this precision (torch's names: highest, high)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
