"""An exponential moving average of the weights (Polyak averaging): what is validated and saved when it is on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The moving average of a module's parameters, on their device, in float32.

    Args:
        module: whose parameters are averaged.
        decay: of the average, per update.
        warmup: limit the decay of update k (from 0) to (1 + k) / (10 + k).
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.parameters = list(module.parameters())
        self.names = [name for name, _ in module.named_parameters()]
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the module holds the averaged weights."""
        present = [p.data for p in self.parameters]
        try:
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, data in zip(self.parameters, present, strict=True):
                parameter.data = data

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Take up the state of an earlier session."""
        for name, average in zip(self.names, self.average, strict=True):
            if tensors[name].shape != average.shape or not tensors[name].is_floating_point():
                raise ValueError(f"the average of {name} is of another shape or type")
            average.copy_(tensors[name])
        self.updates = updates
