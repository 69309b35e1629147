"""Relaxation of the same crystals by BFGS one at a time and by FIRE in batches: evaluations, seconds, where they end.

    python -m benchmarks.batch_relaxation crystals --limit 64 --sizes 0,16,64,128 --device cuda

Size 0 is one at a time, in this process. Seconds are of the wall and of the process; ``potential`` is the part of the
wall that the potential and the steps took, the rest are displacements (matching) and bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from crystalsmith.evaluation.judge import facts_or_problem
from crystalsmith.evaluation.potential.batch_relaxation import relax_in_batches
from crystalsmith.evaluation.potential.batched import make_batch_potential
from crystalsmith.evaluation.potential.potentials import default_device, find_potential, make_calculator
from crystalsmith.evaluation.potential.relaxation import relax
from crystalsmith.evaluation.potential.relaxed import Relaxation, Relaxed
from crystalsmith.evaluation.structures import read_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path, help="anything that crystalsmith evaluate reads")
    parser.add_argument("--limit", type=int, default=64, help="crystals, of those that are valid")
    parser.add_argument("--sizes", default="0,16,64", help="of the batches")
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tasks = []
    for sample in read_samples(args.structures):
        facts, _ = facts_or_problem(sample.arrays)
        if facts is not None and facts.valid and len(tasks) < args.limit:
            tasks.append((sample.id, "", sample.arrays))
    print(f"{len(tasks)} crystals, {sum(len(t[2][2]) for t in tasks)} atoms, {args.potential} on {args.device}")
    settings, first, rows = Relaxation(args.potential), None, []
    for size in (int(word) for word in args.sizes.split(",")):
        potential = find_potential(args.potential)
        if size:
            batched = make_batch_potential(potential, args.device)
            list(relax_in_batches(tasks[:size], Relaxation(steps=2), batched, size))  # the first calls compile
            wall, cpu = time.perf_counter(), time.process_time()
            done = list(relax_in_batches(tasks, settings, batched, size))
        else:
            calculator = make_calculator(potential, args.device)
            relax(*tasks[0], calculator, Relaxation(steps=2))
            wall, cpu = time.perf_counter(), time.process_time()
            done = [relax(*task, calculator, settings) for task in tasks]
        rows.append(_row(size, done, time.perf_counter() - wall, time.process_time() - cpu, first))
        first = first or {r.id: r for r in done}
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _row(size: int, done: list[Relaxed], wall: float, cpu: float, first: dict[str, Relaxed] | None) -> dict:
    """The figures of one size; energies are compared with those of the first size, in eV/atom."""
    pairs = [(r, (first or {}).get(r.id)) for r in done if r.energy is not None]
    away = [(r.energy - o.energy) / len(r.numbers) for r, o in pairs if o is not None and o.energy is not None]
    return {
        "size": size,
        "converged": sum(not r.failure for r in done),
        "evaluations": sum(r.steps + 1 for r in done),
        "wall": round(wall, 2),
        "cpu": round(cpu, 2),
        "potential": round(sum(r.seconds for r in done), 2) if size else None,
        "energy_median": statistics.median(away) if away else None,
        "energy_lowest": min(away, default=None),
        "energy_highest": max(away, default=None),
        "within_5_mev": sum(abs(a) < 0.005 for a in away),
    }


if __name__ == "__main__":
    main()
