"""Laws of batches: every row once per epoch, the same for any number of devices, limits kept, nothing random twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crystalsmith.training.batching import (
    draw_species_times,
    draw_times,
    epoch_batches,
    fixed_times,
    micro_batches,
    shard,
)
from crystalsmith.training.config import DataSettings
from crystalsmith.training.loader import StepSource, validation_passes

SIZES = np.random.default_rng(0).integers(1, 21, 1003)


@pytest.mark.parametrize("bucket_batches", [1, 3, 1000])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 5000])
def test_each_row_stands_in_one_batch_of_each_epoch(batch_size: int, bucket_batches: int) -> None:
    batches = epoch_batches(SIZES, batch_size, seed=3, epoch=2, bucket_batches=bucket_batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(SIZES)))
    counts = {len(batch) for batch in batches}
    assert max(counts) <= batch_size
    assert max(counts) - min(counts) <= 1


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    first = [batch.tolist() for batch in epoch_batches(SIZES, 64, 1, 0)]
    assert first == [batch.tolist() for batch in epoch_batches(SIZES, 64, 1, 0)]
    assert first != [batch.tolist() for batch in epoch_batches(SIZES, 64, 1, 1)]
    assert first != [batch.tolist() for batch in epoch_batches(SIZES, 64, 2, 0)]


def test_buckets_make_sizes_alike() -> None:
    def spread(bucket_batches: int) -> float:
        return float(np.mean([np.ptp(SIZES[b]) for b in epoch_batches(SIZES, 32, 0, 0, bucket_batches)]))

    assert spread(8) < 0.4 * spread(1)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_devices_share_a_batch_without_overlap_and_evenly(world_size: int) -> None:
    sizes = np.sort(SIZES[:65])[::-1]
    shares = [np.arange(65)[shard(65, rank, world_size)] for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(65))
    atoms = [int(sizes[share].sum()) for share in shares]
    assert max(atoms) - min(atoms) <= 20  # at most the largest crystal


@pytest.mark.parametrize(("max_crystals", "max_atoms"), [(None, None), (5, None), (None, 40), (5, 40), (None, 3)])
def test_micro_batches_keep_their_limits_and_lose_nothing(max_crystals: int | None, max_atoms: int | None) -> None:
    sizes = np.sort(SIZES[:64])[::-1]
    parts = [sizes[cut] for cut in micro_batches(sizes, max_crystals, max_atoms)]
    assert np.concatenate(parts).tolist() == sizes.tolist()
    for part in parts:
        assert len(part) >= 1
        assert max_crystals is None or len(part) <= max_crystals
        assert max_atoms is None or part.sum() <= max_atoms or len(part) == 1


def test_stratified_times_fill_every_part_once() -> None:
    times = draw_times(64, seed=0, step=5, stratified=True)
    assert sorted((times.astype(float) * 64).astype(int).tolist()) == list(range(64))
    assert times.tolist() != draw_times(64, seed=0, step=6, stratified=True).tolist()


@pytest.mark.parametrize("stratified", [True, False])
def test_times_are_uniform(stratified: bool) -> None:
    times = np.concatenate([draw_times(50, 0, step, stratified) for step in range(400)])
    assert times.min() >= 1e-5
    assert times.max() <= 1
    assert np.abs(np.histogram(times, 10, (0, 1))[0] / 2000 - 1).max() < 0.1


def test_validation_times_are_evenly_spread() -> None:
    gaps = np.diff(np.sort(fixed_times(1000)))
    assert gaps.max() < 3.0 / 1000


class Numbered:
    """A data set that gives back the rows it was asked for."""

    def __init__(self, sizes: np.ndarray) -> None:
        self.num_atoms = sizes

    def batch(self, rows: Any) -> Any:
        return None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_are_the_same_for_any_number_of_devices_and_any_start(num_workers: int) -> None:
    settings = DataSettings(batch_size=16, micro_batch_size=3, num_workers=num_workers)
    rows = np.arange(10, 110)

    def steps(rank: int, world: int, first: int, count: int) -> list[dict[int, float]]:
        source = StepSource(Numbered(SIZES), rows, settings, seed=4, rank=rank, world_size=world)
        iterator = source.iterate(first)
        found = []
        for _ in range(count):
            step = next(iterator)
            found.append({int(r): float(t) for one in step.passes for r, t in zip(one.rows, one.t, strict=True)})
        iterator.close()  # type: ignore[attr-defined]
        return found

    alone = steps(0, 1, 0, 10)
    assert alone[5:] == steps(0, 1, 5, 5)
    for index, (a, b) in enumerate(zip(steps(0, 2, 0, 10), steps(1, 2, 0, 10), strict=True)):
        assert a | b == alone[index]
        assert not set(a) & set(b)


def test_a_device_without_a_crystal_carries_one_of_weight_zero() -> None:
    source = StepSource(Numbered(SIZES), np.arange(3), DataSettings(batch_size=8), 0, rank=3, world_size=4)
    step = source.step(0)
    assert [one.weight for one in step.passes] == [0.0]
    assert step.batch_size == 3


def test_validation_passes_cover_the_choice_once_for_any_number_of_devices() -> None:
    data, rows = Numbered(SIZES), np.arange(100, 400)

    def all_of(world: int) -> dict[int, float]:
        found: dict[int, float] = {}
        for rank in range(world):
            for chosen, times in validation_passes(data, rows, 50, 8, rank, world):
                assert len(chosen) <= 8
                found |= dict(zip(chosen.tolist(), times.tolist(), strict=True))
        return found

    assert len(all_of(1)) == 50
    assert all_of(1) == all_of(3)
    assert set(all_of(1)) <= set(rows.tolist())


def test_half_of_the_free_elements_are_known_and_the_rest_stand_anywhere() -> None:
    times = draw_times(4000, 1, 5, stratified=True)
    own = draw_species_times(times, 1, 5, 0.5)
    apart = own != times
    assert abs(apart.mean() - 0.5) < 0.04
    assert abs((own == 0).mean() - 0.25) < 0.03
    rest = own[apart & (own > 0)]
    assert abs(np.corrcoef(rest, times[apart & (own > 0)])[0, 1]) < 0.1
    assert abs(rest.mean() - 0.5) < 0.03
    assert np.array_equal(draw_species_times(times, 1, 5, 0.0), times)
    assert np.array_equal(draw_species_times(times, 1, 5, 0.5), own)
