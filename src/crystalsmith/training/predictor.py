"""Training a property predictor: regression on the clean structure.

The batches, optimiser, schedule, averaging and limits are those of every training. The loop is its own and short:
no noise, no conditions, one process. A resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalsmith.checkpoints.predictor import Predictor, PredictorFacts, save_predictor
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.locks import locked
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.predictor import PropertyNetwork
from crystalsmith.schema import interpreting
from crystalsmith.signals import stop_on_signals
from crystalsmith.training.batching import Rows, micro_batches
from crystalsmith.training.build import denoiser_config, elements_of
from crystalsmith.training.config import Recipe, load_recipe
from crystalsmith.training.labels import FEW_LABELS, Coverage, Labelled, split_kind
from crystalsmith.training.learner import Learner
from crystalsmith.training.loader import Step, StepSource, spread
from crystalsmith.training.log import Console, CsvLog, Row, duration
from crystalsmith.training.memory import spare_memory
from crystalsmith.training.run import choose_accelerator, fingerprint, prepare_folder
from crystalsmith.training.schedule import Limits
from crystalsmith.training.state import FILE, MEND, load_state, save_state

DEFAULTS = (
    "model.preset=tiny",
    "data.batch_size=64",
    "data.bucket_batches=4",
    "optimizer.name=adamw",
    "optimizer.lr=1e-3",
    "schedule.name=cosine",
    "schedule.warmup_steps=100",
    "clipping.by=norm",
    "clipping.limit=1.0",
    "ema.decay=0.999",
    "limits.max_epochs=60",
    "validation.every_epochs=2",
)
"""Settings of a recipe that nothing was said about; our own choice."""

COLUMNS = ("step", "epoch", "seconds", "lr", "train_loss", "val_mae")


@dataclass(frozen=True)
class Fitted:
    """How the training of a predictor ended.

    Attributes:
        step, crystals, seconds: of the run.
        mae: of the best validation, in the property's unit; None without validation crystals.
        baseline: mean absolute error of saying the mean of the training labels for each of them.
        interrupted: a signal ended it; ``signum`` says which.
    """

    step: int
    crystals: int
    seconds: float
    mae: float | None
    baseline: float | None
    interrupted: bool
    signum: int | None = None


def property_recipe(path: str | Path | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of a predictor: ours where neither a file nor an override says otherwise.

    Raises:
        InputError: if a setting is unknown or wrong.
    """
    return load_recipe(path, [*(DEFAULTS if path is None else ()), *overrides])


def train_predictor(
    data: str | Path, out: str | Path, name: str, recipe: Recipe, quiet: bool = False, resume: bool = False
) -> Fitted:
    """Train a predictor of one property; ``out/best`` holds the one with the lowest validation error.

    Args:
        data: a prepared data set.
        out: new or empty folder, unless resuming.
        name: of the property, with its kind after a colon where it shall not be inferred.
        recipe: what to do; see :func:`crystalsmith.training.run.resume_recipe` for a resumed run.
        resume: go on where the run in ``out`` stopped.

    Raises:
        InputError: if the property is no number, nothing is labelled, the folder is occupied, or what is there to
            resume is of other data or another property.
    """
    from crystalsmith.data.dataset import CrystalDataset

    dataset = CrystalDataset.open(Path(data))
    name, kind = split_kind(name, dataset.label_names)
    labelled = Labelled(dataset, {name: kind})
    labelled.require_labels()
    coverage = labelled.coverage[name]
    if coverage.kind not in ("scalar", "log"):
        raise InputError(f"A predictor gives numbers, but {name} is a {coverage.kind}; choose another property.")
    out = Path(out)
    with locked(out, "crystalsmith train"), Console(quiet) as console, stop_on_signals() as asked_to_stop:
        prepare_folder(out, recipe, resume)
        console.say(coverage.sentence())
        if coverage.count < FEW_LABELS:
            console.say(f"Warning: only {coverage.count:,} training crystals carry {name}.")
        if coverage.constant:
            console.say(f"Warning: {coverage.constant_sentence()}")
        fit = _Fit(labelled, coverage, out, recipe, console)
        # A run that was killed before its first save has a recipe but no state: it starts over.
        fitted = fit.run(asked_to_stop, resume and (out / FILE).is_file())
        return dataclasses.replace(fitted, signum=asked_to_stop.signum)


def _sizes(recipe: Recipe) -> GemNetConfig:
    config = denoiser_config(recipe.model)
    if not isinstance(config, DenoiserConfig):
        raise InputError("A predictor is made of GemNet's blocks; set model.preset to tiny, small or base.")
    return config.gemnet


def _network(recipe: Recipe) -> PropertyNetwork:
    """A fresh network, or one whose embedding and blocks are those of the denoiser ``recipe.base``, which has learned
    from noisy crystals what a predictor must know of clean ones."""
    if recipe.base is None:
        return PropertyNetwork(_sizes(recipe))
    from crystalsmith.checkpoints.find import load_model

    denoiser = load_model(recipe.base).network
    if not isinstance(denoiser, GemNetDenoiser):
        raise InputError(f"A predictor is made of GemNet's blocks, and {recipe.base} is no GemNet model.")
    network = PropertyNetwork(dataclasses.replace(denoiser.config.gemnet, crystal_context=False, attention_heads=0))
    weights = denoiser.state_dict()
    network.load_state_dict({k: weights.get(k, own) for k, own in network.state_dict().items()})
    return network


class _Fit:
    def __init__(self, dataset: Labelled, coverage: Coverage, out: Path, recipe: Recipe, console: Console) -> None:
        self.dataset, self.coverage, self.out, self.recipe, self.console = dataset, coverage, out, recipe, console
        self.device = torch.device("cuda" if choose_accelerator(recipe) == "cuda" else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = _network(recipe).to(self.device)
        self.mixed = recipe.hardware.precision == "bf16-mixed"
        if recipe.hardware.checkpoint_activations:
            spare_memory(self.network, self.device)
        elements = elements_of(dataset.manifest)
        facts = PredictorFacts(
            coverage.name, coverage.kind, coverage.unit, coverage.mean or 0.0, coverage.std or 1.0, elements
        )
        self.predictor = Predictor(self.network, facts)
        train, self.val = self._rows("train"), spread(self._rows("val"), recipe.validation.max_crystals)
        self.baseline = self._baseline(train)
        self.source = StepSource(dataset, train, recipe.data, recipe.seed, device=self.device)
        self.limits = Limits.of(recipe.limits, self.source.steps_per_epoch)
        self.learner = Learner(self.network, recipe, self.limits)
        self.identity = f"{fingerprint(dataset.manifest)} {coverage.name}:{coverage.kind}"
        self.best: float | None = None
        self.best_step: int | None = None
        self.step = self.crystals = 0
        self.mean_loss = 0.0

    def _rows(self, split: str) -> Rows:
        rows = self.dataset.rows(split)
        return rows[~np.isnan(self.dataset.values[self.coverage.name][rows])]

    def _labels(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self.dataset.values[self.coverage.name][rows]).to(self.device)

    def _baseline(self, train: Rows) -> float | None:
        if not len(self.val):
            return None
        return float((self._labels(self.val) - self._labels(train).double().mean()).abs().mean())

    def run(self, stop: Callable[[], bool], resume: bool) -> Fitted:
        recipe, limits = self.recipe, self.limits
        earlier = self._restore() if resume else 0.0
        log = CsvLog(self.out / "log.csv", COLUMNS, self.step if resume else -1)
        every = recipe.validation.every_steps or (recipe.validation.every_epochs or 1) * self.source.steps_per_epoch
        steps, seconds, interrupted = self.source.iterate(self.step), earlier, False
        started = saved = time.monotonic()
        while not limits.reached(self.step, seconds) and not (interrupted := stop()):
            lr = self.learner.begin(self.step, seconds)
            loss = self._optimise(next(steps))
            self.mean_loss = loss if not self.mean_loss else 0.95 * self.mean_loss + 0.05 * loss
            self.step += 1
            seconds = earlier + time.monotonic() - started
            over = limits.reached(self.step, seconds)
            if self.step % every == 0 or over:
                mae = self._validate(seconds)
                epoch = self.step / self.source.steps_per_epoch
                row: Row = {"step": self.step, "epoch": round(epoch, 4), "seconds": seconds, "lr": lr}
                log.write(row | {"train_loss": self.mean_loss, "val_mae": mae})
            self._show(seconds)
            if over or time.monotonic() - saved >= 60.0 * recipe.output.save_every_minutes:
                self._save(seconds)
                saved = time.monotonic()
        steps.close()
        if interrupted:
            self._save(seconds)
            if self.best_step is None:  # what is there before any validation; the resumed run takes no notice of it
                self._validate(seconds)
        return Fitted(self.step, self.crystals, seconds, self.best, self.baseline, interrupted)

    def _save(self, seconds: float) -> None:
        numbers = {
            "step": self.step,
            "crystals": self.crystals,
            "seconds": seconds,
            "meter": [self.mean_loss],
            "epoch_meter": [0.0],
            "rate": self.learner.rate.state(),
            "ema_updates": self.learner.ema.updates if self.learner.ema is not None else 0,
            "data": self.identity,
            "best": {"total": self.best, "step": self.best_step},
        }
        save_state(self.out / FILE, self.learner.tensors(), numbers)

    def _restore(self) -> float:
        """Take up what an earlier session saved; the seconds that it took."""
        tensors, numbers = load_state(self.out / FILE)
        if numbers["data"] != self.identity:
            raise InputError(
                f"The data set or the property is not that of the run in {self.out}; resume with the same, or start a "
                "new run in another folder."
            )
        with interpreting(f"The training state {self.out / FILE}", MEND):
            self.learner.restore(tensors, numbers["ema_updates"])
            best = numbers["best"]
        self.step, self.crystals, self.mean_loss = numbers["step"], numbers["crystals"], numbers["meter"][0]
        self.best, self.best_step = best["total"], best["step"]
        self.learner.rate.restore(numbers["rate"])
        return float(numbers["seconds"])

    def _optimise(self, step: Step) -> float:
        """One step on the mean absolute error of the standardised labels."""
        total = 0.0
        for one in step.passes:
            one = one.to(self.device)
            x = one.conditions[self.coverage.name]
            target = (x.log10() if self.coverage.kind == "log" else x) - self.predictor.facts.mean
            errors = (self._values(one.crystals) - target / self.predictor.facts.std).abs()
            (errors.sum() / step.batch_size).backward()
            total += float(errors.detach().sum())
        self.learner.move(self.learner.norm())
        self.learner.forget()
        self.crystals += step.batch_size
        return total / step.batch_size

    def _values(self, batch: CrystalBatch) -> Tensor:
        """``(B,)`` float32, in units of the labels' spread."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            return self.network(batch).float()

    def _validate(self, seconds: float) -> float | None:
        """The error on the validation crystals; the best network is kept. Without any, the last one is."""
        self.network.eval()
        with self.learner.averaged():
            mae = self._error() if len(self.val) else None
            if mae is None or self.best is None or mae < self.best:
                self.best, self.best_step = mae, self.step
                told: dict[str, Any] = {
                    "crystals": self.coverage.count,
                    "steps": self.step,
                    "seconds": round(seconds, 1),
                }
                if mae is not None:
                    told |= {"validation_mae": mae, "validation_crystals": len(self.val), "baseline_mae": self.baseline}
                facts = dataclasses.replace(self.predictor.facts, training=told)
                save_predictor(Predictor(self.network, facts), self.out / "best")
        return mae

    @torch.no_grad()
    def _error(self) -> float:
        order = self.val[np.argsort(-self.dataset.num_atoms[self.val], kind="stable")]
        total = 0.0
        for cut in micro_batches(np.ones(len(order)), self.recipe.validation.batch_size, None):
            values = self.predictor.to_values(self._values(self.dataset.batch(order[cut]).to(self.device)))
            total += float((values - self._labels(order[cut])).abs().sum())
        return total / len(order)

    def _show(self, seconds: float) -> None:
        done = self.limits.progress(self.step, seconds)
        parts = [f"step {self.step:,}"]
        if done > 0:
            parts.append(f"{duration(seconds * (1 - done) / done)} left")
        if self.best is not None:
            parts.append(f"best validation {self.best:.4g} {self.coverage.unit}".rstrip())
        parts.append(f"error {self.mean_loss * self.predictor.facts.std:.3g}")
        parts.append(f"{self.crystals / max(seconds, 1e-9):.0f} crystals/s")
        self.console.update(done, *parts)
