"""Validation with fixed noise at a fixed grid of times, in all and by noise level."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalsmith.contracts import Denoiser
from crystalsmith.diffusion.process import Process
from crystalsmith.training.loader import Crystals, make_pass
from crystalsmith.training.objective import LOSSES, VALIDATION_SEED, loss_table, pass_losses


@dataclass(frozen=True)
class ValidationResult:
    """Mean losses over validation crystals.

    Attributes:
        mean: by name of ``objective.LOSSES``.
        bins: for each equal part of (0, 1): lower and upper time, crystals in it, and their mean losses.
    """

    mean: dict[str, float]
    bins: list[tuple[float, float, int, dict[str, float]]]


@torch.no_grad()
def validate(
    denoiser: Denoiser,
    process: Process,
    dataset: Crystals,
    passes: Iterable[tuple[NDArray, NDArray]],
    bins: int,
    device: torch.device,
    total: Callable[[Tensor], Tensor] = lambda x: x,
    stop: Callable[[], bool] = lambda: False,
) -> ValidationResult | None:
    """Mean losses of a denoiser.

    Args:
        passes: rows and times of each pass of this device.
        bins: number of equal parts of (0, 1).
        total: sums a tensor over the devices.
        stop: asked before each pass; validation is then abandoned and None returned.
    """
    sums = torch.zeros(len(LOSSES) + 1, bins, dtype=torch.float64, device=device)
    for rows, times in passes:
        if stop():
            return None
        one = make_pass(dataset, rows, times, labels=getattr(dataset, "conditions", None)).to(device)
        table = loss_table(pass_losses(denoiser, process, one, VALIDATION_SEED, 0))
        table = torch.cat([torch.ones_like(table[:1]), table])
        index = (one.t.double() * bins).long().clamp(0, bins - 1)
        sums.index_add_(1, index, table)
    sums = total(sums).cpu()

    def means(column: Tensor) -> dict[str, float]:
        values = (column[1:] / column[0].clamp(min=1)).tolist()
        return dict(zip(LOSSES, values, strict=True))

    edges = torch.linspace(0, 1, bins + 1).tolist()
    parts = [(edges[k], edges[k + 1], int(sums[0, k]), means(sums[:, k])) for k in range(bins)]
    return ValidationResult(means(sums.sum(1)), parts)
