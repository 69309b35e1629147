"""Muon for the hidden matrices, AdamW for everything else, as one optimiser.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) steps along the orthogonalised
momentum of a matrix. Its step is scaled to the size of an AdamW step, 0.2 sqrt(max(rows, columns)) (Liu et al., "Muon
is scalable for LLM training", 2025, section 2.2), so that both parts share one learning rate. Matrices of one shape
are orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration (Jordan et al. 2024)


class Muon(torch.optim.Optimizer):
    """Groups with ``orthogonal`` true hold matrices for Muon, the others are stepped as by AdamW.

    Args:
        groups: parameter groups with ``params``, ``weight_decay`` and ``orthogonal``.
        lr: of both.
        betas, eps: of AdamW.
        momentum: of Muon (Nesterov).
        iterations: of Newton and Schulz.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "iterations": iterations}
        super().__init__(groups, defaults | {"weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients; parameters without one stay."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["orthogonal"] else self._adam)(group, parameters)

    def _orthogonal(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        grads, momentum = _gradients(parameters), group["momentum"]
        buffers = [self._buffer(p, "momentum_buffer") for p in parameters]
        torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
        directions = torch._foreach_lerp(grads, buffers, momentum)
        shapes: dict[torch.Size, list[int]] = {}
        for k, p in enumerate(parameters):
            shapes.setdefault(p.shape, []).append(k)
        for shape, members in shapes.items():
            update = orthogonalised(torch.stack([directions[k] for k in members]), group["iterations"])
            scale = -group["lr"] * 0.2 * max(shape) ** 0.5
            torch._foreach_add_([parameters[k] for k in members], list(update.unbind(0)), alpha=scale)

    def _adam(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        grads, (first, second) = _gradients(parameters), group["betas"]
        means = [self._buffer(p, "exp_avg") for p in parameters]
        squares = [self._buffer(p, "exp_avg_sq") for p in parameters]
        for p in parameters:
            state = self.state[p]
            state["step"] = state.get("step", torch.zeros(())) + 1
        count = float(self.state[parameters[0]]["step"])
        torch._foreach_lerp_(means, grads, 1.0 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - second)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1.0 - second**count) ** 0.5)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(parameters, means, roots, -group["lr"] / (1.0 - first**count))

    def _buffer(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        buffer = state[name]
        assert isinstance(buffer, Tensor)
        return buffer


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """``(K, R, C)``: for each U S V^T roughly U V^T, singular values between about 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16)
    x = x / (x.float().flatten(1).norm(dim=1).view(-1, 1, 1).to(x.dtype) + 1e-7)
    for _ in range(iterations):  # three products, sums included: a small matrix costs its launches
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
