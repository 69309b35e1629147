"""Wrappers around a denoiser that steer it; each is a denoiser itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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

    penalties: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # once a device, not once an evaluation

    def restricted(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        logits = scores.species_logits
        where = (logits.device, logits.dtype)
        if where not in penalties:
            penalties[where] = _FORBIDDEN * forbidden.to(device=logits.device, dtype=logits.dtype)
        return Scores(scores.frac_coords, scores.cell, logits + penalties[where])

    return restricted


def sharpen_species(denoiser: Denoiser, temperature: float) -> Denoiser:
    """Species drawn from p^(1/T), renormalised: below 1 the likelier elements gain, above 1 the rarer ones.

    What an undertrained network puts on elements that fit nothing else in the crystal is spread thinly, so a
    temperature below 1 removes much of it; the price is diversity.
    """
    if temperature == 1.0:
        return denoiser

    def sharpened(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        return Scores(scores.frac_coords, scores.cell, scores.species_logits / temperature)

    return sharpened


def prefer_elements(denoiser: Denoiser, factors: Sequence[tuple[int, float]]) -> Denoiser:
    """Odds of elements times a factor, wherever an element is decided; what is ruled out stays so.

    Args:
        factors: atomic number and factor, above 0.
    """
    if not factors:
        return denoiser
    bias = torch.zeros(NUM_CLASSES)
    for z, factor in factors:
        bias[z - 1] = math.log(factor)

    def biased(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch, t, conditions)
        return Scores(scores.frac_coords, scores.cell, scores.species_logits + bias.to(scores.species_logits))

    return biased


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


def bind_conditions(
    denoiser: Denoiser,
    conditions: Conditions,
    guidance_factor: float | Mapping[str, float] = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022): (1 - g) unconditional + g conditional, on every output.

    With one factor, 0 ignores the conditions and 1 follows them without extrapolation (one evaluation each); any other
    value costs one evaluation of the doubled batch. Factors by property compose (Liu et al. 2022): unconditional
    + sum over properties of g (conditional on it - unconditional), in one evaluation of as many more copies as there
    are different factors; properties of equal factor are followed jointly.

    Args:
        denoiser: to be guided.
        conditions: targets of the batch.
        guidance_factor: g, or g by property.
        interval: times between which the factors hold; elsewhere they are 1 (Kynkaanniemi et al. 2024).
    """
    if not isinstance(guidance_factor, Mapping):
        guidance_factor = dict.fromkeys(conditions, guidance_factor)
    groups: dict[float, dict[str, Tensor]] = {}
    for name, value in conditions.items():
        groups.setdefault(guidance_factor[name], {})[name] = value
    groups.pop(0.0, None)
    followed = {name: value for group in groups.values() for name, value in group.items()}
    guided = _guided(denoiser, groups)
    if interval == (0.0, 1.0):
        return guided

    def within(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        # All crystals of a reverse process share their time.
        if len(t) and interval[0] <= float(t[0]) <= interval[1]:
            return guided(batch, t)
        return denoiser(batch, t, followed)

    return within


def _guided(denoiser: Denoiser, groups: Mapping[float, Mapping[str, Tensor]]) -> Denoiser:
    """Guidance with one set of conditions per factor."""
    if not groups or list(groups) == [1.0]:
        fixed = groups.get(1.0)

        def bound(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
            return denoiser(batch, t, fixed)

        return bound
    copies = 1 + len(groups)
    stacked: dict[str, Tensor] = {}
    for place, group in enumerate(groups.values(), start=1):
        for name, value in group.items():
            stacked[name] = torch.cat([value if k == place else _unlabelled(value) for k in range(copies)])

    def guided(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = denoiser(batch.repeat(copies), t.repeat(copies), stacked)
        fields = []
        for field in (scores.frac_coords, scores.cell, scores.species_logits):
            free, *steered = field.chunk(copies)
            if len(steered) == 1:
                fields.append(torch.lerp(free, steered[0], next(iter(groups))))
            else:
                fields.append(free + sum(g * (one - free) for g, one in zip(groups, steered, strict=True)))
        return Scores(*fields)

    return guided


def _unlabelled(value: Tensor) -> Tensor:
    """The same shape of condition, unconditional for every crystal."""
    return torch.full_like(value, float("nan")) if value.dim() == 1 else torch.zeros_like(value)
