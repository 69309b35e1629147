"""The way from noise to crystal, kept as the frames of a film."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalsmith.crystals import CrystalBatch
from crystalsmith.formats import extxyz_frame
from crystalsmith.generation.describe import Crystal

Array = NDArray[np.float64]

FRAMES = 100
"""About as many frames are kept of each crystal."""


class Recorder:
    """A solver's callback that keeps every k-th sample of a batch, the prior and the last step included."""

    def __init__(self, steps: int, frames: int = FRAMES) -> None:
        self.steps = steps
        self.every = max(1, round(steps / frames))
        self.frames: list[tuple[int, CrystalBatch]] = []

    def __call__(self, step: int, batch: CrystalBatch, mean: CrystalBatch) -> None:
        """Keep the sample after ``step`` (-1: the prior)."""
        done = step + 1
        if done < self.steps and done % self.every == 0:
            self.frames.append((done, batch.to("cpu")))

    def films(self, finished: list[Crystal]) -> list[str]:
        """One extended XYZ text per crystal: the frames kept, then the finished crystal; empty for one that failed.

        The comment line holds ``step`` (steps done) and ``time`` (1 at the prior, 0 at the end).
        """
        kept = [(done, batch.crystals()) for done, batch in self.frames]
        films = []
        for k, crystal in enumerate(finished):
            if crystal.failure is not None:
                films.append("")
                continue
            path = [(done, *crystals[k]) for done, crystals in kept]
            path.append((self.steps, crystal.frac_coords, crystal.cell, crystal.numbers))
            films.append("".join(self._frame(crystal, *frame) for frame in path))
        return films

    def _frame(self, crystal: Crystal, done: int, frac: Array, cell: Array, numbers: NDArray[np.int64]) -> str:
        info: dict[str, str | int | float] = {"id": crystal.id, "step": done, "time": f"{1 - done / self.steps:.6f}"}
        return extxyz_frame(frac, cell, numbers, info, masked=True)
