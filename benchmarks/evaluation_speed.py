"""How long the parts of an evaluation take, beside doing the same without an index.

    python benchmarks/evaluation_speed.py structures.extxyz refs/mp20 --num 500

Prints seconds (processor time of one process) and the peak memory so far for: opening the reference, hull distances,
grouping and matching the structures against it, the report, and the plain loop of pymatgen's matcher over a sample of
the same pairs, scaled to all pairs of equal formula. ``--relax 12`` also relaxes the first so many crystals (seconds to
a minute each).
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from crystalsmith.evaluation.judge import described, match
from crystalsmith.evaluation.matching import SETTINGS
from crystalsmith.evaluation.metrics import summarise
from crystalsmith.evaluation.potential.potentials import find_potential, make_calculator
from crystalsmith.evaluation.potential.relaxation import relax
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.report.page import page
from crystalsmith.evaluation.report.results import finite, row_of
from crystalsmith.evaluation.structures import read_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--plain-pairs", type=int, default=100)
    parser.add_argument("--relax", type=int, default=0)
    parser.add_argument("--potential", default="7net-0")
    args = parser.parse_args()

    clock = time.process_time()

    def lap(name: str) -> float:
        nonlocal clock
        now = time.process_time()
        spent, clock = now - clock, now
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
        print(f"{name:70s} {spent:8.2f} s {1024 * peak:8.0f} MiB", flush=True)
        return spent

    reference = Reference.open(args.reference)
    lap("open the reference")
    crystals = described(read_samples(args.structures, args.num), jobs=1)
    lap(f"read and describe {len(crystals)} crystals")
    if reference.num_entries:
        hull = reference.hull
        lap(f"index {len(hull)} hull entries")
        compositions = [dict(zip(*np.unique(c.sample.numbers, return_counts=True), strict=True)) for c in crystals]
        for k in range(args.queries):
            composition = compositions[k % len(compositions)]
            hull.distance({int(z): float(n) for z, n in composition.items()}, 0.0)
        lap(f"{args.queries} hull distances")
    match(crystals, lambda c: c.sample.arrays if c.valid else None, reference, jobs=1)
    ours = lap(f"unique and novel against {reference.num_structures} structures, both matchers")
    metrics = {"run": {"structures": "", "created": ""}, "metrics": summarise(crystals, reference, relaxed=False)}
    rows = finite([row_of(c) for c in crystals])
    text = page(finite(metrics), rows, crystals, None, reference)
    lap(f"metrics and report of {len(text) / 2**20:.2f} MiB")
    known = [[a for _, a in reference.same_formula(c.sample.numbers)] for c in crystals]
    pairs = [(c.sample.arrays, other) for c, others in zip(crystals, known, strict=True) for other in others]
    chosen = np.random.default_rng(0).permutation(len(pairs))[: args.plain_pairs]
    _plain([pairs[i] for i in chosen])
    plain = (
        lap(f"plain matcher, {len(chosen)} of {len(pairs)} pairs of equal formula") * len(pairs) / max(1, len(chosen))
    )
    print(f"plain loop over all pairs of equal formula (one matcher): {plain:.1f} s, {plain / ours:.1f} times ours")
    if args.relax:
        settings = Relaxation(args.potential)
        calculator = make_calculator(find_potential(args.potential))
        lap(f"load {args.potential}")
        done = [
            relax(c.sample.id, "", c.sample.arrays, calculator, settings) for c in crystals[: args.relax] if c.valid
        ]
        ended = f"{sum(r.failure == '' for r in done)} converged, {sum(r.steps for r in done)} steps"
        lap(f"relax {len(done)} crystals, {ended}")


def _plain(pairs: list) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    matcher = StructureMatcher(attempt_supercell=False, **SETTINGS)
    for pair in pairs:
        one, other = (Structure(cell, numbers.tolist(), frac) for frac, cell, numbers in pair)
        matcher.fit(one, other)


if __name__ == "__main__":
    main()
