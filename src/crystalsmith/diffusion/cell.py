"""Variance-preserving diffusion of the cell towards a cubic cell whose size follows the number of atoms.

With beta(t) = beta_min + (beta_max - beta_min) t and a(t) = exp(-1/2 int_0^t beta): L_t = a L_0 + (1 - a) M_n +
sqrt((1 - a^2) v_n) eps, limit mean M_n = (n / rho)^(1/3) I, limit variance v_n = c n^(2/3), eps symmetric (Zeni et
al., "A generative model for inorganic materials design", Nature 2025, supplement A.6). All cells are symmetric
positive matrices in angstrom. Network outputs are scores times sqrt((1 - a^2) v_n).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.diffusion.coordinates import less_churn

PUBLISHED_DENSITY = 0.05771451654022283
"""Mean number of atoms per cubic angstrom of the published training set."""

_SMALLEST_RATIO = 0.001  # the published lower bound of a(t) / a(s)


@dataclass(frozen=True)
class CellProcess:
    """The process of ``cell (B, 3, 3)``; times and ``num_atoms`` are ``(B,)``.

    Attributes:
        beta_min, beta_max: noise rate at t = 0 and t = 1.
        limit_density: rho of the limit mean, atoms per cubic angstrom.
        limit_variance: c of the limit variance v_n = c n^(2/3), square angstrom.
        data_variance: measured second moments of the data about M_n over n^(2/3), (diagonal, off-diagonal) by number
            of atoms, key "all" for any other number; ``None`` switches the preconditioned output off.
        scalar_noise: use one Gaussian per crystal in the ancestral step, as the published sampler does.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    limit_density: float = PUBLISHED_DENSITY
    limit_variance: float = 0.25
    data_variance: Mapping[str, tuple[float, float]] | None = field(default=None, hash=False)
    scalar_noise: bool = False
    _tables: dict[tuple[torch.dtype, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def signal(self, t: Tensor) -> Tensor:
        """a(t), the fraction of the data that is left, with the shape of ``t``."""
        return torch.exp(-0.25 * t.square() * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min)

    def limit_mean(self, num_atoms: Tensor, dtype: torch.dtype) -> Tensor:
        """``(B, 3, 3)``, M_n."""
        edge = _power(num_atoms.to(dtype) / self.limit_density, 1.0 / 3.0)
        return edge.view(-1, 1, 1) * torch.eye(3, dtype=dtype, device=num_atoms.device)

    def limit_std(self, num_atoms: Tensor, dtype: torch.dtype) -> Tensor:
        """``(B, 1, 1)``, sqrt(v_n)."""
        return (self.limit_variance**0.5 * _power(num_atoms.to(dtype), 1.0 / 3.0)).view(-1, 1, 1)

    def std(self, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(B, 1, 1)``, sqrt((1 - a^2) v_n); 0 where t <= 0."""
        fraction = torch.where(t > 0, 1.0 - self.signal(t).square(), torch.zeros_like(t))
        return fraction.sqrt().view(-1, 1, 1) * self.limit_std(num_atoms, t.dtype)

    def mean(self, clean: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(B, 3, 3)``, mean of the marginal, a L_0 + (1 - a) M_n."""
        a = self.signal(t).view(-1, 1, 1)
        return a * clean + (1.0 - a) * self.limit_mean(num_atoms, clean.dtype)

    def prior(self, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """Sample of the limit distribution from normals ``(B, 3, 3)``."""
        return self.limit_mean(num_atoms, noise.dtype) + self.limit_std(num_atoms, noise.dtype) * symmetric_noise(noise)

    def corrupt(self, clean: Tensor, t: Tensor, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """L_t from L_0 and normals ``(B, 3, 3)``."""
        return self.mean(clean, t, num_atoms) + self.std(t, num_atoms) * symmetric_noise(noise)

    def renoise(self, x: Tensor, t: Tensor, t_next: Tensor, num_atoms: Tensor, noise: Tensor) -> Tensor:
        """L at a later time ``t_next`` from L ``(B, 3, 3)`` at ``t``."""
        ratio = (self.signal(t_next) / self.signal(t)).view(-1, 1, 1)
        added = self.std(t_next, num_atoms).square() - (ratio * self.std(t, num_atoms)).square()
        mean = ratio * x + (1.0 - ratio) * self.limit_mean(num_atoms, x.dtype)
        return mean + added.clamp(min=0).sqrt() * symmetric_noise(noise)

    def loss(self, output: Tensor, clean: Tensor, noisy: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(B,)``, mean over the nine elements of (output - std * score)^2."""
        target = -(noisy - self.mean(clean, t, num_atoms)) / self.std(t, num_atoms)
        return (output - target).square().mean((-1, -2))

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
        """Step from ``t`` to ``t_next``; returns sample and mean ``(B, 3, 3)``.

        ``churn`` 1 is the exact Gaussian transition of the VP process (spec 8.3) with independent symmetric noise, 0
        its deterministic counterpart (DDIM: Song, Meng, Ermon 2021, eq. 12, which is DPM-Solver-1, the exponential
        Euler step of the probability-flow ODE); in between, ``churn`` times the ancestral noise. With ``scalar_noise``
        the first number of each crystal fills the whole matrix, as published.
        """
        a, a_next = self.signal(t).view(-1, 1, 1), self.signal(t_next).view(-1, 1, 1)
        a_next = torch.where((t_next > 0).view(-1, 1, 1), a_next, torch.ones_like(a_next))
        ratio = (a / a_next).clamp(min=_SMALLEST_RATIO)
        std, std_next = self.std(t, num_atoms), self.std(t_next, num_atoms)
        variance = std.square() - std_next.square() * ratio.square()
        limit = self.limit_mean(num_atoms, x.dtype)
        added = variance.clamp(min=0).sqrt() * (std_next / std)
        mean = x / ratio + (variance / ratio) * (output / std) + (1.0 - 1.0 / ratio) * limit
        mean = mean - less_churn(std_next, added, churn) * output
        if self.scalar_noise:
            noise = noise[:, :1, :1].expand(-1, 3, 3)
        return mean + churn * added * symmetric_noise(noise), mean

    def denoised(self, x: Tensor, output: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """``(B, 3, 3)``: the expected clean cell, (L - (1 - a) M_n + std output) / a (Tweedie's formula)."""
        a = self.signal(t).view(-1, 1, 1)
        return (x - (1.0 - a) * self.limit_mean(num_atoms, x.dtype) + self.std(t, num_atoms) * output) / a

    def log_snr(self, t: Tensor) -> Tensor:
        """log(a / sqrt(1 - a^2)) with the shape of ``t``, up to the width of the limit; infinite at 0."""
        a = self.signal(t)
        return torch.log(a) - 0.5 * torch.log(1.0 - a.square())

    def corrector_step(
        self, x: Tensor, output: Tensor, t: Tensor, num_atoms: Tensor, step_size: Tensor, noise: Tensor
    ) -> Tensor:
        """Langevin step of the given size ``(B,)``; the result is brought back to symmetric polar form."""
        step = step_size.view(-1, 1, 1)
        score = output / self.std(t, num_atoms)
        return symmetric_polar(x + step * score + torch.sqrt(2.0 * step) * symmetric_noise(noise))

    def gaussian_output(self, x: Tensor, t: Tensor, num_atoms: Tensor) -> Tensor:
        """Score times std of the Gaussian that data and prior share, ``(B, 3, 3)``.

        -(L - M_n) sqrt((1 - a^2) v_n) / v_t with v_t = a^2 v_data + (1 - a^2) v_n: the output of a network that knows
        only how far cells spread. Added to what the network learns, in the spirit of EDM's preconditioning (Karras
        et al., 2022), it pulls back cells that have lost every edge.
        """
        if self.data_variance is None:
            return torch.zeros_like(x)
        a2 = self.signal(t).square().view(-1, 1, 1)
        variance = a2 * self._data_variance(num_atoms, x.dtype) + self.std(t, num_atoms).square()
        return -(x - self.limit_mean(num_atoms, x.dtype)) * self.std(t, num_atoms) / variance

    def _data_variance(self, num_atoms: Tensor, dtype: torch.dtype) -> Tensor:
        assert self.data_variance is not None
        where = (dtype, num_atoms.device)
        if where not in self._tables:  # once a device, not once a network evaluation
            largest = max([int(key) for key in self.data_variance if key != "all"], default=0)
            rows = [self.data_variance.get(str(n), self.data_variance["all"]) for n in range(largest + 1)]
            rows.append(self.data_variance["all"])
            self._tables[where] = torch.tensor(rows, dtype=dtype, device=num_atoms.device)
        table = self._tables[where]
        diagonal, off_diagonal = table[num_atoms.clamp(max=len(table) - 1)].unbind(-1)
        eye = torch.eye(3, dtype=dtype, device=num_atoms.device)
        pattern = diagonal.view(-1, 1, 1) * eye + off_diagonal.view(-1, 1, 1) * (1.0 - eye)
        return pattern * _power(num_atoms.to(dtype), 2.0 / 3.0).view(-1, 1, 1)


def symmetric_noise(noise: Tensor) -> Tensor:
    """Symmetric noise of unit variance in every element from normals ``(B, 3, 3)``: (z + z^T)/sqrt(2), diagonal z."""
    mixed = (noise + noise.transpose(-1, -2)) * 0.5**0.5
    eye = torch.eye(3, dtype=torch.bool, device=noise.device)
    return torch.where(eye, noise, mixed)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for positive x; torch.pow rounds differently at a tensor's end, so the batch would be felt."""
    return torch.exp(exponent * x.log())
