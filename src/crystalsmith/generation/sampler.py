"""From a request and a model to finished batches of crystals."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.diffusion.guidance import allow_elements, sharpen_species
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.solvers import SOLVERS
from crystalsmith.errors import InputError
from crystalsmith.generation.describe import Crystal
from crystalsmith.generation.device import is_out_of_memory
from crystalsmith.generation.progress import Reporter
from crystalsmith.generation.request import Request
from crystalsmith.generation.setting import follow, num_steps, set_up
from crystalsmith.generation.trajectory import Recorder

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

Callback = Callable[[int, CrystalBatch, CrystalBatch], None]
"""Called after each step with (step, sample, mean); step -1 is the prior."""


@dataclass(frozen=True)
class FinishedBatch:
    """Crystals ``start`` to ``stop`` of a request, on the CPU, with what making them took.

    Attributes:
        batch_size: the size in force, smaller than the one asked for after memory ran out.
        seconds: wall time of the sampling.
        recorder: the kept steps, if trajectories were asked for.
    """

    start: int
    stop: int
    batch: CrystalBatch
    batch_size: int
    seconds: float
    recorder: Recorder | None


def finished_batches(
    model: Model,
    request: Request,
    device: torch.device,
    reporter: Reporter,
    *,
    start: int = 0,
    batch_size: int = 16,
    trajectories: bool = False,
    compiled: bool = False,
) -> Iterator[FinishedBatch]:
    """The crystals of a request from ``start`` on, batch by batch; out of memory, a batch is halved and tried again.

    With ``compiled`` all batches are padded to one size, for which ``torch.compile`` compiles the network once.

    Raises:
        InputError: if memory does not suffice for a single crystal.
    """
    model.network.to(device).eval()
    denoiser = _compiled(model, request, start, batch_size) if compiled else model.denoiser
    while start < request.num:
        indices = range(start, min(start + batch_size, request.num))
        steps = num_steps(request)
        recorder = Recorder(steps) if trajectories else None
        began = time.perf_counter()
        callback = _callback(reporter, recorder, indices, steps)
        batch = _try_batch(model, request, indices, device, callback, denoiser)
        if batch is None:
            batch_size = _halved(len(indices), request, start)
            reporter.message(f"Out of memory: going on with {batch_size} crystals at a time.")
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if compiled:
                denoiser = _compiled(model, request, start, batch_size)
            continue
        yield FinishedBatch(start, indices.stop, batch, batch_size, time.perf_counter() - began, recorder)
        start = indices.stop


def sample_batch(
    model: Model,
    request: Request,
    indices: Sequence[int],
    device: torch.device,
    callback: Callback | None = None,
    denoiser: Denoiser | None = None,
) -> CrystalBatch:
    """The crystals ``indices`` of a request, on the CPU, coordinates wrapped and cells right-handed.

    Every crystal is a function of (model, request, its index) alone, up to the rounding of sums whose order depends on
    the batch; only the solver ``published``, which averages over the batch, is an exception. A crystal for which the
    network returned a number that is not finite comes back as NaN, without harm to the others. ``denoiser`` stands in
    for the model's own, which it must equal.
    """
    number = torch.tensor(list(indices), dtype=torch.int64)
    num_atoms = request.sizes(indices)
    noise = CrystalNoise(request.seed, number.to(device), num_atoms.to(device))
    denoiser = denoiser or model.denoiser
    if request.precision == "bf16":
        denoiser = _autocast(denoiser, device)
    watch = _FiniteScores(sharpen_species(follow(denoiser, request, indices, device), request.temperature))
    with torch.no_grad():
        setting = set_up(model, request, indices, num_atoms, noise, device)
        if callback is not None:
            callback(-1, setting.first, setting.first)
        steered = setting.steer(allow_elements(watch, model.metadata.elements))
        solver: Callable[..., CrystalBatch] = SOLVERS[request.solver]
        times, settings = setting.times, request.solver_settings
        result = solver(steered, setting.process, setting.first, times, noise, callback, **settings)
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


def crystals_of(
    batch: CrystalBatch, request: Request, indices: Sequence[int], elements: Sequence[int]
) -> list[Crystal]:
    """The crystals of a finished batch as plain arrays."""
    allowed = frozenset(elements)
    return [
        Crystal(request.seed, index, frac, cell, numbers.astype(np.int64), allowed, facts)
        for index, (frac, cell, numbers), facts in zip(indices, batch.crystals(), request.facts(indices), strict=True)
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


def _try_batch(
    model: Model, request: Request, indices: range, device: torch.device, callback: Callback, denoiser: Denoiser
) -> CrystalBatch | None:
    """A finished batch, or None where memory ran out."""
    try:
        return sample_batch(model, request, indices, device, callback, denoiser)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the except clause, so that the traceback no longer holds the tensors of the failed attempt.
    gc.collect()
    return None


def _compiled(model: Model, request: Request, start: int, batch_size: int) -> Denoiser:
    """The model's denoiser at one padded size that holds every batch from ``start`` on."""
    from crystalsmith.network.denoiser import GemNetDenoiser
    from crystalsmith.network.static import StaticDenoiser

    if not isinstance(model.network, GemNetDenoiser):
        raise InputError("Only GemNet models can be compiled; leave out --compile.")
    crystals = batch_size + 1  # one crystal at least is padding
    atoms = 0
    for first in range(start, request.num, batch_size):
        sizes = request.sizes(range(first, min(first + batch_size, request.num)))
        atoms = max(atoms, int(sizes.sum()) + crystals - len(sizes))
    return model.process.precondition(StaticDenoiser(model.network, atoms, crystals))


def _halved(size: int, request: Request, start: int) -> int:
    if size > 1:
        return size // 2
    atoms = int(request.sizes([start]))
    raise InputError(
        f"Memory does not suffice for crystal {start}, of {atoms} atoms, even alone; "
        "use a smaller --num-atoms, another --device or a smaller --model."
    )


def _callback(reporter: Reporter, recorder: Recorder | None, indices: range, steps: int) -> Callback:
    def callback(step: int, batch: CrystalBatch, mean: CrystalBatch) -> None:
        if recorder is not None:
            recorder(step, batch, mean)
        reporter.step(indices.start, len(indices), step + 1, steps)

    return callback
