"""Are crystals made with bf16 products drawn from the same distribution as those made in float32?

    python benchmarks/precision.py mp20-tiny --num 200 --json precision.json

Three independent sets of one model: float32, bf16, and float32 with another seed, which shows what two sets of one
distribution look like. Per pair: Kolmogorov-Smirnov statistic and p-value of density, volume per atom, shortest
distance and number of elements; Jensen-Shannon distance of the element counts with the p-value of a permutation of the
crystals. A p-value of 0.05 is crossed once in twenty comparisons where nothing differs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

import crystalsmith
from crystalsmith.evaluation.statistics import jensen_shannon
from crystalsmith.generation.describe import describe
from crystalsmith.generation.sampler import crystals_of

FACTS = ("density", "volume_per_atom", "shortest_distance", "num_elements")
PERMUTATIONS = 1000


def sample(model: str, precision: str, seed: int, num: int, steps: int | None) -> dict[str, Any]:
    """Facts ``(crystals,)`` by name and the element counts ``(crystals, 102)`` of one set."""
    loaded = crystalsmith.load(model, precision=precision)
    began = time.perf_counter()
    made = loaded.generate(num, seed=seed, steps=steps, progress=True)
    seconds = time.perf_counter() - began
    kept = crystals_of(made.batch, made.request.plans(made.indices), loaded.model.metadata.elements)
    rows = [describe(crystal).row | {"num_elements": len(set(crystal.numbers.tolist()))} for crystal in kept]
    counts = np.stack([np.bincount(crystal.numbers, minlength=102) for crystal in kept])
    return {
        "name": f"{precision}, seed {seed}",
        "failed": num - len(kept),
        "valid": sum(bool(row["valid"]) for row in rows) / num,
        "seconds_per_crystal": seconds / num,
        "counts": counts,
    } | {name: np.array([row[name] for row in rows], dtype=np.float64) for name in FACTS}


def elements_differ(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float]:
    """Jensen-Shannon distance of the elements of two sets of crystals, and its p-value under exchange of crystals."""
    rng, both = np.random.default_rng(0), np.concatenate([a, b])
    seen = jensen_shannon(a.sum(0), b.sum(0))
    more = 0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(both))
        more += jensen_shannon(both[order[: len(a)]].sum(0), both[order[len(a) :]].sum(0)) >= seen
    return seen, (more + 1) / (PERMUTATIONS + 1)


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Statistic and p-value of each fact."""
    result: dict[str, Any] = {"sets": [a["name"], b["name"]]}
    for name in FACTS:
        found = ks_2samp(a[name], b[name])
        result[name] = [float(found.statistic), float(found.pvalue)]
    result["elements"] = list(elements_differ(a["counts"], b["counts"]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sets = [sample(args.model, p, s, args.num, args.steps) for p, s in (("float32", 1), ("bf16", 2), ("float32", 3))]
    pairs = [compare(sets[0], sets[1]), compare(sets[0], sets[2])]
    for one in sets:
        print(
            f"{one['name']}: {one['failed']} failed, {100 * one['valid']:.1f} % valid, "
            f"{one['seconds_per_crystal']:.2f} s per crystal"
        )
    for pair in pairs:
        print(" against ".join(pair["sets"]))
        for name in (*FACTS, "elements"):
            print(f"  {name:20s} distance {pair[name][0]:.3f}, p {pair[name][1]:.3f}")
    if args.json:
        facts = [{k: v for k, v in one.items() if not isinstance(v, np.ndarray)} for one in sets]
        args.json.write_text(json.dumps({"sets": facts, "pairs": pairs}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
