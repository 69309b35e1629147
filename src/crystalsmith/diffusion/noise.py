"""Random numbers: one independent, counter-based stream per crystal, and an ordinary generator for training.

A draw is a pure function of (seed, crystal index, step, stage, field, position), so crystal i of a request is the
same for any batch size, device count or restart point. Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) is evaluated with 64-bit integer tensor operations, exactly the same on every device.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Fields of the counter: what a number is drawn for.
FIELD_COORDINATES, FIELD_CELL, FIELD_SPECIES, FIELD_USER = 0, 1, 2, 16


ATTEMPT_SHIFT = 16
"""The upper half of the field's word counts the attempts at a crystal, each with random numbers of its own."""

Word = TypeVar("Word", int, Tensor)


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """Philox4x32-10: four words of randomness from four counter words and two key words, of int64 tensors or ints."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit products wrap; the upper word survives as a logical shift (arithmetic shift, then mask).
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _key(seed: int) -> tuple[int, int]:
    return seed & _WORD, (seed >> 32) & _WORD


def _unit(word: Tensor) -> Tensor:
    """A 32-bit word as a float64 strictly between 0 and 1."""
    return (word.double() + 0.5) * 2.0**-32


class Draw(Protocol):
    """All random numbers of one stage of one step, for one batch of B crystals with N atoms in all."""

    def atoms(self) -> Tensor:
        """``(N, 3)`` standard normals."""
        ...

    def cell(self) -> Tensor:
        """``(B, 3, 3)`` standard normals, not symmetrised."""
        ...

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        """One class ``(N,)`` per row of unnormalised log-probabilities ``(N, C)``.

        ``word`` 0 to 3 names independent random numbers of the same atom, for a second choice in one stage.
        """
        ...

    def uniform(self, word: int) -> Tensor:
        """``(N,)`` float64 between 0 and 1, both excluded: the number that ``categorical`` of that word would use."""
        ...


class Noise(Protocol):
    """Where a solver takes its draws from."""

    def at(self, step: int, stage: int) -> Draw:
        """The draw of one stage (prior, corrector, predictor, ...) of one step."""
        ...


class QuietNoise:
    """Another noise with its normals made smaller; choices among classes stay as likely as they are.

    Args:
        noise: the other.
        scale: factor of the normals.
    """

    def __init__(self, noise: Noise, scale: float) -> None:
        self.noise, self.scale = noise, scale

    def at(self, step: int, stage: int) -> Draw:
        return _QuietDraw(self.noise.at(step, stage), self.scale)


class _QuietDraw:
    def __init__(self, draw: Draw, scale: float) -> None:
        self.draw, self.scale = draw, scale

    def atoms(self) -> Tensor:
        return self.scale * self.draw.atoms()

    def cell(self) -> Tensor:
        return self.scale * self.draw.cell()

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return self.draw.categorical(log_probs, word)

    def uniform(self, word: int) -> Tensor:
        return self.draw.uniform(word)


class CrystalNoise:
    """One stream per (seed, crystal index).

    Args:
        seed: any integer of up to 64 bits.
        indices: ``(B,)`` int64, the index of each crystal within the request.
        num_atoms: ``(B,)`` int64.
        dtype: precision of the normals.
        attempts: ``(B,)`` int64, how many times each crystal was made before; 0 for all if None.
    """

    def __init__(
        self,
        seed: int,
        indices: Tensor,
        num_atoms: Tensor,
        dtype: torch.dtype = torch.float32,
        attempts: Tensor | None = None,
    ) -> None:
        device = num_atoms.device
        self.key = _key(seed)
        self.dtype = dtype
        self.crystal = indices.to(device=device, dtype=torch.int64)
        total = int(num_atoms.sum())
        crystals = torch.arange(len(num_atoms), device=device)
        batch_index = torch.repeat_interleave(crystals, num_atoms, output_size=total)
        first = torch.cumsum(num_atoms, 0) - num_atoms
        attempts = torch.zeros_like(self.crystal) if attempts is None else attempts.to(self.crystal)
        self.attempt = attempts << ATTEMPT_SHIFT
        self.atom_crystal, self.atom_attempt = self.crystal[batch_index], self.attempt[batch_index]
        self.atom_position = torch.arange(total, device=device) - first[batch_index]

    def at(self, step: int, stage: int) -> Draw:
        return _CrystalDraw(self, step, stage)


class _CrystalDraw:
    def __init__(self, noise: CrystalNoise, step: int, stage: int) -> None:
        self.noise = noise
        self.label = (step << 4) | stage

    def _words(self, crystal: Tensor, attempt: Tensor, position: Tensor, field: int) -> tuple[Tensor, ...]:
        label = torch.full_like(position, self.label)
        return philox((position, label, attempt + field, crystal & _WORD), self.noise.key)

    def atoms(self) -> Tensor:
        w0, w1, w2, w3 = self._of_atoms(FIELD_COORDINATES)
        radius, angle = _polar(w0, w1)
        radius2, angle2 = _polar(w2, w3)
        z = torch.stack([radius * angle.cos(), radius * angle.sin(), radius2 * angle2.cos()], dim=-1)
        return z.to(self.noise.dtype)

    def cell(self) -> Tensor:
        crystals = len(self.noise.crystal)
        position = torch.arange(3, device=self.noise.crystal.device).repeat(crystals)
        crystal, attempt = (x.repeat_interleave(3) for x in (self.noise.crystal, self.noise.attempt))
        w0, w1, w2, w3 = self._words(crystal, attempt, position, FIELD_CELL)
        radius, angle = _polar(w0, w1)
        radius2, angle2 = _polar(w2, w3)
        z = torch.stack([radius * angle.cos(), radius * angle.sin(), radius2 * angle2.cos()], dim=-1)
        return z.view(crystals, 3, 3).to(self.noise.dtype)

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return sample_by_uniform(log_probs, self.uniform(word))

    def uniform(self, word: int) -> Tensor:
        return _unit(self._of_atoms(FIELD_SPECIES)[word])

    def _of_atoms(self, field: int) -> tuple[Tensor, ...]:
        noise = self.noise
        return self._words(noise.atom_crystal, noise.atom_attempt, noise.atom_position, field)


def _polar(word: Tensor, word2: Tensor) -> tuple[Tensor, Tensor]:
    """Radius and angle of the Box-Muller transform."""
    return torch.sqrt(-2.0 * torch.log(_unit(word))), (2.0 * math.pi) * _unit(word2)


def sample_by_uniform(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: classes ``(N,)`` from log-probabilities ``(N, C)`` and uniforms ``(N,)``."""
    cumulative = torch.softmax(log_probs.double(), dim=-1).cumsum(-1)
    # Scaling by the last entry keeps rounding from ever choosing a class of probability zero.
    threshold = uniform.unsqueeze(-1) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp_(max=log_probs.shape[-1] - 1)


def crystal_uniform(seed: int, indices: Tensor, field: int) -> Tensor:
    """``(B,)`` float64 in (0, 1): one number per crystal of the request ``seed``, for a user-defined ``field`` >= 0."""
    indices = indices.to(torch.int64)
    zero = torch.zeros_like(indices)
    words = philox((zero, zero, torch.full_like(indices, FIELD_USER + field), indices & _WORD), _key(seed))
    return _unit(words[0])


def crystal_number(seed: int, index: int, field: int, attempt: int = 0) -> float:
    """The number that :func:`crystal_uniform` has for one crystal, and others for further attempts at it."""
    words = philox((0, 0, FIELD_USER + field + (attempt << ATTEMPT_SHIFT), index & _WORD), _key(seed))
    return (words[0] + 0.5) * 2.0**-32


class GlobalNoise:
    """Draws from one ordinary generator, in order of the calls; for training, where no crystal needs its own stream.

    Args:
        generator: a torch generator on the device of ``num_atoms``.
        num_atoms: ``(B,)`` int64.
        dtype: precision of the normals.
    """

    def __init__(self, generator: torch.Generator, num_atoms: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.generator, self.dtype = generator, dtype
        self.device = num_atoms.device
        self.num_crystals, self.total = len(num_atoms), int(num_atoms.sum())

    def at(self, step: int, stage: int) -> Draw:
        return self

    def atoms(self) -> Tensor:
        return torch.randn(self.total, 3, generator=self.generator, device=self.device, dtype=self.dtype)

    def cell(self) -> Tensor:
        return torch.randn(self.num_crystals, 3, 3, generator=self.generator, device=self.device, dtype=self.dtype)

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return sample_by_uniform(log_probs, self.uniform(word))

    def uniform(self, word: int) -> Tensor:
        return torch.rand(self.total, generator=self.generator, device=self.device, dtype=torch.float64)
