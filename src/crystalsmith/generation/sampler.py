"""From a request and a model to finished batches of crystals."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.diffusion.guidance import allow_elements, prefer_elements, sharpen_species
from crystalsmith.diffusion.solvers import SOLVERS
from crystalsmith.errors import InputError
from crystalsmith.generation.choosing import Make, Misfit, chosen
from crystalsmith.generation.describe import Crystal
from crystalsmith.generation.device import host_of, is_out_of_memory
from crystalsmith.generation.misfit import misfits
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.progress import Reporter
from crystalsmith.generation.request import Request
from crystalsmith.generation.sampling import Sampling
from crystalsmith.generation.setting import follow, noise_of, set_up
from crystalsmith.generation.trajectory import Recorder
from crystalsmith.network.hosted import HostedDenoiser

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

Callback = Callable[[int, CrystalBatch, CrystalBatch], None]
"""Called after each step with (step, sample, mean); step -1 is the prior."""


@dataclass(frozen=True)
class FinishedBatch:
    """The crystals of some plans, on the CPU, with what making them took.

    Attributes:
        plans: of the crystals, their indices one after another.
        batch: the crystals.
        batch_size: the size in force, smaller than the one asked for after memory ran out.
        seconds: wall time of the sampling.
        recorder: the kept steps, if trajectories were asked for.
    """

    plans: list[Plan]
    batch: CrystalBatch
    batch_size: int
    seconds: float
    recorder: Recorder | None

    @property
    def stop(self) -> int:
        """Index after the last crystal."""
        return self.plans[-1].index + 1


def finished_batches(
    model: Model,
    request: Request,
    device: torch.device,
    reporter: Reporter,
    *,
    span: range | None = None,
    done: int = 0,
    batch_size: int = 16,
    trajectories: bool = False,
    compiled: bool = False,
) -> Generator[FinishedBatch, None, None]:
    """The crystals of a request, batch by batch; out of memory, a batch is halved and tried again.

    Args:
        span: which crystals, all if None.
        done: how many of these there are already.
        trajectories, compiled: see :class:`Maker`.

    Raises:
        InputError: if memory does not suffice for a single crystal.
    """
    span = range(request.num) if span is None else span
    left = span[done:]
    maker = Maker(model, request, device, reporter, left, batch_size, trajectories, compiled)
    while left:
        for made in maker.make(request.plans(left[: maker.batch_size]), len(span) - len(left)):
            yield made
            left = left[len(made.plans) :]


class Maker:
    """A model on a device, which makes batches and remembers how large they may be.

    Args:
        model, request: what makes the crystals, and how.
        device: where.
        reporter: hears of the steps.
        span: all crystals that it may be asked for.
        batch_size: most crystals at once; halved when memory runs out.
        trajectories: keep steps of each crystal.
        compiled: pad all batches to one size, for which ``torch.compile`` compiles the network once.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        device: torch.device,
        reporter: Reporter,
        span: range,
        batch_size: int,
        trajectories: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model, self.request, self.device, self.reporter = model, request, device, reporter
        self.span, self.batch_size, self.trajectories, self.compiled = span, batch_size, trajectories, compiled
        self.sampling = request.sampling
        self.steps = self.sampling.num_steps
        model.network.to(device).eval()
        self.denoiser = self._denoiser()

    def make(self, plans: list[Plan], done: int = 0) -> Generator[FinishedBatch, None, None]:
        """The crystals of some plans, in one batch where memory allows.

        Args:
            plans: of at most as many crystals as a batch has.
            done: crystals that stood before, for the reporter.

        Raises:
            InputError: if memory does not suffice for a single crystal.
        """
        while plans:
            some = plans[: self.batch_size]
            recorder = Recorder(self.steps) if self.trajectories else None
            began = time.perf_counter()
            callback = _callback(self.reporter, recorder, done, len(some), self.steps)
            make = partial(
                _try_batch, self.model, self.sampling, device=self.device, callback=callback, denoiser=self.denoiser
            )
            found = _chosen(self.request, some, make, self._misfit)
            if found is None:
                self._halve(some)
                continue
            yield FinishedBatch(*found, self.batch_size, time.perf_counter() - began, recorder)
            plans, done = plans[len(some) :], done + len(some)

    def _misfit(self, plans: Sequence[Plan], crystals: CrystalBatch) -> list[float]:
        denoiser = self.denoiser
        if self.sampling.precision == "bf16":
            denoiser = _autocast(denoiser, host_of(self.device))
        return misfits(self.model, self.sampling, plans, crystals, self.device, denoiser)

    def _halve(self, plans: Sequence[Plan]) -> None:
        self.batch_size = _halved(plans)
        self.reporter.message(f"Out of memory: going on with {self.batch_size} crystals at a time.")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        self.denoiser = self._denoiser()

    def _denoiser(self) -> Denoiser:
        if not self.compiled:
            return denoiser_on(self.model, self.device)
        if self.device.type == "mps":
            raise InputError("--compile does not run on mps; leave it out.")
        return _compiled(self.model, self.request, self.span, self.batch_size)


def denoiser_on(model: Model, device: torch.device) -> Denoiser:
    """The model's denoiser for tensors of :func:`host_of` its device."""
    if host_of(device) == device:
        return model.denoiser
    return model.process.precondition(HostedDenoiser(model.network, device))


def sample_batch(
    model: Model,
    sampling: Sampling,
    plans: Sequence[Plan],
    device: torch.device,
    callback: Callback | None = None,
    denoiser: Denoiser | None = None,
) -> CrystalBatch:
    """The crystals of some plans of one request, on the CPU, coordinates wrapped and cells right-handed.

    Every crystal is a function of (model, sampling, its plan) alone, up to the rounding of sums whose order depends on
    the batch; only the solver ``published``, which averages over the batch, is an exception. A crystal for which the
    network returned a number that is not finite comes back as NaN, without harm to the others. ``denoiser`` stands in
    for the model's own, which it must equal.
    """
    denoiser, device = denoiser or denoiser_on(model, device), host_of(device)
    noise = noise_of(plans, device)
    if sampling.precision == "bf16":
        denoiser = _autocast(denoiser, device)
    guided = follow(denoiser, model, sampling, plans, device)
    watch = _FiniteScores(prefer_elements(sharpen_species(guided, sampling.temperature), sampling.prefer))
    with torch.no_grad():
        setting = set_up(model.process, sampling, plans, noise, device)
        if callback is not None:
            callback(-1, setting.first, setting.first)
        steered = setting.steer(allow_elements(watch, model.metadata.elements))
        solver: Callable[..., CrystalBatch] = SOLVERS[sampling.solver]
        result = solver(steered, setting.process, setting.first, setting.times, noise, callback, **sampling.settings)
        if setting.given is not None:
            result = setting.given.impose(result)
    return finish(result, watch.failed)


def finish(batch: CrystalBatch, failed: Tensor | None = None) -> CrystalBatch:
    """The batch on the CPU: coordinates in [0, 1), left-handed cells inverted (which keeps every distance).

    Args:
        batch: as a solver returns it.
        failed: ``(B,)`` bool, crystals to set to NaN.
    """
    batch = batch.to("cpu", torch.float32)
    left = torch.linalg.det(batch.cell) < 0
    cell = torch.where(left[:, None, None], -batch.cell, batch.cell)
    if failed is not None:
        cell = cell.masked_fill(failed.cpu()[:, None, None], torch.nan)
    return batch.replace(frac_coords=wrap(batch.frac_coords), cell=cell)


def crystals_of(batch: CrystalBatch, plans: Sequence[Plan], elements: Sequence[int]) -> list[Crystal]:
    """The crystals of a finished batch as plain arrays, each with what its plan asked."""
    allowed = frozenset(elements)
    return [
        Crystal(plan.seed, plan.index, frac, cell, numbers.astype(np.int64), allowed, plan.columns())
        for plan, (frac, cell, numbers) in zip(plans, batch.crystals(), strict=True)
    ]


_LARGEST = 1e15


class _FiniteScores:
    """A denoiser that turns scores that are not finite into zeros and remembers whose they were.

    One such crystal would otherwise end its whole batch, for matrix decompositions refuse NaN.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.failed: Tensor | None = None

    def __call__(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        scores = self.denoiser(batch, t, conditions)
        fields = scores.frac_coords, scores.cell, scores.species_logits
        # Not finite, or so large that the next steps would overflow.
        atoms, crystals, species = (((field.abs() < _LARGEST).flatten(1).all(-1)) for field in fields)
        bad = (~crystals).int().index_add(0, batch.batch_index, (~(atoms & species)).int()) > 0
        self.failed = bad if self.failed is None else self.failed | bad
        return Scores(*(torch.where(field.abs() < _LARGEST, field, 0.0) for field in fields))


def _autocast(denoiser: Denoiser, device: torch.device) -> Denoiser:
    def in_bf16(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        with torch.autocast(device.type, torch.bfloat16):
            scores = denoiser(batch, t, conditions)
        dtype = batch.cell.dtype
        return Scores(scores.frac_coords.to(dtype), scores.cell.to(dtype), scores.species_logits.to(dtype))

    return in_bf16


def _chosen(request: Request, plans: list[Plan], make: Make, misfit: Misfit) -> tuple[list[Plan], CrystalBatch] | None:
    """The plans with their crystals, chosen among several proposals where the request says so."""
    if request.choosing is not None:
        return chosen(plans, request.plan, make, misfit, request.choosing)
    batch = make(plans)
    return None if batch is None else (plans, batch)


def _try_batch(
    model: Model,
    sampling: Sampling,
    plans: Sequence[Plan],
    device: torch.device,
    callback: Callback,
    denoiser: Denoiser,
) -> CrystalBatch | None:
    """A finished batch, or None where memory ran out."""
    try:
        return sample_batch(model, sampling, plans, device, callback, denoiser)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the except clause, so that the traceback no longer holds the tensors of the failed attempt.
    gc.collect()
    return None


def _compiled(model: Model, request: Request, span: range, batch_size: int) -> Denoiser:
    """The model's denoiser at one padded size that holds every batch of the crystals of ``span``."""
    from crystalsmith.network.denoiser import GemNetDenoiser
    from crystalsmith.network.static import StaticDenoiser

    if not isinstance(model.network, GemNetDenoiser):
        raise InputError("Only GemNet models can be compiled; leave out --compile.")
    crystals = batch_size + 1  # one crystal at least is padding
    atoms = 0
    for first in range(0, len(span), batch_size):
        plans = request.plans(span[first : first + batch_size])
        atoms = max(atoms, sum(plan.num_atoms for plan in plans) + crystals - len(plans))
    return model.process.precondition(StaticDenoiser(model.network, atoms, crystals))


def _halved(plans: Sequence[Plan]) -> int:
    if len(plans) > 1:
        return len(plans) // 2
    raise InputError(
        f"Memory does not suffice for crystal {plans[0].index}, of {plans[0].num_atoms} atoms, even alone; "
        "use a smaller --num-atoms, another --device or a smaller --model."
    )


def _callback(reporter: Reporter, recorder: Recorder | None, done: int, size: int, steps: int) -> Callback:
    def callback(step: int, batch: CrystalBatch, mean: CrystalBatch) -> None:
        if recorder is not None:
            recorder(step, batch, mean)
        reporter.step(done, size, step + 1, steps)

    return callback
