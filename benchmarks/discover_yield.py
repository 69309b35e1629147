"""What ``crystalsmith discover`` yields against generating N and evaluating N, on the same number of relaxations.

    python benchmarks/discover_yield.py out --reference refs/mp --relaxations 40 --seeds 1,2,3 --only none,Li-Mn-O

Each run has a folder of its own and goes on where it stopped, so the command can be given again. For each wish:
accepted crystals (stable, unique, new) of both ways, summed over seeds, and the ratio with its 95 % interval, from two
million draws of the posteriors Beta(1/2 + accepted, 1/2 + not accepted) of the two yields. Candidates that start from
known crystals have known frameworks; ``--model-only`` leaves them out. The band gap needs ``--predictor``. With
``--learn DATA`` a third way takes lessons (``discover --learn``), and is set against the same search without.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

STABLE = "energy_above_hull<=0.1"

WISHES: dict[str, dict[str, Any]] = {
    "none": {},
    "Li-Mn-O": {"steering": {"chemical_system": "Li-Mn-O"}},
    "bulk_modulus": {"requirements": (STABLE, "bulk_modulus>300")},
    "band_gap": {"requirements": (STABLE, "band_gap 1.5..2.5"), "steering": {"deny": "Pb,Cd,Tl"}},
}


def ratio(found: tuple[int, int], plain: tuple[int, int]) -> tuple[float, float, float]:
    """Median and 95 % interval of the ratio of two yields, each of accepted and relaxed."""
    rng = np.random.default_rng(0)
    draws = [rng.beta(0.5 + accepted, 0.5 + relaxed - accepted, 2_000_000) for accepted, relaxed in (found, plain)]
    low, middle, high = np.quantile(draws[0] / draws[1], (0.025, 0.5, 0.975))
    return float(middle), float(low), float(high)


def run(out: Path, wish: Any, relaxations: int, jobs: int) -> tuple[int, int]:
    """Accepted and relaxed of one run, which goes on where it stopped."""
    from crystalsmith.discovery.run import discover
    from crystalsmith.discovery.wish import Limits
    from crystalsmith.engine.run import Engine

    there = (out / "manifest.json").is_file()
    summary = discover(out, None if there else wish, Limits(relaxations=relaxations), engine=Engine(jobs))
    if summary.status != "complete":
        raise SystemExit(summary.exit_code)
    return summary.accepted, summary.relaxed


def main() -> None:
    parser = argparse.ArgumentParser(description="The yield of crystalsmith discover against the plain way.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--relaxations", type=int, default=40)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default="none,Li-Mn-O,bulk_modulus")
    parser.add_argument("--model", default="")
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--energy-scale")
    parser.add_argument("--predictor", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--num-atoms", default="1-20")
    parser.add_argument("--model-only", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--learn", type=Path, help="real data of the lessons")
    parser.add_argument("--learn-every", type=int, default=100)
    parser.add_argument("--learn-updates", type=int, default=300)
    asked = parser.parse_args()
    from crystalsmith.discovery.wish import Wish
    from crystalsmith.models import DEFAULT

    low, high = (int(n) for n in asked.num_atoms.split("-"))
    shared = {
        "model": asked.model or DEFAULT,
        "reference": str(asked.reference.resolve()),
        "potential": asked.potential,
        "energy_scale": asked.energy_scale,
        "predictors": tuple(str(p.resolve()) for p in asked.predictor),
        "steps": asked.steps,
        "num_atoms": (low, high),
        "price": "relaxations",
    }
    ways: dict[str, dict[str, Any]] = {
        "discover": {"sources": ("templates", "free") if asked.model_only else ()},
        "plain": {"plain": True, "proposals": 8, "relaxations": 8},
    }
    pairs = [("discover", "plain")]
    if asked.learn:
        every, updates = asked.learn_every, asked.learn_updates
        lessons = {"learn": str(asked.learn.resolve()), "learn_every": every, "learn_updates": updates}
        ways["lessons"] = ways["discover"] | lessons
        pairs.append(("lessons", "discover"))
    results: dict[str, Any] = {}
    for name in asked.only.split(","):
        sums = {}
        for way, options in ways.items():
            runs = [
                run(
                    asked.out / f"{name}-{way}-{seed}",
                    Wish(seed=int(seed), **shared, **options, **WISHES[name]),
                    asked.relaxations,
                    asked.jobs,
                )
                for seed in asked.seeds.split(",")
            ]
            sums[way] = (sum(a for a, _ in runs), sum(r for _, r in runs))
            print(f"{name:14} {way:9} {sums[way][0]} accepted of {sums[way][1]} relaxed {runs}", flush=True)
        results[name] = dict(sums)
        for way, other in pairs:
            middle, low_end, high_end = ratio(sums[way], sums[other])
            print(f"{name:14} {way} over {other} {middle:.2f} ({low_end:.2f} to {high_end:.2f})", flush=True)
            results[name][f"{way} over {other}"] = [middle, low_end, high_end]
    (asked.out / "yield.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
