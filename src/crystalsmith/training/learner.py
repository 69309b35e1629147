"""The weights of a run and what moves them: optimiser, learning rate, clipping, moving average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from crystalsmith.training.config import Recipe
from crystalsmith.training.ema import WeightAverage
from crystalsmith.training.optimizer import clip, make_optimizer, optimizer_tensors, restore_optimizer
from crystalsmith.training.schedule import LearningRate, Limits
from crystalsmith.training.state import split


class Learner:
    """Moves the weights of a network by the gradients that backward passes have left in them.

    Args:
        network: on its device; parameters that need no gradient stay as they are.
        recipe: optimiser, schedule, clipping and average.
        limits: of the run; the schedule is told how far it has come.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, limits: Limits) -> None:
        self.network, self.clipping, self.limits = network, recipe.clipping, limits
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.names: dict[Tensor, str] = {p: name for name, p in network.named_parameters()}
        self.optimizer = make_optimizer(self.parameters, recipe.optimizer, self.names)
        self.rate = LearningRate(recipe.schedule, recipe.optimizer.lr, limits)
        decay, warmup = recipe.ema.decay, recipe.ema.warmup
        self.ema = None if decay is None else WeightAverage(network, decay, warmup)

    def begin(self, step: int, seconds: float) -> float:
        """Make ready for optimiser step ``step`` after ``seconds`` of training; returns its learning rate."""
        lr = self.rate.at(step, seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.train()
        return lr

    def norm(self) -> Tensor:
        """Norm of all gradients together, ``()``."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def move(self, norm: Tensor) -> None:
        """One step along the gradients, whose norm is given; they are kept until :meth:`forget`."""
        clip(self.parameters, self.clipping.by, self.clipping.limit, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()

    def forget(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the network holds the averaged weights, if the recipe wants an average."""
        with self.ema.in_place() if self.ema is not None else nullcontext():
            yield

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs: ``network.*``, ``optimizer.*`` and ``ema.*``."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.names).items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.state().items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], ema_updates: int) -> None:
        """Take up the :meth:`tensors` of an earlier session."""
        self.network.load_state_dict(split(tensors, "network."))
        restore_optimizer(self.optimizer, self.names, split(tensors, "optimizer."))
        if self.ema is not None:
            self.ema.restore(split(tensors, "ema."), ema_updates)
