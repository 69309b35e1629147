"""The optimiser, its state as named tensors, and gradient clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from crystalsmith.training.config import OptimizerSettings
from crystalsmith.training.muon import Muon

HEADS = (
    "species.",
    "species_head.",
    "time.",
    "properties.",
    "force_heads.",
    "lattice_heads.",
    "basis.",
    "context.head.",
)
"""Parts of a network whose matrices are no hidden layers: tables, encodings, bases and outputs. AdamW moves them."""


def make_optimizer(
    parameters: Sequence[Tensor], settings: OptimizerSettings, names: Mapping[Tensor, str] | None = None
) -> torch.optim.Optimizer:
    """Adam, AdamW that decays matrices only, or Muon for the hidden matrices, which ``names`` tell from the others."""
    if settings.name == "muon":
        return _muon(parameters, settings, names or {})
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def _muon(
    parameters: Sequence[Tensor], settings: OptimizerSettings, names: Mapping[Tensor, str]
) -> torch.optim.Optimizer:
    def hidden(p: Tensor) -> bool:
        return p.ndim == 2 and min(p.shape) > 8 and not names.get(p, "").removeprefix("network.").startswith(HEADS)

    matrices = [p for p in parameters if hidden(p)]
    rest = [p for p in parameters if not hidden(p)]
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay, "orthogonal": True},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2]},
    ]
    groups = [group for group in groups if group["params"]]
    return Muon(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def clip(parameters: Sequence[Tensor], by: str, limit: float, norm: Tensor) -> None:
    """Clip gradients in place by element, by their total norm, or not at all."""
    if by == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif by == "norm":
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's tensors as ``parameter/key``."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], saved: Mapping[str, Tensor]
) -> None:
    """Give an optimiser the tensors of ``optimizer_tensors``."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, _, field = key.rpartition("/")
        by_name.setdefault(name, {})[field] = value
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if names[parameter] in by_name:
                for field, value in by_name[names[parameter]].items():
                    if not value.is_floating_point() or (value.ndim and value.shape != parameter.shape):
                        raise ValueError(f"{field} of {names[parameter]} is of another shape or type")
                # Step counts (scalars) stay on the host, where Adam keeps them.
                optimizer.state[parameter] = {
                    field: value.to(parameter.device) if value.ndim else value
                    for field, value in by_name[names[parameter]].items()
                }
