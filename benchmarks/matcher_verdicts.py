"""Whether the quick matchers give pymatgen's verdicts, and what they save.

    python -m benchmarks.matcher_verdicts refs/mp20 --pairs 2400

Draws pairs of equal formula from a reference set: disturbed copies, polymorphs, supercells and redecorated alloys.
Both matchers judge each as the plain pairwise matcher does; every difference is printed, and ends in exit status 1.
Times are processor seconds of one process. Then the ordered question as an evaluation asks it: each crystal of a
formula against all others of that formula, where a crystal is reduced once for all its pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from tests.evaluation.pairs import KINDS, hard_pairs, our_verdicts, plain_verdict, plain_verdicts

from crystalsmith.evaluation.matching import Candidate, matches
from crystalsmith.evaluation.reference.known import Reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--pairs", type=int, default=2400)
    parser.add_argument("--structures", type=int, default=20000, help="drawn from this many of the reference")
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--formulas", type=int, default=40, help="for the comparison of all pairs of a formula")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reference, rng = Reference.open(args.reference), np.random.default_rng(args.seed)
    first = int(rng.integers(max(1, reference.num_structures - args.structures)))
    rows = range(first, min(first + args.structures, reference.num_structures))  # neighbours share formulas
    structures = [reference.structure(row)[1] for row in rows]
    structures = [arrays for arrays in structures if len(arrays[2]) <= args.max_atoms]
    differing = _verdicts(structures, rng, -(-args.pairs // len(KINDS)))
    differing += _all_pairs(structures, rng, args.formulas)
    sys.exit(1 if differing else 0)


def _verdicts(structures: list, rng: np.random.Generator, number: int) -> int:
    found: dict[str, list] = {kind: [] for kind in KINDS}
    seconds = {kind: [0.0, 0.0] for kind in KINDS}
    for count, (kind, one, other) in enumerate(hard_pairs(structures, rng, number)):
        verdicts = []
        for k, judge in enumerate((our_verdicts, plain_verdicts)):
            began = time.process_time()
            verdicts.append(judge(one, other))
            seconds[kind][k] += time.process_time() - began
        found[kind].append(tuple(verdicts))
        if verdicts[0] != verdicts[1]:
            print(f"pair {count} ({kind}) differs: ours {verdicts[0]}, plain {verdicts[1]}: {one} {other}")
        if count % 200 == 199:
            print(f"{count + 1} pairs", file=sys.stderr, flush=True)
    for kind, verdicts in found.items():
        ordered, either = (sum(ours[k] for ours, _ in verdicts) for k in (0, 1))
        wrong = sum(ours != plain for ours, plain in verdicts)
        ours, plain = seconds[kind]
        print(
            f"{kind:12s} {len(verdicts):6d} pairs, {ordered:5d} match, {either:5d} with disorder, {wrong:3d} differ; "
            f"ours {ours:7.1f} s, plain {plain:7.1f} s, ratio {plain / ours:.2f}",
            flush=True,
        )
    return sum(ours != plain for verdicts in found.values() for ours, plain in verdicts)


def _all_pairs(structures: list, rng: np.random.Generator, formulas: int) -> int:
    groups: dict = {}
    for arrays in structures:
        candidate = Candidate("", arrays)
        groups.setdefault(candidate.formula, []).append(candidate)
    several = [group for group in groups.values() if len(group) > 2]
    chosen = [several[k] for k in rng.permutation(len(several))[:formulas]]
    pairs = [(a, b) for group in chosen for i, a in enumerate(group) for b in group[:i]]
    began = time.process_time()
    ours = [matches(a, b) for a, b in pairs]
    middle = time.process_time()
    plain = [plain_verdict(a.arrays, b.arrays) for a, b in pairs]
    spent = middle - began, time.process_time() - middle
    wrong = sum(x != y for x, y in zip(ours, plain, strict=True))
    print(
        f"all pairs of {len(chosen)} formulas: {len(pairs)} pairs, {sum(ours)} match, {wrong} differ; "
        f"ours {spent[0]:.1f} s, plain {spent[1]:.1f} s, ratio {spent[1] / spent[0]:.2f}"
    )
    return wrong


if __name__ == "__main__":
    main()
