"""How far one writing process reaches: the scheduler on imaginary workers, and the files of a long run.

    python benchmarks/scaling.py schedule                 # efficiency and the driver's load, 1 to 512 workers
    python benchmarks/scaling.py schedule --seconds 30    # tasks of another mean length
    python benchmarks/scaling.py folder                   # seconds and memory per crystal at 1k, 10k and 100k

``schedule`` runs the real scheduler with imaginary workers, whose clock is moved: a task ends after its length, and the
driver is busy as long as its code really took (processor time, measured around every wait), plus ``--write`` seconds
for what a result costs to write. Lengths are log-normal with the spread of real batches (``--spread``). Efficiency is
the work over workers times the time to the end; what is missing is tasks of unequal length at the end, and waiting for
the driver.

``folder`` commits crystals that were described once to the folder of a run: all that ``generate`` does for a crystal
but sampling and describing it. Each size runs in a process of its own, so that the peak of memory is its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.engine.schedule import DONE, READY, Event, schedule

WORKERS = (1, 2, 8, 64, 512)
SIZES = (1_000, 10_000, 100_000)
START = 5.0
"""Seconds until an imaginary worker has its model."""


class Imaginary:
    """Workers that do nothing for as long as a task says, on a clock of their own.

    Attributes:
        driver: processor seconds that the caller of the workers has used between waits.
    """

    deaths = 3

    def __init__(self, workers: int) -> None:
        self.workers, self.clock, self.driver = workers, 0.0, 0.0
        self._events: list[tuple[float, int, str]] = []
        self._names = 0
        self._mark = time.process_time()

    def _busy(self) -> None:
        """Move the clock by what the driver has really used since the last look."""
        now = time.process_time()
        self.clock += now - self._mark
        self.driver += now - self._mark
        self._mark = now

    def capacity(self) -> int:
        """As many as there are."""
        return self.workers

    def start(self) -> Hashable:
        """One that is ready after :data:`START`."""
        self._names += 1
        heapq.heappush(self._events, (self.clock + START, self._names, READY))
        return self._names

    def send(self, worker: Any, task: float) -> None:
        """Work for ``task`` seconds."""
        self._busy()
        heapq.heappush(self._events, (self.clock + task, worker, DONE))

    def wait(self, workers: Sequence[Hashable], seconds: float) -> list[Event]:
        """Sleep until something happens; then whatever has happened by then."""
        self._busy()
        if self._events:
            self.clock = max(self.clock, min(self._events[0][0], self.clock + seconds))
        events: list[Event] = []
        while self._events and self._events[0][0] <= self.clock:
            _, worker, what = heapq.heappop(self._events)
            events.append((worker, what, None))
        self._mark = time.process_time()
        return events

    def stop(self, worker: Hashable, at_once: bool) -> None:
        """Nothing to end."""

    def now(self) -> float:
        """Seconds of the imaginary clock."""
        return self.clock


def imagine(workers: int, lengths: Sequence[float], ordered: bool, write: float) -> tuple[float, float]:
    """Efficiency without the start of the workers, and processor seconds of the driver for a task."""
    backend = Imaginary(workers)
    for _ in schedule(backend, iter(lengths), ordered=ordered, time_limit=None, tries=1):
        backend.clock += write
    return sum(lengths) / (workers * (backend.clock - START)), backend.driver / len(lengths)


def schedules(args: argparse.Namespace) -> None:
    """A row for each number of workers."""
    rng = np.random.default_rng(0)
    print(f"tasks of {args.seconds:g} s, spread {args.spread:g}, {args.write * 1e3:g} ms to write one")
    print("| workers | tasks | efficiency as they come | in order | driver, ms a task | results a second |")
    print("|---" * 6 + "|")
    for workers in WORKERS:
        count = max(200, args.each * workers)
        lengths = rng.lognormal(-(args.spread**2) / 2, args.spread, count) * args.seconds
        free, driver = imagine(workers, lengths.tolist(), False, args.write)
        ordered, _ = imagine(workers, lengths.tolist(), True, args.write)
        rate = free * workers / args.seconds
        print(f"| {workers} | {count} | {free:.3f} | {ordered:.3f} | {driver * 1e3:.3f} | {rate:.1f} |", flush=True)


def folders(args: argparse.Namespace) -> None:
    """A row for each size, each in a process of its own."""
    print("| crystals | ms a crystal | of the last tenth | peak memory, MB | files |")
    print("|---" * 5 + "|")
    for size in args.sizes or SIZES:
        subprocess.run([sys.executable, __file__, "one", str(size), "--batch-size", str(args.batch_size)], check=True)


def one(args: argparse.Namespace) -> None:
    """Commit so many crystals to a folder."""
    import psutil
    import torch

    from crystalsmith.checkpoints.find import load_model
    from crystalsmith.crystals import CrystalBatch
    from crystalsmith.generation.describe import describe
    from crystalsmith.generation.folder import OutputFolder
    from crystalsmith.generation.making import make_request
    from crystalsmith.generation.run import CIF_LIMIT
    from crystalsmith.generation.sampler import crystals_of
    from crystalsmith.models import DEFAULT

    model = load_model(DEFAULT)
    request = make_request(model, num=args.size, seed=0, steps=2)
    cif = args.size <= CIF_LIMIT
    plans = request.plans(range(args.batch_size))
    num_atoms = torch.tensor([plan.num_atoms for plan in plans])
    total = int(num_atoms.sum())
    torch.manual_seed(0)
    cell = torch.eye(3) * (15.0 * num_atoms[:, None, None]) ** (1 / 3)
    batch = CrystalBatch(torch.rand(total, 3), cell, torch.randint(3, 50, (total,)), num_atoms)
    described = [describe(crystal, cif) for crystal in crystals_of(batch, plans, model.metadata.elements)]
    settings = request.to_dict() | {"batch_size": args.batch_size, "trajectories": False, "cif": cif}
    facts = {"model": {"name": "m", "source": "m", "weights_sha256": "0"}, "settings": settings}
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as place:
        folder = OutputFolder.create(Path(place) / "out", facts | {"columns": request.columns})
        began, last, peak = time.perf_counter(), 0.0, 0
        for start in range(0, args.size, args.batch_size):
            if not last and start >= 0.9 * args.size:
                last, from_here = time.perf_counter(), start
            stop = min(start + args.batch_size, args.size)
            folder.commit(stop, [_moved(d, i) for i, d in zip(range(start, stop), described, strict=False)], 1.0)
            peak = max(peak, process.memory_info().rss)
        now = time.perf_counter()
        files = sum(1 for path in Path(place).rglob("*") if path.is_file())
    each, end = (now - began) / args.size * 1e3, (now - last) / (args.size - from_here) * 1e3
    print(f"| {args.size} | {each:.3f} | {end:.3f} | {peak / 2**20:.0f} | {files} |", flush=True)


def _moved(described: Any, index: int) -> Any:
    """The same crystal under another number."""
    before, name = described.row["id"], f"{described.row['id'].rpartition('-')[0]}-{index:06d}"
    file = described.row["file"]  # None where there is no CIF
    row = described.row | {"id": name, "index": index, "file": file and file.replace(before, name)}
    frame = None if described.frame is None else described.frame.replace(before, name)
    return dataclasses.replace(described, row=row, frame=frame)


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("schedule")
    command.add_argument("--seconds", type=float, default=10.0, help="mean length of a task")
    command.add_argument("--spread", type=float, default=0.5, help="standard deviation of the logarithm of a length")
    command.add_argument("--write", type=float, default=0.0, help="seconds to write a result")
    command.add_argument("--each", type=int, default=40, help="tasks of a worker")
    command.set_defaults(call=schedules)
    command = commands.add_parser("folder")
    command.add_argument("sizes", type=int, nargs="*")
    command.add_argument("--batch-size", type=int, default=32)
    command.set_defaults(call=folders)
    command = commands.add_parser("one")
    command.add_argument("size", type=int)
    command.add_argument("--batch-size", type=int, default=32)
    command.set_defaults(call=one)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
