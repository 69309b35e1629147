"""Where networks and diffusion meet: what a denoiser takes and what it returns.

Neither room imports the other; guidance, hard constraints and preconditioning wrap a denoiser and are denoisers
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from crystalsmith.crystals import CrystalBatch

Conditions = Mapping[str, Tensor]
"""Property name to target, one row per crystal.

Scalars and categories are float tensors ``(B,)`` in which NaN means unconditional; element sets are multi-hot
``(B, 101)`` tensors indexed by atomic number (column 0 unused) in which a row of zeros means unconditional. An absent
property is unconditional for every crystal.
"""


@dataclass(frozen=True)
class Scores:
    """What a denoiser predicts for a noisy batch of B crystals with N atoms in all.

    Attributes:
        frac_coords: ``(N, 3)``, score of the fractional coordinates times their noise standard deviation.
        cell: ``(B, 3, 3)``, symmetric, score of the cell times its noise standard deviation.
        species_logits: ``(N, 101)``, unnormalised log-probabilities of the clean species; class ``Z - 1``, 100 = mask.
    """

    frac_coords: Tensor
    cell: Tensor
    species_logits: Tensor


class Denoiser(Protocol):
    """A function from a noisy batch, times ``t (B,)`` in (0, 1] and conditions to :class:`Scores`."""

    def __call__(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores: ...
