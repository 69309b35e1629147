"""Bias-free linear layers, their activation, and their initialisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

SILU_GAIN = 1.0 / 0.6
_HALF = 0.5**0.5


class Dense(nn.Linear):
    """Linear without bias, optionally followed by the scaled SiLU silu(x) / 0.6."""

    def __init__(self, fan_in: int, fan_out: int, activation: bool = False) -> None:
        self.activation = activation
        super().__init__(fan_in, fan_out, bias=False)

    def reset_parameters(self) -> None:
        he_orthogonal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight)
        return scaled_silu(x) if self.activation else x


class Residual(nn.Module):
    """(x + sigma(W2 sigma(W1 x))) / sqrt(2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense1, self.dense2 = Dense(width, width, True), Dense(width, width, True)

    def forward(self, x: Tensor) -> Tensor:
        return half_sum(x, self.dense2(self.dense1(x)))


def scaled_silu(x: Tensor) -> Tensor:
    """silu(x) / 0.6, which keeps the variance of a standard normal input near 1."""
    return F.silu(x).mul_(SILU_GAIN)  # in place: the backward pass of silu needs its input only


def half_sum(x: Tensor, y: Tensor) -> Tensor:
    """(x + y) / sqrt(2)."""
    return (x + y).mul_(_HALF)


def recomputed(wanted: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """A part of a forward pass; if wanted, what it makes for the gradient is made again in the backward pass.

    Only its arguments and results then stay in memory between the two passes.
    """
    if wanted and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(*arguments)


def stack(count: int, width: int) -> nn.Sequential:
    """``count`` residual layers in a row."""
    return nn.Sequential(*(Residual(width) for _ in range(count)))


@torch.no_grad()
def he_orthogonal_(weight: Tensor, fan_axes: tuple[int, ...] = (1,)) -> Tensor:
    """(Semi-)orthogonal matrix, standardised over the fan-in, times sqrt(1 / fan_in) (GemNet's initialisation).

    Args:
        weight: matrix (out, in), or a tensor whose ``fan_axes`` are summed over.
        fan_axes: the axes that make the fan-in.
    """
    if weight.is_meta:  # a network whose weights come from a file
        return weight
    nn.init.orthogonal_(weight)
    var, mean = torch.var_mean(weight, dim=fan_axes, unbiased=True, keepdim=True)
    fan_in = 1
    for axis in fan_axes:
        fan_in *= weight.shape[axis]
    return weight.sub_(mean).div_((var + 1e-6).sqrt()).mul_(fan_in**-0.5)


@contextmanager
def empty_weights() -> Iterator[None]:
    """Modules made inside have no weights yet (torch's meta device); those of a file take their place.

    Random initialisation is left out: on the meta device it would first import torch's compiler and sympy, 0.9 of the
    1.0 seconds that reading a small model took.
    """
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
