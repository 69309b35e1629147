"""From a prepared data set to the forward passes of each optimiser step, prepared ahead in threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.sites import open_sites
from crystalsmith.diffusion.symmetric import Symmetry
from crystalsmith.training.batching import (
    Rows,
    draw_species_times,
    draw_symmetric,
    draw_times,
    epoch_batches,
    fixed_times,
    micro_batches,
    shard,
    steps_per_epoch,
)
from crystalsmith.training.config import DataSettings


class Crystals(Protocol):
    """What training asks of a data set (see ``data.dataset.CrystalDataset``)."""

    num_atoms: NDArray

    def batch(self, rows: Any) -> CrystalBatch: ...


@dataclass(frozen=True)
class Pass:
    """One forward pass of one device.

    Attributes:
        crystals: the clean crystals, B of them.
        rows: ``(B,)`` int64, their rows in the data set, which name their noise.
        t: ``(B,)`` float32, their times.
        weight: 1, or 0 for a crystal that only keeps an idle device in step.
        conditions: their labels by property.
        symmetry: within which they are noised; None = freely.
        t_species: ``(B,)`` float32, times of their elements; None = those of the geometry.
    """

    crystals: CrystalBatch
    rows: Tensor
    t: Tensor
    weight: float = 1.0
    conditions: dict[str, Tensor] = field(default_factory=dict)
    symmetry: Symmetry | None = None
    t_species: Tensor | None = None

    def to(self, device: torch.device) -> Pass:
        """The pass on a device."""
        labels = {name: value.to(device) for name, value in self.conditions.items()}
        symmetry = None if self.symmetry is None else self.symmetry.to(device)
        t_species = None if self.t_species is None else self.t_species.to(device)
        crystals, rows, t = self.crystals.to(device), self.rows.to(device), self.t.to(device)
        return Pass(crystals, rows, t, self.weight, labels, symmetry, t_species)


@dataclass(frozen=True)
class Step:
    """One optimiser step of one device: its passes, and the crystals of the batch over all devices."""

    index: int
    passes: list[Pass]
    batch_size: int


class StepSource:
    """The steps of a run, each a pure function of (data, settings, seed, step), so a run can resume anywhere.

    Args:
        dataset: a prepared data set.
        rows: ``(R,)`` int64, its training rows.
        settings: batch sizes and buckets.
        seed: of the run.
        rank, world_size: this device among all.
        device: where the passes shall lie.
    """

    def __init__(
        self,
        dataset: Crystals,
        rows: Rows,
        settings: DataSettings,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows, self.settings, self.seed = np.asarray(rows, dtype=np.int64), settings, seed
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self.num_atoms = np.asarray(dataset.num_atoms)[self.rows].astype(np.int64)
        self.labels = getattr(dataset, "conditions", None)
        self.sites = None if settings.symmetric_share == 0 else open_sites(dataset)
        self.dataset: Crystals = DeviceCrystals(dataset, self.rows, self.device) if settings.on_device else dataset
        self.steps_per_epoch = steps_per_epoch(len(self.rows), settings.batch_size)
        self.waited = 0.0
        self._epoch = lru_cache(maxsize=2)(self._cut_epoch)

    def _cut_epoch(self, epoch: int) -> list[Rows]:
        settings = self.settings
        batches = epoch_batches(self.num_atoms, settings.batch_size, self.seed, epoch, settings.bucket_batches)
        # From large to small within the batch: equal shares for the devices, like sizes in each forward pass.
        return [b[np.argsort(-self.num_atoms[b], kind="stable")] for b in batches]

    def step(self, index: int) -> Step:
        """The passes of optimiser step ``index`` (from 0) on this device, on the host or wherever the data lie."""
        epoch, position = divmod(index, self.steps_per_epoch)
        batch = self._epoch(epoch)[position]
        t = draw_times(len(batch), self.seed, index, self.settings.stratified_times)
        share = shard(len(batch), self.rank, self.world_size)
        weight = 1.0
        if len(batch[share]) == 0:  # fewer crystals than devices
            share, weight = slice(0, 1), 0.0
        mine, times = batch[share], t[share]
        settings = self.settings
        cuts = micro_batches(self.num_atoms[mine], settings.micro_batch_size, settings.max_atoms_per_batch)
        passes = [make_pass(self.dataset, self.rows[mine[cut]], times[cut], weight, self.labels) for cut in cuts]
        if self.sites is not None:
            chosen = draw_symmetric(len(batch), self.seed, index, settings.symmetric_share)[share]
            tables = [Symmetry.from_arrays(self.sites.batch(self.rows[mine[cut]], chosen[cut])) for cut in cuts]
            passes = [replace(one, symmetry=table) for one, table in zip(passes, tables, strict=True)]
        if settings.free_elements > 0:
            own = draw_species_times(t, self.seed, index, settings.free_elements)[share]
            passes = [replace(p, t_species=torch.from_numpy(own[c].copy())) for p, c in zip(passes, cuts, strict=True)]
        return Step(index, passes, len(batch))

    def iterate(self, first: int) -> Generator[Step, None, None]:
        """Steps ``first``, ``first + 1``, ... without end, prepared ahead by ``num_workers`` threads.

        ``waited`` adds up the seconds in which the training thread waited for them.
        """
        workers = self.settings.num_workers
        if workers == 0:
            while True:
                started = time.perf_counter()
                step = self.step(first)
                self.waited += time.perf_counter() - started
                yield step
                first += 1
        with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
            ahead: deque[Future[Step]] = deque(pool.submit(self.step, first + k) for k in range(2 * workers))
            try:
                while True:
                    started = time.perf_counter()
                    step = ahead.popleft().result()
                    self.waited += time.perf_counter() - started
                    ahead.append(pool.submit(self.step, step.index + 2 * workers))
                    yield step
            finally:
                for future in ahead:
                    future.cancel()


Labels = Callable[[Rows], dict[str, Tensor]]
"""Rows of a data set -> conditions, as ``labels.Labelled.conditions``."""


def make_pass(
    dataset: Crystals, rows: Rows, times: NDArray[np.float32], weight: float = 1.0, labels: Labels | None = None
) -> Pass:
    """The pass of some data set rows at given times."""
    index, t = torch.from_numpy(rows.copy()), torch.from_numpy(times.copy())
    return Pass(dataset.batch(rows), index, t, weight, labels(rows) if labels is not None else {})


def spread(rows: Rows, most: int | None) -> Rows:
    """At most so many of the rows, evenly spaced; None = all."""
    if most is None or len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def validation_passes(
    dataset: Crystals, rows: Rows, max_crystals: int | None, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[tuple[Rows, NDArray[np.float32]]]:
    """Rows and times of each validation pass of one device: evenly spaced rows at a fixed grid of times."""
    rows = spread(np.asarray(rows, dtype=np.int64), max_crystals)
    times = fixed_times(len(rows))
    order = np.argsort(-np.asarray(dataset.num_atoms)[rows].astype(np.int64), kind="stable")
    order = order[shard(len(order), rank, world_size)]
    cuts = micro_batches(np.ones(len(order)), batch_size, None)
    return [(rows[order[cut]], times[order[cut]]) for cut in cuts]


class DeviceCrystals:
    """Some rows of a data set held on a device; batches are gathered there."""

    def __init__(self, dataset: Crystals, rows: Rows, device: torch.device) -> None:
        everything = dataset.batch(rows).to(device)
        self.frac_coords, self.cell = everything.frac_coords, everything.cell
        self.atomic_numbers, self.sizes = everything.atomic_numbers, everything.num_atoms
        self.starts = torch.cumsum(self.sizes, 0) - self.sizes
        self.num_atoms = dataset.num_atoms
        self.position = np.full(int(rows.max()) + 1 if len(rows) else 0, -1, dtype=np.int64)
        self.position[rows] = np.arange(len(rows))

    def batch(self, rows: Rows) -> CrystalBatch:
        """The crystals of these data set rows, in order."""
        device, total = self.cell.device, int(np.asarray(self.num_atoms)[rows].astype(np.int64).sum())
        chosen = torch.from_numpy(self.position[rows]).to(device)
        sizes = self.sizes[chosen]
        first = self.starts[chosen] - (torch.cumsum(sizes, 0) - sizes)
        atoms = torch.arange(total, device=device) + torch.repeat_interleave(first, sizes, output_size=total)
        return CrystalBatch(self.frac_coords[atoms], self.cell[chosen], self.atomic_numbers[atoms], sizes)
