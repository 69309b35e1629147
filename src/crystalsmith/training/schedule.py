"""The learning rate over a run, and how far the run has come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from crystalsmith.training.config import LimitSettings, ScheduleSettings


@dataclass(frozen=True)
class Limits:
    """When a run ends, in steps and in seconds; None = no such limit."""

    steps: int | None
    seconds: float | None

    @staticmethod
    def of(settings: LimitSettings, steps_per_epoch: int) -> Limits:
        """The limits of a recipe for a data set."""
        epochs = None if settings.max_epochs is None else settings.max_epochs * steps_per_epoch
        steps = [n for n in (settings.max_steps, epochs) if n is not None]
        return Limits(min(steps, default=None), settings.max_seconds)

    def progress(self, step: int, elapsed: float, over: str = "auto") -> float:
        """Share of the run that is done, 1 at its end: the larger of the shares of steps and of time."""
        shares = [0.0]
        if self.steps is not None and over != "time":
            shares.append(step / self.steps)
        if self.seconds is not None and over != "steps":
            shares.append(elapsed / self.seconds)
        return max(shares)

    def reached(self, step: int, elapsed: float) -> bool:
        """Whether the run is over."""
        return self.progress(step, elapsed) >= 1.0


class LearningRate:
    """Learning rate by step, time and, for ``plateau``, by the training losses of past epochs."""

    def __init__(self, settings: ScheduleSettings, base: float, limits: Limits) -> None:
        self.settings, self.base, self.limits = settings, base, limits
        self.best, self.bad_epochs, self.reduced = math.inf, 0, base

    def at(self, step: int, elapsed: float) -> float:
        """The learning rate of optimiser step ``step`` (from 0), ``elapsed`` seconds into the run."""
        settings = self.settings
        warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
        if settings.name == "plateau":
            return warmup * self.reduced
        if settings.name == "constant":
            return warmup * self.base
        progress = min(1.0, self.limits.progress(step, elapsed, settings.over))
        low = settings.final_fraction
        return warmup * self.base * (low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    def epoch_done(self, train_loss: float) -> None:
        """Tell the plateau rule (torch's: relative threshold 1e-4) the mean training loss of an epoch."""
        if train_loss < self.best * (1.0 - 1e-4):
            self.best, self.bad_epochs = train_loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.settings.patience:
            # A rate that starts below min_lr stays where it is.
            self.reduced = max(self.reduced * self.settings.factor, min(self.settings.min_lr, self.reduced))
            self.bad_epochs = 0

    def state(self) -> dict[str, Any]:
        """Plain numbers that ``restore`` takes; infinity is written as None."""
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "bad_epochs": self.bad_epochs, "reduced": self.reduced}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of an earlier session."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.bad_epochs, self.reduced = state["bad_epochs"], state["reduced"]
