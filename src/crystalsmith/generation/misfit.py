"""How far crystals are from what a model would make of them: its own loss near the data, no potential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from crystalsmith.contracts import Denoiser
from crystalsmith.crystals import CrystalBatch
from crystalsmith.generation.device import host_of
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.sampling import Sampling
from crystalsmith.generation.setting import follow, noise_of, set_up

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

LEVELS = (0.03, 0.06, 0.1, 0.2)
"""Times that the crystals are noised to."""

DRAWS = 3
"""Noises at each of them, the same for all proposals for a crystal."""

CELL_WEIGHT = 30.0
"""Of the loss of the cell beside that of the coordinates."""

STAGE = 3
"""Of the random numbers, none of a solver's."""


def misfits(
    model: Model,
    sampling: Sampling,
    plans: Sequence[Plan],
    crystals: CrystalBatch,
    device: torch.device,
    denoiser: Denoiser,
) -> list[float]:
    """The losses of coordinates and cell of each crystal, elements known, averaged over levels and draws.

    Proposals of one plan are noised alike and within its space group, so that the lowest is the crystal which the model
    would change least. Losses of different compositions or templates do not compare as well: some are harder.

    Args:
        model: that made the crystals.
        sampling: how; its guidance is followed.
        plans: of the crystals.
        crystals: as made.
        device: of the model.
        denoiser: the model's own.

    Returns:
        One number for each; NaN where a crystal is not finite.
    """
    device = host_of(device)
    noise = noise_of([replace(plan, attempt=0) for plan in plans], device)
    guided = follow(denoiser, model, sampling, plans, device)
    total = torch.zeros(len(plans), dtype=torch.float64)
    with torch.no_grad():
        process = set_up(model.process, replace(sampling, redecorate=False), plans, noise, device).process
        clean = crystals.to(device)
        for level in LEVELS:
            t = torch.full((len(plans),), level, device=device)
            for draw in range(DRAWS):
                noisy = process.corrupt(clean, t, noise.at(draw, STAGE), torch.zeros_like(t))
                loss = process.loss(guided(noisy, t), clean, noisy, t, torch.zeros_like(t)).per_atom
                total += (loss["frac_coords"] + CELL_WEIGHT * loss["cell"]).double().cpu()
    return (total / (len(LEVELS) * DRAWS)).tolist()
