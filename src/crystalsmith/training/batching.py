"""Which crystals meet in which batch: pure functions of (sizes, seed, epoch, step).

The batches of an epoch do not depend on the number of devices; a device takes its share of each. Each training row
stands in exactly one batch of each epoch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_ORDER, _TIMES, _SYMMETRY, _APART = 0, 1, 2, 3  # what a random generator is for


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Number of batches in one epoch."""
    return math.ceil(num_rows / batch_size)


def epoch_batches(num_atoms: NDArray, batch_size: int, seed: int, epoch: int, bucket_batches: int = 1) -> list[Rows]:
    """Positions 0..R-1 of one epoch in batches of nearly equal size, at most ``batch_size``.

    Args:
        num_atoms: ``(R,)``, atoms of each crystal.
        batch_size: most crystals per batch; sizes differ by at most one, so that no step rests on a small remainder.
        seed: of the run.
        epoch: from 0.
        bucket_batches: a shuffled pool of this many batches is sorted by number of atoms before it is cut, and the
            batches are shuffled again; within a batch crystals stand from large to small.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, _ORDER, epoch])
    order = rng.permutation(len(num_atoms)).astype(np.int64)
    count = steps_per_epoch(len(order), batch_size)
    if count == 0:
        return []
    bounds = np.linspace(0, len(order), count + 1).round().astype(np.int64)
    for first in range(0, count, bucket_batches):
        pool = slice(bounds[first], bounds[min(first + bucket_batches, count)])
        order[pool] = order[pool][np.argsort(-num_atoms[order[pool]].astype(np.int64), kind="stable")]
    batches = [order[low:high] for low, high in pairwise(bounds)]
    if bucket_batches == 1:
        return batches
    return [batches[i] for i in rng.permutation(count)]


def shard(size: int, rank: int, world_size: int) -> slice:
    """The part of a batch, sorted from large to small, that one device takes: every ``world_size``-th crystal."""
    return slice(rank, size, world_size)


def micro_batches(num_atoms: NDArray, max_crystals: int | None, max_atoms: int | None) -> list[slice]:
    """Cut a device's share into forward passes.

    Args:
        num_atoms: ``(R,)``, atoms of each crystal of the share.
        max_crystals: most crystals per pass; None = no limit.
        max_atoms: most atoms per pass; None = no limit. A crystal larger than that goes alone.
    """
    size = len(num_atoms)
    if max_atoms is None:
        parts = 1 if max_crystals is None else math.ceil(size / max_crystals)
        bounds = np.linspace(0, size, parts + 1).round().astype(int).tolist() if size else [0]
        return [slice(low, high) for low, high in pairwise(bounds)]
    slices, start, atoms = [], 0, 0
    for i, n in enumerate(num_atoms.tolist()):
        full = max_crystals is not None and i - start >= max_crystals
        if i > start and (atoms + n > max_atoms or full):
            slices.append(slice(start, i))
            start, atoms = i, 0
        atoms += n
    return [*slices, slice(start, size)] if size else []


def draw_times(size: int, seed: int, step: int, stratified: bool, first: float = 1e-5) -> NDArray[np.float32]:
    """Times ``(size,)`` in (first, 1) of one optimiser step, the same for any split into devices and passes.

    Stratified: one time in each of ``size`` equal parts, in random order, so that every batch sees all noise levels.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, _TIMES, step])
    uniform = rng.random(size)
    if stratified:
        uniform = (rng.permutation(size) + uniform) / size
    return (first + (1.0 - first) * uniform).astype(np.float32)


def draw_symmetric(size: int, seed: int, step: int, share: float) -> NDArray[np.bool_]:
    """Which crystals ``(size,)`` of one optimiser step are noised within their space group."""
    rng = np.random.default_rng([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, _SYMMETRY, step])
    return rng.random(size) < share


def draw_species_times(times: NDArray[np.float32], seed: int, step: int, share: float) -> NDArray[np.float32]:
    """Times ``(size,)`` of the elements of one optimiser step, whose geometry has ``times``.

    A ``share`` of the crystals, drawn anew each step, has elements at a time of their own: half of them at 0 (all
    known, as in structure prediction), half anywhere.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, _APART, step])
    chosen, own = rng.random(len(times)), rng.random(len(times)).astype(np.float32)
    own = np.where(chosen < 0.5 * share, np.float32(0.0), np.maximum(own, np.float32(1e-5)))
    return np.where(chosen < share, own, times)


def fixed_times(size: int, first: float = 1e-5) -> NDArray[np.float32]:
    """Times ``(size,)`` for validation: the golden-ratio sequence, evenly spread for any size and never random."""
    uniform = (np.arange(size) * 0.6180339887498949 + 0.5) % 1.0
    return (first + (1.0 - first) * uniform).astype(np.float32)
