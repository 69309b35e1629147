"""Wrappers around a denoiser that steer it; each is a denoiser itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import NUM_CLASSES
from crystalsmith.errors import InputError

_FORBIDDEN = -1e10  # logit of a class that must not appear (published value)


def allow_elements(denoiser: Denoiser, allowed: Iterable[int]) -> Denoiser:
    """Only the given atomic numbers can come out; the mask never can.

    Raises:
        InputError: if no element is allowed.
    """
    numbers = sorted(set(allowed))
    if not numbers:
        raise InputError("No element is allowed; allow at least one.")
    forbidden = torch.ones(NUM_CLASSES, dtype=torch.bool)
    forbidden[torch.tensor(numbers) - 1] = False

    def restricted(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        logits = scores.species_logits
        logits = logits + _FORBIDDEN * forbidden.to(device=logits.device, dtype=logits.dtype)
        return Scores(scores.frac_coords, scores.cell, logits)

    return restricted


def follow_chemical_system(denoiser: Denoiser, name: str = "chemical_system") -> Denoiser:
    """Only elements of the chemical system that a crystal is conditioned on can come out of it.

    Crystals without that condition are left alone. It wraps the denoiser inside :func:`bind_conditions`, so that the
    unconditional half of a guided evaluation stays free (spec 4.8).
    """

    def restricted(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        wanted = None if conditions is None else conditions.get(name)
        if wanted is None:
            return scores
        inside = torch.nn.functional.pad(wanted[:, 1:] != 0, (0, 1))  # by class; the mask is never of the system
        outside = ~inside & (wanted != 0).any(-1, keepdim=True)
        logits = scores.species_logits + _FORBIDDEN * outside[batch.batch_index].to(scores.species_logits.dtype)
        return Scores(scores.frac_coords, scores.cell, logits)

    return restricted


def bind_conditions(denoiser: Denoiser, conditions: Conditions, guidance_factor: float = 1.0) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022): (1 - g) unconditional + g conditional, on every output.

    ``guidance_factor`` 0 ignores the conditions, 1 follows them without extrapolation (one evaluation each); any other
    value costs one evaluation of the doubled batch.
    """
    if guidance_factor in (0.0, 1.0):
        fixed = conditions if guidance_factor == 1.0 else None

        def bound(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
            return denoiser(batch, t, fixed)

        return bound
    doubled = {name: torch.cat([_unlabelled(value), value]) for name, value in conditions.items()}

    def guided(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(CrystalBatch.concatenate([batch, batch]), torch.cat([t, t]), doubled)
        pairs = [x.chunk(2) for x in (scores.frac_coords, scores.cell, scores.species_logits)]
        return Scores(*(torch.lerp(free, steered, guidance_factor) for free, steered in pairs))

    return guided


def _unlabelled(value: Tensor) -> Tensor:
    """The same shape of condition, unconditional for every crystal."""
    return torch.full_like(value, float("nan")) if value.dim() == 1 else torch.zeros_like(value)
