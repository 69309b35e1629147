"""Preparation of a large set: a synthetic Parquet file of 600,000 crystals, its rate and the memory of all processes.

    python benchmarks/prepare_600k.py [--rows 60000] [--jobs 2] [--folder DIR]

The crystals are random (2 to 20 atoms, sheared cells, a third of them doubled along one axis so that the primitive cell
has work to do); the file is written in pieces, so the benchmark itself needs little memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.prepare import prepare
from crystalsmith.elements import ALLOWED

PIECE = 10_000


def crystals(rows: int, rng: np.random.Generator) -> Iterator[tuple[list[float], list[float], list[int]]]:
    """Lattice, fractional coordinates and atomic numbers of random crystals on a jittered grid."""
    elements = np.array(sorted(ALLOWED))
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3, indexing="ij"), -1).reshape(-1, 3)
    for _ in range(rows):
        n = int(rng.integers(2, 21))
        doubled = n <= 10 and rng.random() < 0.67
        cell = np.cbrt(18.0 * n) * (np.eye(3) + 0.15 * rng.normal(size=(3, 3)))
        frac = grid[rng.permutation(27)[:n]] + 0.05 * rng.random((n, 3))
        numbers = rng.choice(elements[rng.integers(len(elements), size=3)], n)
        if doubled:
            cell = cell * [[2.0], [1.0], [1.0]]
            frac = np.concatenate([frac * [0.5, 1, 1], frac * [0.5, 1, 1] + [0.5, 0, 0]])
            numbers = np.tile(numbers, 2)
        yield cell.reshape(-1).tolist(), frac.reshape(-1).tolist(), numbers.tolist()


def write_input(path: Path, rows: int) -> None:
    """Write the synthetic Parquet file piece by piece."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("material_id", pa.string()),
            ("lattice", pa.list_(pa.float32())),
            ("frac", pa.list_(pa.float32())),
            ("Z", pa.list_(pa.uint8())),
            ("band_gap", pa.float32()),
            ("e_above_hull", pa.float32()),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, PIECE):
            count = min(PIECE, rows - start)
            lattice, frac, numbers = zip(*crystals(count, rng), strict=True)
            ids = [f"syn-{start + k}" for k in range(count)]
            labels = [rng.exponential(1.0, count), rng.exponential(0.03, count)]
            writer.write_table(pa.table([ids, lattice, frac, numbers, *labels], schema=schema))


class Watch:
    """The most memory that this process and its children held together, sampled ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.1):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    # Proportional set size: pages that processes share count once.
                    total += process.memory_full_info().pss
                except (psutil.Error, AttributeError):
                    continue
            self.peak = max(self.peak, total)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    """Write, prepare, open, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="keep the files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"synthetic_{options.rows}.parquet"
        if not source.exists():
            write_input(source, options.rows)
        with Watch() as watch:
            start = time.perf_counter()
            manifest = prepare(source, folder / "prepared", jobs=options.jobs, overwrite=True)
            seconds = time.perf_counter() - start
        start = time.perf_counter()
        data = CrystalDataset.open(folder / "prepared")
        opened = time.perf_counter() - start
        size = sum(f.stat().st_size for f in (folder / "prepared").rglob("*.npy"))
        print(
            json.dumps(
                {
                    "rows": options.rows,
                    "jobs": options.jobs,
                    "kept": len(data),
                    "dropped": manifest["counts"]["dropped"],
                    "folded": manifest["counts"]["folded"],
                    "seconds": round(seconds, 1),
                    "rows_per_second": round(options.rows / seconds),
                    "peak_memory_mb": round(watch.peak / 1e6),
                    "input_mb": round(source.stat().st_size / 1e6),
                    "prepared_mb": round(size / 1e6),
                    "open_ms": round(1000 * opened, 1),
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
