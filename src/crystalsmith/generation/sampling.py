"""How crystals are sampled from their plans: what all crystals of a request share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from crystalsmith.diffusion.solvers import WARPS, resampled, schedule


@dataclass(frozen=True)
class Sampling:
    """How the crystals of a request are sampled.

    Attributes:
        solver: a name in ``diffusion.solvers.SOLVERS``.
        steps: number of denoising steps.
        precision: ``float32`` or ``bf16``, of the network's products.
        temperature: of the species' probabilities.
        settings: further keywords of the solver.
        strength: the time in (0, 1] that crystals to start from are noised to.
        redecorate: that is the time of their geometry alone; their elements start from the mask.
        resample: passes through each stretch of the way.
        guidance: factor of each property that is a target.
        interval: times between which guidance extrapolates; elsewhere the factor is 1.
        prefer: atomic numbers and the factors on their odds, wherever an element is decided.
    """

    solver: str
    steps: int
    precision: str = "float32"
    temperature: float = 1.0
    settings: Mapping[str, float] = field(default_factory=dict)
    strength: float = 1.0
    resample: int = 1
    guidance: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, 1.0)
    redecorate: bool = False
    prefer: tuple[tuple[int, float], ...] = ()

    def times(self, device: torch.device | str = "cpu") -> Tensor:
        """``(T,)``, from 1, or from the level that given crystals are noised to."""
        times = schedule(self.steps, device, kind=WARPS[self.solver])
        if self.strength < 1.0 and not self.redecorate:
            kept = times[times <= self.strength + 1e-6]
            times = kept if len(kept) else times[-1:]
        return resampled(times, self.resample) if self.resample > 1 else times

    @property
    def num_steps(self) -> int:
        """Steps that the solver takes, passes that are repeated included."""
        return len(self.times())
