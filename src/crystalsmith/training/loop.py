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
from crystalsmith.schema import interpreting
from crystalsmith.signals import exit_code
from crystalsmith.training.card import RunFacts, render_card
from crystalsmith.training.config import Recipe
from crystalsmith.training.labels import training_rows
from crystalsmith.training.learner import Learner
from crystalsmith.training.loader import Step, StepSource, validation_passes
from crystalsmith.training.log import Console, Row, duration
from crystalsmith.training.memory import spare_memory
from crystalsmith.training.objective import LOSSES, FlatNetwork, as_denoiser, loss_table, pass_losses
from crystalsmith.training.record import Record, Tally
from crystalsmith.training.schedule import Limits
from crystalsmith.training.state import FILE, MEND, load_state, save_state
from crystalsmith.training.validation import ValidationResult, validate

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_COUNTERS = (
    *("step", "crystals", "skipped", "bad_in_row", "lr"),
    *("validated", "stale", "best", "train_means", "last_validation"),
)


@dataclass(frozen=True)
class Outcome:
    """How a session ended.

    Attributes:
        rank: of the process that tells, 0 for the first.
        interrupted: a signal ended the session before the limits of the recipe did.
        signum: the signal, where this process got one.
    """

    rank: int
    interrupted: bool
    step: int
    crystals: int
    seconds: float
    best: dict[str, Any]
    signum: int | None = None

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return exit_code(self.signum if self.interrupted else None)


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
        if recipe.hardware.checkpoint_activations:
            spare_memory(model.network, fabric.device)
        self.network = FlatNetwork(model.network, recipe.hardware.precision == "bf16-mixed")
        self.wrapped = fabric.setup_module(self.network)
        self.denoiser = model.process.precondition(as_denoiser(self.wrapped))
        self.plain_denoiser = model.process.precondition(as_denoiser(self.network))
        train_rows = training_rows(dataset, recipe)
        self.source = StepSource(dataset, train_rows, recipe.data, recipe.seed, rank, world, fabric.device)
        limit, size = recipe.validation.max_crystals, recipe.validation.batch_size
        self.val_passes = validation_passes(dataset, dataset.rows("val"), limit, size, rank, world)
        self.limits = Limits.of(recipe.limits, self.source.steps_per_epoch)
        self.learner = Learner(self.network, recipe, self.limits)
        self.has_validation = len(dataset.rows("val")) > 0
        # Counters; all of them are saved.
        self.step = self.crystals = self.skipped = self.bad_in_row = self.validated = self.stale = 0
        self.earlier = self.elapsed = self.lr = 0.0
        self.tally, self.epoch_tally = Tally(), Tally()
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
        if not interrupted and self.tally.steps > 0:
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
        started, fabric = time.perf_counter(), self.fabric
        self.lr = self.learner.begin(self.step, self.elapsed)
        table = torch.zeros(len(LOSSES), dtype=torch.float64, device=fabric.device)
        count = 0
        for k, one in enumerate(step.passes):
            if fabric.world_size == 1 and self.asked_to_stop():
                self.learner.forget()
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
        norm = self.learner.norm()
        sums = Tally.of(table, count)
        self._synchronise(sums)
        sums[-2:] = torch.tensor([float(norm), 1.0])
        if math.isfinite(float(norm)) and bool(sums.isfinite().all()):
            self.bad_in_row = 0
            self.learner.move(norm)
            self.tally.sums += sums
            self.epoch_tally.sums += sums
        else:
            self._skip_bad_step()
        self.learner.forget()
        self.step += 1
        self.crystals += step.batch_size
        self.tally.busy += time.perf_counter() - started
        return True

    def _synchronise(self, sums: Tensor) -> None:
        """Sum over devices in place; all take the first device's clock and anyone's request to stop."""
        self.elapsed = self._seconds()
        if self.fabric.world_size == 1:
            return
        mine = [self.elapsed if self.fabric.global_rank == 0 else 0.0, float(self.asked_to_stop())]
        shared = torch.cat([sums, torch.tensor(mine, dtype=torch.float64)]).to(self.fabric.device)
        shared = self._total(shared).cpu()
        sums.copy_(shared[:-2])
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
            if self.epoch_tally.crystals:
                self.learner.rate.epoch_done(self.epoch_tally.means()["total"])
            self.epoch_tally.clear()
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
        with self.learner.averaged():
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

    # ---- telling

    def _open_logs(self, resume: bool) -> None:
        if self.fabric.global_rank != 0:
            return
        last, validated = (self.step, self.validated) if resume else (-1, -1)
        self.record = Record(self.out, last, validated, self.recipe.output.tensorboard)

    def _log(self, validation: ValidationResult | None = None) -> None:
        row: Row = {"step": self.step, "epoch": round(self.epoch, 4), "crystals": self.crystals}
        row |= {"seconds": self._seconds(), "lr": self.lr, "skipped": self.skipped}
        row |= self.tally.row(self.source.waited)
        if self.tally.steps:
            self.train_means = self.tally.means()
        self.tally.clear()
        self.source.waited = 0.0
        if self.fabric.global_rank == 0:
            self.record.write(row, validation)

    def _show(self) -> None:
        if self.fabric.global_rank != 0:
            return
        done = self.limits.progress(self.step, self.elapsed)
        parts = [f"step {self.step:,}"]
        if done > 0:
            parts.append(f"{duration(self.elapsed * (1 - done) / done)} left")
        if self.last_validation is not None:
            parts.append(f"validation {self.last_validation['total']:.3f}")
        count, spent = self.tally.crystals, self.tally.busy + self.source.waited
        if count and spent:
            total, coordinates, cell, species = (self.tally.means()[name] for name in LOSSES[:4])
            parts += [f"loss {total:.3f}", f"{count / spent:.0f} crystals/s", f"epoch {self.epoch:.2f}"]
            parts.append(f"coordinates {coordinates:.3f}, cell {cell:.3f}, elements {species:.3f}")
        self.console.update(done, *parts)

    # ---- saving

    def _save(self) -> None:
        """Write the state and ``last/``; only the first device writes."""
        self.last_save = time.monotonic()
        if self.fabric.global_rank != 0:
            return
        save_state(self.out / FILE, self.learner.tensors(), self._numbers())
        self._save_model("last")

    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTERS} | {
            "seconds": self._seconds(),
            "busy": self.tally.busy + self.source.waited,
            "meter": self.tally.sums.tolist(),
            "epoch_meter": self.epoch_tally.sums.tolist(),
            "rate": self.learner.rate.state(),
            "ema_updates": self.learner.ema.updates if self.learner.ema is not None else 0,
            "data": self.fingerprint,
        }

    def _restore(self) -> None:
        tensors, numbers = load_state(self.out / FILE)
        if numbers["data"] != self.fingerprint:
            raise InputError(
                f"The data set is not the one that {self.out} was trained on; resume with the same data "
                "or start a new run in another folder."
            )
        with interpreting(f"The training state {self.out / FILE}", MEND):
            self.learner.restore(tensors, numbers["ema_updates"])
        for name in _COUNTERS:
            setattr(self, name, numbers.get(name, getattr(self, name)))
        self.earlier = self.elapsed = numbers["seconds"]
        self.tally.busy = numbers.get("busy", 0.0)
        for tally, name in ((self.tally, "meter"), (self.epoch_tally, "epoch_meter")):
            if len(numbers[name]) != len(tally.sums):
                raise InputError(f"The training state {self.out / FILE} is damaged at {name} (its length); {MEND}.")
            tally.sums = torch.tensor(numbers[name], dtype=torch.float64)
        self.learner.rate.restore(numbers["rate"])

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
        with self.learner.averaged():
            model = Model(self.model.network, self.model.process, metadata)
            task = model.process.config.task
            card = render_card(self.recipe, self.dataset.manifest, facts, task, metadata.licence)
            save_model(model, self.out / name, card)


def describe_devices(fabric: Fabric) -> str:
    """For example ``2 x cpu`` or ``8 x NVIDIA H200``."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    return f"{fabric.world_size} x {name}"
