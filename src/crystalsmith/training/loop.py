"""The training loop: optimiser steps, logs, validation, saving; every step a pure function of (recipe, data, step)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.store import save_model
from crystalsmith.errors import InputError
from crystalsmith.training.card import RunFacts, render_card
from crystalsmith.training.config import Recipe
from crystalsmith.training.ema import WeightAverage
from crystalsmith.training.labels import is_labelled
from crystalsmith.training.loader import Step, StepSource, validation_passes
from crystalsmith.training.log import Console, CsvLog, Row, TensorBoardLog, duration
from crystalsmith.training.objective import LOSSES, FlatNetwork, as_denoiser, loss_table, pass_losses
from crystalsmith.training.optimizer import clip, make_optimizer, optimizer_tensors, restore_optimizer
from crystalsmith.training.schedule import LearningRate, Limits
from crystalsmith.training.state import FILE, load_state, save_state, split
from crystalsmith.training.validation import ValidationResult, validate

if TYPE_CHECKING:
    from lightning.fabric import Fabric

COLUMNS = (
    *("step", "epoch", "crystals", "seconds", "lr", "grad_norm", "skipped", "crystals_per_second", "data_wait"),
    *(f"train_{name}" for name in LOSSES),
    *(f"val_{name}" for name in LOSSES),
)
BIN_COLUMNS = ("step", "t_min", "t_max", "crystals", *(f"val_{name}" for name in LOSSES))

_COUNTERS = (
    *("step", "crystals", "skipped", "bad_in_row", "lr"),
    *("validated", "stale", "best", "train_means", "last_validation"),
)
_METER = len(LOSSES) + 3  # sums of the losses, crystals, gradient norms, steps


@dataclass(frozen=True)
class Outcome:
    """How a session ended.

    Attributes:
        rank: of the process that tells, 0 for the first.
        interrupted: a signal ended the session before the limits of the recipe did.
    """

    rank: int
    interrupted: bool
    step: int
    crystals: int
    seconds: float
    best: dict[str, Any]


class Loop:
    """One session of a training run.

    Args:
        recipe: what to do.
        dataset: a prepared data set (``data.dataset.CrystalDataset``).
        fingerprint: of the data set; a run is resumed on the same data only.
        out: folder of the run.
        fabric: Lightning's devices, precision and processes, launched.
        model: with fresh weights.
        console: where progress goes.
        stop: asked often; True ends the session after saving.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Any,
        fingerprint: str,
        out: Path,
        fabric: Fabric,
        model: Model,
        console: Console,
        stop: Callable[[], bool],
    ) -> None:
        self.recipe, self.dataset, self.fingerprint = recipe, dataset, fingerprint
        self.out, self.fabric, self.model = out, fabric, model
        self.console, self.asked_to_stop = console, stop
        rank, world = fabric.global_rank, fabric.world_size
        model.network.checkpoint_activations = recipe.hardware.checkpoint_activations
        self.network = FlatNetwork(model.network, recipe.hardware.precision == "bf16-mixed")
        self.wrapped = fabric.setup_module(self.network)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.names: dict[Tensor, str] = {p: name for name, p in self.network.named_parameters()}
        self.optimizer = make_optimizer(self.parameters, recipe.optimizer)
        self.ema = None
        if recipe.ema.decay is not None:
            self.ema = WeightAverage(self.network, recipe.ema.decay, recipe.ema.warmup)
        self.denoiser = model.process.precondition(as_denoiser(self.wrapped))
        self.plain_denoiser = model.process.precondition(as_denoiser(self.network))
        train_rows = training_rows(dataset, recipe)
        self.source = StepSource(dataset, train_rows, recipe.data, recipe.seed, rank, world, fabric.device)
        limit, size = recipe.validation.max_crystals, recipe.validation.batch_size
        self.val_passes = validation_passes(dataset, dataset.rows("val"), limit, size, rank, world)
        self.limits = Limits.of(recipe.limits, self.source.steps_per_epoch)
        self.rate = LearningRate(recipe.schedule, recipe.optimizer.lr, self.limits)
        self.has_validation = len(dataset.rows("val")) > 0
        # Counters; all of them are saved.
        self.step = self.crystals = self.skipped = self.bad_in_row = self.validated = self.stale = 0
        self.earlier = self.elapsed = self.busy = self.lr = 0.0
        self.meter = torch.zeros(_METER, dtype=torch.float64)
        self.epoch_meter = torch.zeros(_METER, dtype=torch.float64)
        self.best: dict[str, Any] = {"total": None, "step": None}
        self.train_means: dict[str, float] = {}
        self.last_validation: dict[str, float] | None = None
        self.stopping = False

    # ---- the session

    def run(self, resume: bool) -> Outcome:
        """Train until the recipe's limits or a request to stop; the state is saved either way."""
        if resume:
            self._restore()
        self._open_logs(resume)
        self.session_start = self.last_save = time.monotonic()
        steps = self.source.iterate(self.step)
        try:
            while not self.stopping:
                if self._validation_due() and not self._validate():
                    break
                if self._finished():
                    break
                if not self._optimise(next(steps)):
                    break
                self._after_step()
        finally:
            steps.close()  # ends the threads of the loader
        interrupted = not self._finished()
        if not interrupted and self.has_validation and self.validated != self.step:
            self._validate()
        if not interrupted and float(self.meter[-1]) > 0:
            self._log()  # an interrupted run keeps its sums for the row that it would have written
        self._save()
        self.fabric.barrier()
        return Outcome(self.fabric.global_rank, interrupted, self.step, self.crystals, self._seconds(), self.best)

    def _finished(self) -> bool:
        """Whether the limits of the recipe end the run here."""
        patience = self.recipe.limits.patience
        tired = patience is not None and self.stale >= patience
        return tired or self.limits.reached(self.step, self.elapsed)

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.session_start

    @property
    def epoch(self) -> float:
        """Epochs done, with their fraction."""
        return self.step / self.source.steps_per_epoch

    # ---- one optimiser step

    def _optimise(self, step: Step) -> bool:
        """One optimiser step; False if a request to stop came first, and then nothing has changed."""
        started, waited = time.perf_counter(), self.source.waited
        fabric, clipping = self.fabric, self.recipe.clipping
        self.lr = self.rate.at(self.step, self.elapsed)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.network.train()
        table = torch.zeros(len(LOSSES), dtype=torch.float64, device=fabric.device)
        count = 0
        for k, one in enumerate(step.passes):
            if fabric.world_size == 1 and self.asked_to_stop():
                self.optimizer.zero_grad(set_to_none=True)
                return False
            one = one.to(fabric.device)
            with fabric.no_backward_sync(self.wrapped, enabled=k + 1 < len(step.passes)):
                losses = pass_losses(
                    self.denoiser,
                    self.model.process,
                    one,
                    self.recipe.seed,
                    self.step,
                    self.recipe.conditions.dropout_probability,
                    self.recipe.conditions.dropout,
                )
                # DDP averages gradients over devices: the factor makes that a mean over the crystals of the batch.
                scale = one.weight * fabric.world_size / step.batch_size
                fabric.backward(losses.total.sum() * scale)
            table += one.weight * loss_table(losses).sum(1)
            count += int(one.weight) * one.crystals.num_crystals
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        meter = torch.zeros(_METER, dtype=torch.float64)
        meter[: len(LOSSES)] = table.cpu()
        meter[len(LOSSES)] = count
        self._synchronise(meter)
        meter[-2:] = torch.tensor([float(norm), 1.0])
        if math.isfinite(float(norm)) and bool(meter.isfinite().all()):
            self.bad_in_row = 0
            clip(self.parameters, clipping.by, clipping.limit, norm)
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
            self.meter += meter
            self.epoch_meter += meter
        else:
            self._skip_bad_step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.crystals += step.batch_size
        self.busy += time.perf_counter() - started
        self.waited_now = self.source.waited - waited
        return True

    def _synchronise(self, meter: Tensor) -> None:
        """Sum the meter over devices in place; all take the first device's clock and anyone's request to stop."""
        self.elapsed = self._seconds()
        if self.fabric.world_size == 1:
            return
        mine = [self.elapsed if self.fabric.global_rank == 0 else 0.0, float(self.asked_to_stop())]
        shared = torch.cat([meter, torch.tensor(mine, dtype=torch.float64)]).to(self.fabric.device)
        shared = self._total(shared).cpu()
        meter.copy_(shared[:-2])
        self.elapsed, self.stopping = float(shared[-2]), float(shared[-1]) > 0

    def _total(self, tensor: Tensor) -> Tensor:
        result = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(result, Tensor)
        return result

    def _skip_bad_step(self) -> None:
        self.skipped += 1
        self.bad_in_row += 1
        if self.bad_in_row >= self.recipe.clipping.max_bad_steps:
            raise InputError(
                f"{self.bad_in_row} steps in a row, up to step {self.step}, gave gradients that are not finite; "
                "lower optimizer.lr, or train with --precision 32, and --resume from the last saved state."
            )

    # ---- after a step

    def _after_step(self) -> None:
        if self.step % self.source.steps_per_epoch == 0:
            count = float(self.epoch_meter[len(LOSSES)])
            if count:
                self.rate.epoch_done(float(self.epoch_meter[0]) / count)
            self.epoch_meter.zero_()
        if self.step % self.recipe.output.log_every_steps == 0 and not self._validation_due():
            self._log()
        self._show()
        if time.monotonic() - self.last_save >= 60.0 * self.recipe.output.save_every_minutes:
            self._save()

    def _validation_due(self) -> bool:
        settings = self.recipe.validation
        if self.step == 0 or self.validated == self.step or not self.has_validation:
            return False
        by_steps = settings.every_steps is not None and self.step % settings.every_steps == 0
        epoch, rest = divmod(self.step, self.source.steps_per_epoch)
        return by_steps or (settings.every_epochs is not None and rest == 0 and epoch % settings.every_epochs == 0)

    def _validate(self) -> bool:
        """Validate, log, keep the best; False if a request to stop came first."""
        self.network.eval()
        stop = self.asked_to_stop if self.fabric.world_size == 1 else lambda: False
        with self._averaged():
            process, bins = self.model.process, self.recipe.validation.bins
            device, total = self.fabric.device, self._total
            denoiser = self.plain_denoiser
            result = validate(denoiser, process, self.dataset, self.val_passes, bins, device, total, stop)
        if result is None:
            return False
        self.validated, self.last_validation = self.step, result.mean
        self._log(result)
        best = self.best["total"]
        self.stale += 1
        if math.isfinite(result.mean["total"]) and (best is None or result.mean["total"] < best):
            self.stale = 0
            self.best = {"total": result.mean["total"], "step": self.step}
            self._save_model("best")
        return True

    def _averaged(self) -> Any:
        from contextlib import nullcontext

        return self.ema.in_place() if self.ema is not None else nullcontext()

    # ---- telling

    def _open_logs(self, resume: bool) -> None:
        if self.fabric.global_rank != 0:
            return
        last = self.step if resume else -1
        self.log = CsvLog(self.out / "log.csv", COLUMNS, last)
        self.bins_log = CsvLog(self.out / "val_bins.csv", BIN_COLUMNS, self.validated if resume else -1)
        wanted = self.recipe.output.tensorboard
        self.board = TensorBoardLog(self.out / "tensorboard", last) if wanted else None

    def _log(self, validation: ValidationResult | None = None) -> None:
        meter, seconds = self.meter, self._seconds()
        crystals, steps = float(meter[len(LOSSES)]), float(meter[-1])
        row: Row = {"step": self.step, "epoch": round(self.epoch, 4), "crystals": self.crystals, "seconds": seconds}
        row |= {"lr": self.lr, "skipped": self.skipped}
        if steps:
            self.train_means = dict(zip(LOSSES, (meter[: len(LOSSES)] / crystals).tolist(), strict=True))
            row |= {f"train_{name}": value for name, value in self.train_means.items()}
            row["grad_norm"] = float(meter[-2]) / steps
            if self.busy:
                row["crystals_per_second"] = crystals / (self.busy + self.source.waited)
                row["data_wait"] = self.source.waited / (self.busy + self.source.waited)
        if validation is not None:
            row |= {f"val_{name}": value for name, value in validation.mean.items()}
        meter.zero_()
        self.busy = self.source.waited = 0.0
        if self.fabric.global_rank != 0:
            return
        self.log.write(row)
        if self.board is not None:
            self.board.write(row)
        for low, high, count, means in validation.bins if validation is not None else ():
            bin_row: Row = {"step": self.step, "t_min": low, "t_max": high, "crystals": count}
            self.bins_log.write(bin_row | {f"val_{name}": value for name, value in means.items()})

    def _show(self) -> None:
        if self.fabric.global_rank != 0:
            return
        done = self.limits.progress(self.step, self.elapsed)
        text = f"step {self.step:,} · epoch {self.epoch:.2f}"
        count, spent = float(self.meter[len(LOSSES)]), self.busy + self.source.waited
        if count and spent:
            total, coordinates, cell, species = (self.meter[:4] / count).tolist()
            text += f" · loss {total:.3f} (coordinates {coordinates:.3f}, cell {cell:.3f}, elements {species:.3f})"
            text += f" · {count / spent:.0f} crystals/s"
        if self.last_validation is not None:
            text += f" · validation {self.last_validation['total']:.3f}"
        if done > 0:
            text += f" · {duration(self.elapsed * (1 - done) / done)} left"
        self.console.update(done, text)

    # ---- saving

    def _save(self) -> None:
        """Write the state and ``last/``; only the first device writes."""
        self.last_save = time.monotonic()
        if self.fabric.global_rank != 0:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.names).items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.state().items()}
        save_state(self.out / FILE, tensors, self._numbers())
        self._save_model("last")

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTERS} | {
            "seconds": self._seconds(),
            "busy": self.busy + self.source.waited,
            "meter": self.meter.tolist(),
            "epoch_meter": self.epoch_meter.tolist(),
            "rate": self.rate.state(),
            "ema_updates": self.ema.updates if self.ema is not None else 0,
            "data": self.fingerprint,
        }

    def _restore(self) -> None:
        tensors, numbers = load_state(self.out / FILE)
        if numbers["data"] != self.fingerprint:
            raise InputError(
                f"The data set is not the one that {self.out} was trained on; resume with the same data "
                "or start a new run in another folder."
            )
        self.network.load_state_dict(split(tensors, "network."))
        restore_optimizer(self.optimizer, self.names, split(tensors, "optimizer."))
        if self.ema is not None:
            self.ema.restore(split(tensors, "ema."), numbers["ema_updates"])
        for name in (*_COUNTERS, "busy"):
            setattr(self, name, numbers.get(name, getattr(self, name)))
        self.earlier = self.elapsed = numbers["seconds"]
        self.meter = torch.tensor(numbers["meter"], dtype=torch.float64)
        self.epoch_meter = torch.tensor(numbers["epoch_meter"], dtype=torch.float64)
        self.rate.restore(numbers["rate"])

    def _save_model(self, name: str) -> None:
        if self.fabric.global_rank != 0:
            return
        facts = RunFacts(
            step=self.step,
            epochs=self.epoch,
            crystals=self.crystals,
            seconds=self._seconds(),
            parameters=sum(p.numel() for p in self.network.parameters()),
            device=describe_devices(self.fabric),
            train=self.train_means,
            validation=self.last_validation,
            best=self.best,
            skipped=self.skipped,
        )
        told = {"base": self.recipe.base} if self.recipe.base is not None else {}
        metadata = dataclasses.replace(self.model.metadata, training=facts.to_dict() | told)
        with self._averaged():
            model = Model(self.model.network, self.model.process, metadata)
            task = model.process.config.task
            save_model(model, self.out / name, render_card(self.recipe, self.dataset.manifest, facts, task))


def training_rows(dataset: Any, recipe: Recipe) -> Any:
    """``(R,)`` int64, the rows that are trained on."""
    rows = dataset.rows("train")
    if recipe.conditions.rows == "all" or not recipe.conditions.properties:
        return rows
    labelled = [is_labelled(value) for value in dataset.conditions(rows).values()]
    return rows[torch.stack(labelled).any(0).numpy()]


def describe_devices(fabric: Fabric) -> str:
    """For example ``2 x cpu`` or ``8 x NVIDIA H200``."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    return f"{fabric.world_size} x {name}"
