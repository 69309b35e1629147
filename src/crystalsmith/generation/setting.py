"""What a solver is given for some crystals of a request: process, first sample, times, and what steers the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.contracts import Denoiser
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.composition import remask
from crystalsmith.diffusion.constraints import ConstrainedProcess, Given, hold_given
from crystalsmith.diffusion.guidance import bind_conditions, follow_chemical_system
from crystalsmith.diffusion.noise import Noise
from crystalsmith.diffusion.orbit_counts import CountedProcess
from crystalsmith.diffusion.process import Process
from crystalsmith.diffusion.solvers import PRIOR, WARPS, resampled, schedule
from crystalsmith.diffusion.symmetric import SymmetricProcess, Symmetry
from crystalsmith.generation.request import Request

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model


@dataclass(frozen=True)
class Setting:
    """What the solver runs on.

    Attributes:
        process: of the model, constrained where the request has rules.
        first: the sample at the first time.
        times: ``(T,)``.
        given: parts that are kept.
    """

    process: Process
    first: CrystalBatch
    times: Tensor
    given: Given | None

    def steer(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser with everything that is kept held."""
        return denoiser if self.given is None else hold_given(denoiser, self.process, self.given)


def request_times(request: Request, device: torch.device | str = "cpu") -> Tensor:
    """``(T,)``, the times of a request: from 1, or from the level that given crystals are noised to."""
    times = schedule(request.steps, device, kind=WARPS[request.solver])
    start = request.start
    if start is None:
        return times
    if start.strength < 1.0:
        kept = times[times <= start.strength + 1e-6]
        times = kept if len(kept) else times[-1:]
    return resampled(times, start.resample) if start.resample > 1 else times


def num_steps(request: Request) -> int:
    """Steps that a solver takes for a request."""
    return len(request_times(request))


def follow(denoiser: Denoiser, request: Request, indices: Sequence[int], device: torch.device) -> Denoiser:
    """The denoiser guided to the targets of crystals ``indices``; as it is where there are none."""
    targets = request.targets
    if targets is None:
        return denoiser
    for target in targets.targets:
        if target.kind == "elements" and target.guidance > 0:  # away from a system is not outside of it
            denoiser = follow_chemical_system(denoiser, target.name)
    conditions = targets.conditions(request.seed, indices, device)
    return bind_conditions(denoiser, conditions, targets.guidance, targets.interval)


def set_up(
    model: Model, request: Request, indices: Sequence[int], num_atoms: Tensor, noise: Noise, device: torch.device
) -> Setting:
    """The setting of crystals ``indices``, of ``num_atoms (B,)``, on the device of ``noise``."""
    if request.space_groups is not None:
        return _symmetric(model.process, request, indices, num_atoms, noise, device)
    process, start = model.process, request.start
    times, draw = request_times(request, device), noise.at(0, PRIOR)
    sizes, fixed = num_atoms.to(device), torch.zeros(int(num_atoms.sum()), dtype=torch.int64, device=device)
    given = None
    if start is not None and start.holds:
        given = start.given(indices, num_atoms).to(device)
        fixed = given.numbers
    if start is not None and start.strength < 1.0:
        clean = start.batch(indices, num_atoms).to(device)
        clean = clean.replace(cell=symmetric_polar(clean.cell))
        first = process.corrupt(clean, times[:1].expand(len(indices)), draw)
    else:
        known = None if process.corrupts_species else _elements(request, fixed, indices, num_atoms)
        first = process.prior(sizes, draw, known)
    bounds = request.bounds(indices, num_atoms) if process.corrupts_species else None
    if bounds is None:
        return Setting(process, first, times, given)
    if start is not None:
        first = remask(bounds, first.to("cpu"), fixed.cpu()).to(device)
    return Setting(ConstrainedProcess(process.config, bounds.to(device), fixed), first, times, given)


def _symmetric(
    process: Process, request: Request, indices: Sequence[int], num_atoms: Tensor, noise: Noise, device: torch.device
) -> Setting:
    """The setting of crystals that keep their space groups; rules on elements hold for orbits."""
    chosen = request.arrangements(indices)
    symmetry = Symmetry.collate([one.sites for one in chosen]).to(device)
    base, known = process, None
    if not process.corrupts_species:
        known = torch.tensor([z for one in chosen for z in one.numbers()], device=device)
    elif all(one.counts for one in chosen):
        sizes = torch.tensor([size for one in chosen for size in one.sizes])
        base = CountedProcess(process.config, sizes, [one.counts for one in chosen])
    elif request.rules is not None:
        orbits = torch.tensor([len(one.sizes) for one in chosen])
        free = torch.zeros(int(orbits.sum()), dtype=torch.int64, device=device)
        base = ConstrainedProcess(process.config, request.rules.bounds(orbits).to(device), free)
    restricted = SymmetricProcess(base, symmetry)
    first = restricted.prior(num_atoms.to(device), noise.at(0, PRIOR), known)
    return Setting(restricted, first, request_times(request, device), None)


def _elements(request: Request, fixed: Tensor, indices: Sequence[int], num_atoms: Tensor) -> Tensor:
    """The elements that structure prediction is given: those of the crystals to start from, or the formula's."""
    if bool((fixed > 0).all()) and request.start is not None:
        return fixed
    return request.numbers(indices, num_atoms).to(fixed.device)
