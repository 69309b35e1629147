"""Radial and angular bases, and the sinusoidal encoding of times and scalar properties."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def envelope(u: Tensor) -> Tensor:
    """Smooth cut-off 1 - 21 u^5 + 35 u^6 - 15 u^7 for u = distance / cutoff < 1, else 0 (GemNet, p = 5)."""
    u5 = u**5
    return torch.where(u < 1, 1 + u5 * (-21 + u * (35 - 15 * u)), torch.zeros_like(u))


class RadialBasis(nn.Module):
    """Gaussians of the scaled distance times the envelope: ``(E,)`` angstrom -> ``(E, num_radial)``."""

    def __init__(self, num_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.offset: Tensor
        self.register_buffer("offset", torch.linspace(0, 1, num_radial, device="cpu"))

    def forward(self, distance: Tensor) -> Tensor:
        u = (distance / self.cutoff).unsqueeze(-1)
        coefficient = -0.5 / (self.offset[1] - self.offset[0]) ** 2
        return envelope(u) * torch.exp(coefficient * (u - self.offset).square())


def zonal_harmonics(cosine: Tensor, num_spherical: int) -> list[Tensor]:
    """Y_l = sqrt((2l + 1) / 4 pi) P_l(cosine) for l = 0 .. num_spherical - 1, by the recurrence of Legendre."""
    legendre = [torch.ones_like(cosine), cosine]
    for order in range(2, num_spherical):
        legendre.append(((2 * order - 1) * cosine * legendre[-1] - (order - 1) * legendre[-2]) / order)
    return [p * math.sqrt((2 * order + 1) / (4 * math.pi)) for order, p in enumerate(legendre[:num_spherical])]


class SinusoidalEncoding(nn.Module):
    """Sines and cosines of a scalar at geometric frequencies: ``(B,)`` -> ``(B, width)``; the scalar is used raw."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # On the CPU also inside empty_weights(): ranges of the meta device import torch's compiler.
        even = torch.arange(0, width, 2, dtype=torch.float32, device="cpu")
        self.frequency: Tensor
        self.register_buffer("frequency", torch.exp(even * (-math.log(10000.0) / width)))

    def forward(self, x: Tensor) -> Tensor:
        angle = x.unsqueeze(-1) * self.frequency
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
