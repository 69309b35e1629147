"""The training objective of one forward pass, and the sums of it that logs are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import CrystalNoise, crystal_uniform
from crystalsmith.diffusion.process import Losses, Process
from crystalsmith.diffusion.symmetric import SymmetricProcess
from crystalsmith.training.config import Dropout
from crystalsmith.training.labels import drop
from crystalsmith.training.loader import Pass

LOSSES = ("total", "frac_coords", "cell", "species", "frac_coords_per_atom", "cell_per_atom", "species_nll")
"""Names of the per-crystal losses in logs: the published ones, then the versions averaged over atoms."""

VALIDATION_SEED = 0x76616C6964
"""One noise for all validations of all runs, so that their losses compare."""


class FlatNetwork(nn.Module):
    """A denoiser that takes and returns plain tensors, as Lightning's and DDP's wrappers want them.

    Args:
        network: the denoiser.
        mixed: run it under bfloat16 autocast. It is entered here and not by Lightning, whose mixed precision would
            round the coordinates and cells that go in to bfloat16 as well.
    """

    def __init__(self, network: nn.Module, mixed: bool = False) -> None:
        super().__init__()
        self.network, self.mixed = network, mixed

    def forward(
        self,
        frac_coords: Tensor,
        cell: Tensor,
        atomic_numbers: Tensor,
        num_atoms: Tensor,
        t: Tensor,
        conditions: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = CrystalBatch(frac_coords, cell, atomic_numbers, num_atoms)
        with torch.autocast(cell.device.type, torch.bfloat16, enabled=self.mixed):
            scores = self.network(batch, t, conditions)
        return scores.frac_coords, scores.cell, scores.species_logits


def as_denoiser(network: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Denoiser:
    """A (wrapped) :class:`FlatNetwork` as a denoiser with float32 scores."""

    def denoise(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        given = None if conditions is None else dict(conditions)
        out = network(batch.frac_coords, batch.cell, batch.atomic_numbers, batch.num_atoms, t, given)
        return Scores(*(x.to(batch.cell.dtype) for x in out))

    return denoise


def pass_losses(
    denoiser: Denoiser,
    process: Process,
    one: Pass,
    seed: int,
    step: int,
    probability: float = 0.0,
    dropout: Dropout = "independent",
) -> Losses:
    """Corrupt the crystals of a pass, denoise under their labels, compare.

    ``probability`` and ``dropout`` say which crystals do not see their labels (see ``labels.drop``).

    The noise of a crystal is a function of (seed, row, step), so that a step is the same however it is cut into
    passes and devices, and a resumed run draws what the uninterrupted one would have drawn.
    """
    if one.symmetry is not None:
        process = SymmetricProcess(process, one.symmetry)
    draw = CrystalNoise(seed, one.rows, one.crystals.num_atoms).at(step, 0)
    noisy = process.corrupt(one.crystals, one.t, draw, one.t_species)
    conditions = one.conditions
    if conditions:
        count = 1 + len(conditions)
        uniforms = [crystal_uniform(seed, one.rows, step * count + k) for k in range(count)]
        conditions = drop(conditions, uniforms, probability, dropout)
    scores = denoiser(noisy, one.t, conditions or None)
    return process.loss(scores, one.crystals, noisy, one.t, one.t_species)


def loss_table(losses: Losses) -> Tensor:
    """``(len(LOSSES), B)`` float64, detached: the rows are ``LOSSES``."""
    published = (losses.total, losses.frac_coords, losses.cell, losses.species)
    per_atom = (losses.per_atom[name] for name in ("frac_coords", "cell", "species_nll"))
    return torch.stack([row.detach().double() for row in (*published, *per_atom)])
