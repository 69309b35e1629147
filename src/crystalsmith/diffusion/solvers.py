"""Solvers of the reverse process: plain functions with one signature.

A solver takes a denoiser, the process, a sample at the first time, times ``(T,)`` (the last step goes to 0), a source
of noise and an optional callback ``(step, sample, mean)``; it returns the finished batch. Times decrease; where they
rise (:func:`resampled`), the step adds noise and costs nothing. What all share is :class:`Way`; a solver is what it
does in one step, in the papers' letters: x the sample at time t, d what the denoiser says of it, s the next time, z
noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.contracts import Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import Draw, Noise, QuietNoise
from crystalsmith.diffusion.process import Process
from crystalsmith.errors import InputError

PRIOR, CORRECTOR, PREDICTOR = 0, 1, 2
"""Stages of a step, which tell their random numbers apart. The prior is drawn at step 0."""

Callback = Callable[[int, CrystalBatch, CrystalBatch], None]


class Solver(Protocol):
    """What every solver looks like."""

    def __call__(
        self,
        denoiser: Denoiser,
        process: Process,
        batch: CrystalBatch,
        times: Tensor,
        noise: Noise,
        callback: Callback | None = None,
    ) -> CrystalBatch: ...


Warp = Literal["uniform", "cosine"]


def schedule(
    num_steps: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    kind: Warp = "uniform",
) -> Tensor:
    """Times ``(T,)`` that fall from 1; the solver goes from the last of them to 0.

    Args:
        num_steps: T.
        device, dtype: of the times.
        kind: "uniform" is 1, 1 - 1/T, ..., 1/T; 1,000 steps are the published levels. "cosine" puts 1 - cos(pi u / 2)
            for u: steps of pi / 2T at first, where neither atoms nor cells move, and ever smaller ones towards 0,
            where the cells settle.
    """
    times = torch.linspace(1.0, 1.0 / num_steps, num_steps, device=device, dtype=dtype)
    if kind == "uniform":
        return times
    # 1 - cos, without a difference of close numbers at the end.
    return (2.0 * torch.sin(0.25 * math.pi * times).square()).clamp(max=1.0)


def resampled(times: Tensor, repeats: int, jump: int = 10) -> Tensor:
    """The same times with every stretch of ``jump`` steps gone through ``repeats`` times, noise added in between.

    What is given and what is free come to agree (RePaint: Lugmayr et al., "Inpainting using denoising diffusion
    probabilistic models", 2022). The last stretch, which ends at 0, is gone through once.
    """
    levels, path = times.tolist(), []
    for start in range(0, len(levels), jump):
        stretch = levels[start : start + jump]
        last = start + jump >= len(levels)
        for again in range(1 if last else repeats):
            path += ([levels[start + jump]] if again else []) + stretch
    return torch.tensor(path, dtype=times.dtype, device=times.device)


class Way:
    """The way from noise to crystals that all solvers go: the loop over the times, what rises, who watches.

    Iterating over it gives x, t, s, z of each step down: the sample, its time and the next, both ``(B,)``, and the
    random numbers of the step. A solver tells where that led by :meth:`went`.

    Attributes:
        step: number of the step, from 0; steps that rise count.
        past: whatever a solver wants to know in its next step; None at first and after each rise.
        mean: the last step without its noise.
    """

    def __init__(
        self, process: Process, batch: CrystalBatch, times: Tensor, noise: Noise, callback: Callback | None
    ) -> None:
        self.process, self.noise, self.callback = process, noise, callback
        self.step, self.sample, self.mean = 0, batch, batch
        self.past: Any = None
        ends = torch.cat([times, torch.zeros_like(times[:1])])
        self._times = ends.unsqueeze(-1).expand(-1, batch.num_crystals).unbind(0)
        self._rises = (ends.diff() > 0).tolist()

    def __iter__(self) -> Iterator[tuple[CrystalBatch, Tensor, Tensor, Draw]]:
        for step, (t, s) in enumerate(itertools.pairwise(self._times)):
            self.step, z = step, self.noise.at(step + 1, PREDICTOR)
            if self._rises[step]:
                self.sample = self.mean = self.process.renoise(self.sample, t, s, z)
                self.past = None
            else:
                yield self.sample, t, s, z

    def draw(self, stage: int) -> Draw:
        """The random numbers of a stage of this step."""
        return self.noise.at(self.step + 1, stage)

    @property
    def last(self) -> bool:
        """Whether this step goes to 0."""
        return self.step + 1 == len(self._rises)

    def went(self, sample: CrystalBatch, mean: CrystalBatch) -> None:
        """The end of a step."""
        self.sample, self.mean = sample, mean
        if self.callback is not None:
            self.callback(self.step, sample, mean)

    def end(self) -> CrystalBatch:
        """The finished crystals, every cell in symmetric, right-handed form."""
        return self.mean.replace(cell=symmetric_polar(self.mean.cell))


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    process: Process,
    batch: CrystalBatch,
    times: Tensor,
    noise: Noise,
    callback: Callback | None = None,
) -> CrystalBatch:
    """Ancestral sampling, one network call per step (Ho et al. 2020; Song et al. 2021, eq. 4; D3PM for species)."""
    way = Way(process, batch, times, noise, callback)
    for x, t, s, z in way:
        way.went(*process.predict(x, denoiser(x, t), t, s, z))
    return way.end()


@torch.no_grad()
def multistep(
    denoiser: Denoiser,
    process: Process,
    batch: CrystalBatch,
    times: Tensor,
    noise: Noise,
    callback: Callback | None = None,
    *,
    churn: float = 0.0,
    confidence: float | None = None,
    remask: float = 0.0,
) -> CrystalBatch:
    """Second order for coordinates and cell at one network call per step; species by the posterior of the whole step.

    DPM-Solver++ 2M (Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models",
    2022, algorithm 2) in each field's own log-SNR; with ``churn`` = 1 its SDE variant, SDE-DPM-Solver++(2M) (eq. 18 of
    that paper). The first step, the last one and the first after a rise of the times are of first order.

    Args:
        churn: share of the ancestral noise that each step adds; 0 follows the probability-flow ODE.
        confidence, remask: see :meth:`Process.predict_species`.
    """
    way = Way(process, batch, times, noise, callback)
    for x, t, s, z in way:
        d, way.past = process.extrapolate(x, denoiser(x, t), t, s, way.past)
        way.went(*process.predict(x, d, t, s, z, churn=churn, confidence=confidence, remask=remask))
    return way.end()


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    process: Process,
    batch: CrystalBatch,
    times: Tensor,
    noise: Noise,
    callback: Callback | None = None,
    *,
    confidence: float | None = None,
) -> CrystalBatch:
    """Heun's method on the probability-flow ODE: two network calls per step, one in the last.

    Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), 2022, algorithm 1. The
    slope at the end of a step is taken there with the species of that time, so that it belongs to one joint state.

    Args:
        confidence: see :meth:`Process.predict_species`.
    """
    way = Way(process, batch, times, noise, callback)
    for x, t, s, z in way:
        d = denoiser(x, t)
        ahead, mean = process.predict(x, d, t, s, z, churn=0.0, confidence=confidence)
        if not way.last:
            d_next = denoiser(ahead, s)
            frac, cell = 0.5 * (d.frac_coords + d_next.frac_coords), 0.5 * (d.cell + d_next.cell)
            moved, _ = process.move(x, Scores(frac, cell, d.species_logits), t, s, z, churn=0.0)
            ahead = mean = ahead.replace(frac_coords=moved.frac_coords, cell=moved.cell)
        way.went(ahead, mean)
    return way.end()


@torch.no_grad()
def predictor_corrector(
    denoiser: Denoiser,
    process: Process,
    batch: CrystalBatch,
    times: Tensor,
    noise: Noise,
    callback: Callback | None = None,
    *,
    snr_frac_coords: float = 0.4,
    snr_cell: float = 0.2,
    corrector_every: int = 1,
    remask: float = 0.0,
    noise_scale: float = 1.0,
) -> CrystalBatch:
    """One Langevin corrector, then one ancestral step, per time; two network calls (Song et al. 2021, algorithm 1).

    Step sizes are each crystal's own, so that a crystal does not depend on its neighbours in the batch.

    Args:
        snr_frac_coords, snr_cell: signal-to-noise ratios of the corrector.
        corrector_every: k corrects before every k-th step only, which saves calls.
        remask: corrects the species too: see :meth:`Process.predict_species`.
        noise_scale: factor of the noise of coordinates and cell. Below 1 crystals gather where they are likeliest, as
            at a temperature of its square (Langevin dynamics with drift eps / 2 grad log p and noise of variance
            T eps has the stationary distribution p^(1/T)), at the cost of variety.
    """
    noise = noise if noise_scale == 1.0 else QuietNoise(noise, noise_scale)
    snr = {"snr_frac_coords": snr_frac_coords, "snr_cell": snr_cell}
    way = Way(process, batch, times, noise, callback)
    for x, t, s, z in way:
        if way.step % int(corrector_every) == 0:
            x = process.correct(x, denoiser(x, t), t, s, way.draw(CORRECTOR), batch_mean=False, **snr)
        way.went(*process.predict(x, denoiser(x, t), t, s, z, remask=remask))
    return way.end()


@torch.no_grad()
def published(
    denoiser: Denoiser,
    process: Process,
    batch: CrystalBatch,
    times: Tensor,
    noise: Noise,
    callback: Callback | None = None,
) -> CrystalBatch:
    """The sampler of the MatterGen release: batch-averaged corrector steps, one cell Gaussian per crystal.

    A crystal depends on the batch that it is made in. Its 1,000 levels are ``schedule(1000)``. Cells stay as they are.
    """
    snr = {"snr_frac_coords": 0.4, "snr_cell": 0.2}
    way = Way(process, batch, times, noise, callback)
    for x, t, s, z in way:
        x = process.correct(x, denoiser(x, t), t, s, way.draw(CORRECTOR), batch_mean=True, **snr)
        way.went(*process.predict(x, denoiser(x, t), t, s, z, scalar_cell_noise=True))
    return way.mean


SOLVERS: dict[str, Solver] = {
    "predictor_corrector": predictor_corrector,
    "ancestral": ancestral,
    "multistep": multistep,
    "heun": heun,
    "published": published,
}
"""Solvers by the name that ``--solver`` takes."""

WARPS: dict[str, Warp] = {
    "predictor_corrector": "uniform",
    "ancestral": "uniform",
    "multistep": "cosine",
    "heun": "cosine",
    "published": "uniform",
}
"""The times that each solver is given (:func:`schedule`)."""

NETWORK_CALLS_PER_STEP: dict[str, int] = {
    "predictor_corrector": 2,
    "ancestral": 1,
    "multistep": 1,
    "heun": 2,
    "published": 2,
}
"""Network evaluations of one step of each solver, at most and without guidance."""

SETTINGS: dict[str, dict[str, tuple[float, float]]] = {
    "predictor_corrector": {
        "snr_frac_coords": (0.0, 10.0),
        "snr_cell": (0.0, 10.0),
        "corrector_every": (1.0, 1e6),
        "remask": (0.0, 1.0),
        "noise_scale": (0.0, 2.0),
    },
    "ancestral": {},
    "multistep": {"churn": (0.0, 1.0), "confidence": (0.0, 100.0), "remask": (0.0, 1.0)},
    "heun": {"confidence": (0.0, 100.0)},
    "published": {},
}
"""Lowest and highest value of the settings of each solver."""


def parse_solver(text: str) -> tuple[str, dict[str, float]]:
    """Name and settings of a solver, as in ``predictor_corrector`` or ``multistep,churn=1,remask=1``.

    Raises:
        InputError: if there is no such solver or setting, or the value is out of its range.
    """
    name, *pairs = text.split(",")
    if name not in SOLVERS:
        raise InputError(f"There is no solver named {name!r}; choose one of {', '.join(sorted(SOLVERS))}.")
    settings: dict[str, float] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in SETTINGS[name]:
            known = ", ".join(SETTINGS[name]) or "none"
            raise InputError(f"The solver {name} has no setting {key!r}; it has: {known}.")
        low, high = SETTINGS[name][key]
        try:
            settings[key] = float(value)
        except ValueError:
            settings[key] = math.nan
        if not low <= settings[key] <= high:
            raise InputError(f"{key}={value} of the solver {name} is not a number from {low:g} to {high:g}.")
    return name, settings
