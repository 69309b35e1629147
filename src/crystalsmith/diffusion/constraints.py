"""Hard constraints on the reverse process: bounds on the composition, and parts of a crystal that are given.

Composition acts where elements are decided, in :class:`ConstrainedProcess`; given sites and cells are held by a
denoiser that knows the exact score of a point (:func:`hold_given`). Solvers notice neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.composition import CountBounds, settle
from crystalsmith.diffusion.coordinates import wrapped_score
from crystalsmith.diffusion.noise import Draw
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.elements import MASK


class ConstrainedProcess(Process):
    """The process with every element decided within bounds; all else is as in :class:`Process`.

    Which atoms leave the mask in a step does not depend on their elements, so it is left to the process; only what
    they become is decided jointly. An element that is decided stays, unless the step remasks it.

    Args:
        config: of the process.
        bounds: one row per crystal of the batch that will be sampled.
        fixed: ``(N,)`` int64, the element of atoms that are given, 0 = free.
    """

    def __init__(self, config: ProcessConfig, bounds: CountBounds, fixed: Tensor) -> None:
        super().__init__(config)
        self.bounds, self.fixed = bounds, fixed

    def predict_species(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Process.predict_species`; what is drawn and what is most probable both keep the bounds."""
        drawn, likely = super().predict_species(batch, scores, t, t_next, draw, **settings)
        drawn = self._settled(batch, drawn, scores, draw, confident=False)
        return drawn, self._settled(batch, likely, scores, draw, confident=True)

    def _settled(self, batch: CrystalBatch, free: Tensor, scores: Scores, draw: Draw, confident: bool) -> Tensor:
        masked, given = batch.atomic_numbers == MASK, self.fixed > 0
        leaves = masked & (free != MASK)

        def pick(log_probs: Tensor) -> Tensor:
            # Another number than the one that took the atom out of the mask.
            return log_probs.argmax(-1) if confident else draw.categorical(log_probs, word=1)

        numbers = settle(self.bounds, batch, self.fixed, leaves & ~given, scores.species_logits, pick, confident)
        # What goes back into the mask leaves room for more than it takes: the bounds can still be kept.
        numbers = torch.where(free == MASK, MASK, numbers)
        return torch.where(given, torch.where(masked & ~leaves, batch.atomic_numbers, self.fixed), numbers)


@dataclass(frozen=True)
class Given:
    """The parts of B crystals that must come out as they are.

    Attributes:
        frac_coords: ``(N, 3)``; rows of sites that are not held are ignored.
        sites: ``(N,)`` bool, sites whose position is held.
        cell: ``(B, 3, 3)`` as given, in any orientation.
        upright: ``(B, 3, 3)``, the same cells in symmetric form, as the process has them.
        hold_cell: whether cells are held.
        numbers: ``(N,)`` int64, the elements that are held, 0 = free.
    """

    frac_coords: Tensor
    sites: Tensor
    cell: Tensor
    upright: Tensor
    hold_cell: bool
    numbers: Tensor

    def impose(self, batch: CrystalBatch) -> CrystalBatch:
        """A finished batch with the given parts exactly as they were given, cells in their own orientation."""
        frac = torch.where(self.sites.unsqueeze(-1), self.frac_coords, batch.frac_coords)
        numbers = torch.where(self.numbers > 0, self.numbers, batch.atomic_numbers)
        return batch.replace(frac_coords=frac, cell=self.cell if self.hold_cell else batch.cell, atomic_numbers=numbers)

    def to(self, device: torch.device | str) -> Given:
        """The same on another device."""
        tensors = (self.frac_coords, self.sites, self.cell, self.upright)
        frac, sites, cell, upright = (x.to(device) for x in tensors)
        return Given(frac, sites, cell, upright, self.hold_cell, self.numbers.to(device))


def hold_given(denoiser: Denoiser, process: Process, given: Given) -> Denoiser:
    """The given parts move under the exact score of the point they must reach.

    At each level such a part has the noise of that level and at time 0 it stands where it was given, so the network
    sees it as it saw data in training (the aim of replacement, Song et al. 2021, appendix I.2) while its path stays
    one continuous path.
    """

    def held(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        frac, cell, logits = scores.frac_coords, scores.cell, scores.species_logits
        index = batch.batch_index
        std = process.coordinates.std(t[index], batch.num_atoms[index]).unsqueeze(-1)
        exact = std * wrapped_score(batch.frac_coords, given.frac_coords, std)
        frac = torch.where(given.sites.unsqueeze(-1), exact, frac)
        if given.hold_cell:
            mean = process.cell.mean(given.upright, t, batch.num_atoms)
            cell = -(batch.cell - mean) / process.cell.std(t, batch.num_atoms)
        return Scores(frac, cell, logits)

    return held
