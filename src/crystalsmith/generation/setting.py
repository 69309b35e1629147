"""What a solver is given for the crystals of some plans: process, first sample, and what steers the denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.contracts import Conditions, Denoiser
from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.diffusion.clock import Clock, ClockedProcess
from crystalsmith.diffusion.composition import CountBounds, remask
from crystalsmith.diffusion.constraints import ConstrainedProcess, Given, hold_given
from crystalsmith.diffusion.guidance import bind_conditions, follow_chemical_system
from crystalsmith.diffusion.noise import CrystalNoise, Draw, Noise
from crystalsmith.diffusion.orbit_counts import CountedProcess
from crystalsmith.diffusion.process import Process
from crystalsmith.diffusion.solvers import PRIOR
from crystalsmith.diffusion.symmetric import SymmetricProcess, Symmetry
from crystalsmith.elements import MASK, NUM_CLASSES, SYMBOLS, parse_chemical_system
from crystalsmith.generation.plans.plan import Plan, Start, Value
from crystalsmith.generation.sampling import Sampling
from crystalsmith.symmetry.wyckoff import Sites, free_sites, template_of

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model


@dataclass(frozen=True)
class Setting:
    """What the solver runs on.

    Attributes:
        process: of the model, constrained where the plans have rules.
        first: the sample at the first time.
        times: ``(T,)``.
        given: parts that are kept.
        clock: of the geometry, where it has one of its own.
    """

    process: Process
    first: CrystalBatch
    times: Tensor
    given: Given | None = None
    clock: Clock | None = None

    def steer(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, holding what is given and told the time of the geometry."""
        if self.clock is not None:
            return self.clock.tell(denoiser)
        return denoiser if self.given is None else hold_given(denoiser, self.process, self.given)


def set_up(process: Process, sampling: Sampling, plans: Sequence[Plan], noise: Noise, device: torch.device) -> Setting:
    """The setting of the crystals of some plans, all of one request, on the device of ``noise``."""
    if len({(plan.start is None, plan.arrangement is None, bool(plan.counts)) for plan in plans}) > 1:
        raise ValueError("The plans of a batch must come from one request.")
    times, draw = sampling.times(device), noise.at(0, PRIOR)
    if plans[0].arrangement is not None:
        return _symmetric(process, plans, times, draw)
    if sampling.redecorate:
        return _redecorated(process, sampling, plans, times, draw)
    num_atoms = sizes_of(plans)
    fixed = torch.zeros(int(num_atoms.sum()), dtype=torch.int64, device=device)
    starts = [plan.start for plan in plans if plan.start is not None]
    given = None
    if starts and starts[0].holds:
        given = given_of(starts, num_atoms).to(device)
        fixed = given.numbers
    if starts and sampling.strength < 1.0:
        clean = batch_of(starts, num_atoms).to(device)
        clean = clean.replace(cell=symmetric_polar(clean.cell))
        first = process.corrupt(clean, times[:1].expand(len(plans)), draw)
    else:
        known = None if process.corrupts_species else _elements(plans, fixed)
        first = process.prior(num_atoms.to(device), draw, known)
    bounds = bounds_of(plans, num_atoms) if process.corrupts_species else None
    if bounds is None:
        return Setting(process, first, times, given)
    if starts:
        first = remask(bounds, first.to("cpu"), fixed.cpu()).to(device)
    return Setting(ConstrainedProcess(process.config, bounds.to(device), fixed), first, times, given)


def _symmetric(process: Process, plans: Sequence[Plan], times: Tensor, draw: Draw) -> Setting:
    """The setting of crystals that keep their space groups; rules on elements hold for orbits."""
    device, chosen = times.device, [plan.arrangement for plan in plans if plan.arrangement is not None]
    symmetry = Symmetry.collate([one.sites for one in chosen]).to(device)
    known = None
    if not process.corrupts_species:
        known = torch.tensor([z for one in chosen for z in one.numbers()], device=device)
    held = [z for one in chosen for z in one.held or [0] * len(one.sizes)]
    restricted = SymmetricProcess(_by_orbits(process, plans, [one.sizes for one in chosen], device, held), symmetry)
    return Setting(restricted, restricted.prior(sizes_of(plans).to(device), draw, known), times)


def _by_orbits(
    process: Process,
    plans: Sequence[Plan],
    orbits: Sequence[Sequence[int]],
    device: torch.device,
    held: Sequence[int] = (),
) -> Process:
    """The process with the rules of plans as rules on orbits, whose numbers of atoms are given; some are held."""
    if not process.corrupts_species:
        return process
    if plans[0].counts:
        sizes = torch.tensor([size for one in orbits for size in one])
        return CountedProcess(process.config, sizes, [plan.counts for plan in plans])
    number = torch.tensor([len(one) for one in orbits])
    bounds = bounds_of(plans, number)
    if bounds is None:
        return process
    fixed = torch.tensor(held or [0] * int(number.sum()), dtype=torch.int64, device=device)
    return ConstrainedProcess(process.config, bounds.to(device), fixed)


def _redecorated(process: Process, sampling: Sampling, plans: Sequence[Plan], times: Tensor, draw: Draw) -> Setting:
    """The setting of crystals of known geometry whose elements are drawn anew, in the space groups that they have."""
    device, starts = times.device, [plan.start for plan in plans if plan.start is not None]
    sites = [_sites_of(start) for start in starts]
    symmetry = Symmetry.collate(sites).to(device)
    sizes = [np.unique(one.first, return_counts=True)[1].tolist() for one in sites]
    clock = Clock(sampling.strength)
    clocked = ClockedProcess(SymmetricProcess(_by_orbits(process, plans, sizes, device), symmetry), clock)
    known = batch_of(starts, sizes_of(plans)).to(device)
    known = known.replace(frac_coords=symmetry.place(known.frac_coords), cell=symmetric_polar(known.cell))
    first = clocked.corrupt(known, times[:1].expand(len(plans)), draw)
    return Setting(clocked, first, times, clock=clock)


@lru_cache(maxsize=65536)
def _sites_of(start: Start) -> Sites:
    """The sites of a crystal in its own cell; of no symmetry where none holds together."""
    frac, cell = np.array(start.frac_coords), np.array(start.cell)
    found = template_of(frac, cell, np.array(start.numbers, dtype=np.int64))
    return free_sites(len(start.numbers)) if found is None else found.sites


def follow(
    denoiser: Denoiser, model: Model, sampling: Sampling, plans: Sequence[Plan], device: torch.device
) -> Denoiser:
    """The denoiser guided to the targets of some plans; as it is where there are none."""
    if not sampling.guidance:
        return denoiser
    kinds = {config.name: config.kind for config in model.network.config.conditions}
    for name, factor in sampling.guidance.items():
        if kinds[name] == "elements" and factor > 0:  # away from a system is not outside of it
            denoiser = follow_chemical_system(denoiser, name)
    wanted = [dict(plan.targets) for plan in plans]
    conditions: Conditions = {
        name: _tensor(kinds[name], [one[name] for one in wanted]).to(device) for name in sampling.guidance
    }
    return bind_conditions(denoiser, conditions, sampling.guidance, sampling.interval)


def _tensor(kind: str, values: Sequence[Value]) -> Tensor:
    if kind != "elements":
        return torch.tensor([math.nan if v is None else float(v) for v in values], dtype=torch.float32)
    sets = torch.zeros(len(values), NUM_CLASSES)
    for row, value in enumerate(values):
        if value is not None:
            sets[row, list(parse_chemical_system(str(value)))] = 1.0
    return sets


def sizes_of(plans: Sequence[Plan]) -> Tensor:
    """``(B,)`` int64, the number of atoms of each crystal."""
    return torch.tensor([plan.num_atoms for plan in plans], dtype=torch.int64)


def noise_of(plans: Sequence[Plan], device: torch.device) -> CrystalNoise:
    """The random streams of some plans of one seed."""
    index, attempt = (
        torch.tensor(x, dtype=torch.int64) for x in ([p.index for p in plans], [p.attempt for p in plans])
    )
    return CrystalNoise(plans[0].seed, index.to(device), sizes_of(plans).to(device), attempts=attempt)


def bounds_of(plans: Sequence[Plan], sizes: Tensor) -> CountBounds | None:
    """The counts that the crystals must keep, on the CPU; None where none of them has rules.

    Args:
        sizes: ``(B,)``, atoms or orbits of each, whichever are counted.
    """
    if not any(plan.counts or plan.allowed for plan in plans):
        return None
    low = torch.zeros(len(plans), len(SYMBOLS), dtype=torch.int64)
    high = torch.zeros_like(low)
    for row, (plan, size) in enumerate(zip(plans, sizes.tolist(), strict=True)):
        for z, n in plan.counts:
            low[row, z - 1] = high[row, z - 1] = n
        if not plan.counts:
            high[row, torch.tensor(plan.allowed) - 1] = size
            low[row, torch.tensor(plan.required, dtype=torch.int64) - 1] = 1
    return CountBounds(low, high)


def _elements(plans: Sequence[Plan], fixed: Tensor) -> Tensor:
    """``(N,)``, what structure prediction is given: the elements of the crystals to start from, or of the formula."""
    if bool((fixed > 0).all()):
        return fixed
    return torch.tensor([z for plan in plans for z, n in plan.counts for _ in range(n)], device=fixed.device)


def batch_of(starts: Sequence[Start], num_atoms: Tensor) -> CrystalBatch:
    """The crystals to start from, cells upright; atoms beyond theirs, up to ``num_atoms (B,)``, are masked."""
    arrays = []
    for start, n in zip(starts, num_atoms.tolist(), strict=True):
        more = n - len(start.numbers)
        frac = np.array([*start.frac_coords, *[[0.0] * 3] * more])
        arrays.append((frac, np.array(start.cell), [*start.numbers, *[MASK] * more]))
    return CrystalBatch.from_arrays(arrays)


def given_of(starts: Sequence[Start], num_atoms: Tensor) -> Given:
    """What is kept of the crystals to start from, in crystals of ``num_atoms (B,)``."""
    batch = batch_of(starts, num_atoms)
    first = torch.cumsum(num_atoms, 0) - num_atoms
    sites = torch.zeros(len(batch.frac_coords), dtype=torch.bool)
    for site in starts[0].fix_sites:
        sites[first + site] = True
    held = (sites | starts[0].fix_elements) & (batch.atomic_numbers != MASK)
    numbers = torch.where(held, batch.atomic_numbers, torch.zeros_like(batch.atomic_numbers))
    upright = symmetric_polar(batch.cell)
    return Given(wrap(batch.frac_coords), sites, batch.cell, upright, starts[0].fix_cell, numbers)
