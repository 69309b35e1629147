"""Wrapped variance-exploding diffusion of the fractional coordinates.

sigma(t) = sigma_min (sigma_max / sigma_min)^t, scaled by the number of atoms: std = sigma(t) n^(-1/3). The marginal is
the wrapped normal N(f_0, std^2) mod 1 (Zeni et al., "A generative model for inorganic materials design", Nature 2025,
supplement A.5; Jiao et al., DiffCSP, 2023). Network outputs are scores times std.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalsmith.crystals import wrap

_IMAGES = 3  # lattice images per direction in the wrapped score
_SMALLEST = 1e-30  # a divisor where numerator and denominator vanish together


@dataclass(frozen=True)
class CoordinateProcess:
    """The process of ``frac_coords (N, 3)``; per-atom quantities take ``num_atoms`` of each atom's crystal.

    Attributes:
        sigma_min: standard deviation at t = 0 for one atom per cell, fractional units.
        sigma_max: the same at t = 1; the prior is close to uniform.
    """

    sigma_min: float = 0.01
    sigma_max: float = 5.0

    def std(self, t: Tensor, num_atoms: Tensor) -> Tensor:
        """Standard deviation ``std_n(t)`` with the shape of ``t`` and ``num_atoms``; 0 where t <= 0."""
        # exp and log: torch.pow rounds differently at the end of a tensor, and crystals would feel their batch.
        sigma = self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))
        return torch.where(t > 0, sigma, torch.zeros_like(sigma)) * torch.exp(num_atoms.to(t.dtype).log() / -3.0)

    def prior(self, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """``(N, 3)`` sample at t = 1 from normals ``(N, 3)``; ``num_atoms (N,)``."""
        ones = torch.ones(len(num_atoms), dtype=noise.dtype, device=noise.device)
        return wrap(self.std(ones, num_atoms).unsqueeze(-1) * noise)

    def corrupt(self, clean: Tensor, t: Tensor, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """f_t from f_0 ``(N, 3)``, times ``t (N,)`` and normals ``(N, 3)``."""
        return wrap(clean + self.std(t, num_atoms).unsqueeze(-1) * noise)

    def renoise(self, x: Tensor, t: Tensor, t_next: Tensor, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """x at a later time ``t_next`` from x ``(N, 3)`` at ``t``."""
        added = self.std(t_next, num_atoms).square() - self.std(t, num_atoms).square()
        return wrap(x + added.clamp(min=0).sqrt().unsqueeze(-1) * noise)

    def loss(self, output: Tensor, clean: Tensor, noisy: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(N,)`` denoising score-matching error per atom: mean over xyz of (output - std * wrapped score)^2."""
        std = self.std(t, num_atoms).unsqueeze(-1)
        target = std * wrapped_score(noisy, clean, std)
        return (output - target).square().mean(-1)

    def predictor_step(
        self,
        x: Tensor,
        output: Tensor,
        t: Tensor,
        t_next: Tensor,
        num_atoms: Tensor,
        noise: Tensor,
        churn: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Step from ``t`` to ``t_next`` (both ``(N,)``); returns sample and mean ``(N, 3)``.

        ``churn`` 1 is ancestral sampling (Song et al., "Score-based generative modeling through SDEs", 2021, eq. 4,
        discrete VE), 0 the Euler step of the probability-flow ODE in std, x + (std_t - std_s) output. In between,
        ``churn`` times the ancestral noise (eta of DDIM: Song, Meng, Ermon 2021, eq. 12 and 16, on the VE process).
        """
        std, std_next = self.std(t, num_atoms).unsqueeze(-1), self.std(t_next, num_atoms).unsqueeze(-1)
        variance = std.square() - std_next.square()
        added = variance.sqrt() * (std_next / std)
        kept = less_churn(std_next, added, churn)
        mean = x + variance * output / std - kept * output
        return wrap(mean + churn * added * noise), wrap(mean)

    def denoised(self, x: Tensor, output: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(N, 3)`` in [0, 1): where the score says that clean atoms stand, x + std output (Tweedie's formula).

        Exact once the noise is much smaller than the cell; a wide normal has no single image to point at.
        """
        return wrap(x + self.std(t, num_atoms).unsqueeze(-1) * output)

    def log_snr(self, t: Tensor) -> Tensor:
        """-log std up to the number of atoms, with the shape of ``t``; linear in time."""
        return -t * math.log(self.sigma_max / self.sigma_min)

    def corrector_step(
        self, x: Tensor, output: Tensor, t: Tensor, num_atoms: Tensor, step_size: Tensor, noise: Tensor
    ) -> Tensor:
        """Langevin step of the given size ``(N,)`` at time ``t (N,)``."""
        step = step_size.unsqueeze(-1)
        score = output / self.std(t, num_atoms).unsqueeze(-1)
        return wrap(x + step * score + torch.sqrt(2.0 * step) * noise)


def less_churn(std_next: Tensor, added: Tensor, churn: float) -> Tensor:
    """What an ancestral step moves less along the score, over std, if it adds ``churn`` times its noise ``added``.

    The noise that remains at the end is std_next in all: sqrt(std_next^2 - churn^2 added^2) of it is carried along,
    instead of sqrt(std_next^2 - added^2). Written without a difference of close numbers, and exactly 0 at churn 1.
    """
    carried = (std_next.square() - (churn * added).square()).clamp(min=0).sqrt()
    ancestral = (std_next.square() - added.square()).clamp(min=0).sqrt()
    return (1.0 - churn**2) * added.square() / (carried + ancestral).clamp(min=_SMALLEST)


def wrapped_score(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gradient with respect to ``x`` of the log-density of a normal wrapped onto the unit torus.

    The dimensions are independent, so the sum over the (2k+1)^3 images factorises into three sums over 2k+1.

    Args:
        x: ``(..., 3)`` noisy coordinates.
        mean: ``(..., 3)`` clean coordinates.
        std: broadcastable to ``x``.
    """
    images = torch.arange(-_IMAGES, _IMAGES + 1, dtype=x.dtype, device=x.device)
    delta = (x - mean).unsqueeze(-1) + images
    variance = std.unsqueeze(-1).square()
    weight = torch.softmax(-delta.square() / (2.0 * variance), dim=-1)
    return -(weight * delta / variance).sum(-1)
