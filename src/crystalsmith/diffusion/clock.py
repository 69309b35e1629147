"""A clock of its own for the geometry: while the elements go from all masked to all decided, coordinates and cell go
from a level below 1, so that known geometries are decorated anew, or from 1, as ever.

Solvers keep the time of the elements; coordinates and cell are moved at ``level`` times that time, which the network is
told. It needs a network that has seen the fields at times of their own (:meth:`Process.corrupt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import Draw
from crystalsmith.diffusion.process import Denoised, Process


@dataclass(frozen=True)
class Clock:
    """Time of the geometry when that of the elements is t: ``level`` t, with 0 < ``level`` <= 1."""

    level: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        return self.level * t

    def tell(self, denoiser: Denoiser) -> Denoiser:
        """A denoiser that is told the time of the geometry."""

        def told(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
            return denoiser(batch, self(t), conditions)

        return told


class ClockedProcess(Process):
    """A process whose coordinates and cell run by a clock; elements run by the solver's time.

    Args:
        base: the process, constrained or not.
        clock: of the geometry.
    """

    def __init__(self, base: Process, clock: Clock) -> None:
        super().__init__(base.config)
        self.base, self.clock = base, clock

    def prior(self, num_atoms: Tensor, draw: Draw, atomic_numbers: Tensor | None = None) -> CrystalBatch:
        """See :meth:`Process.prior`."""
        return self.base.prior(num_atoms, draw, atomic_numbers)

    def corrupt(self, clean: CrystalBatch, t: Tensor, draw: Draw, t_species: Tensor | None = None) -> CrystalBatch:
        """See :meth:`Process.corrupt`: elements to ``t``, geometry to the clock's time."""
        return self.base.corrupt(clean, self.clock(t), draw, t if t_species is None else t_species)

    def move(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[CrystalBatch, CrystalBatch]:
        """See :meth:`Process.move`."""
        return self.base.move(batch, scores, self.clock(t), self.clock(t_next), draw, **settings)

    def predict_species(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Process.predict_species`."""
        return self.base.predict_species(batch, scores, t, t_next, draw, **settings)

    def correct(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> CrystalBatch:
        """See :meth:`Process.correct`."""
        return self.base.correct(batch, scores, self.clock(t), self.clock(t_next), draw, **settings)

    def extrapolate(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, past: Denoised | None
    ) -> tuple[Scores, Denoised]:
        """See :meth:`Process.extrapolate`."""
        return self.base.extrapolate(batch, scores, self.clock(t), self.clock(t_next), past)
