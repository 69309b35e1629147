"""What a model's crystals look like beside the data it was trained on, and beside an untrained model of the same kind.

    python benchmarks/sample_quality.py mp20-tiny prepared/mp20 --num 256 --untrained

For each set: share of crystals without a distance below 0.5, 0.7 and 1.0 angstrom; share whose density and volume per
atom lie within the 0.5 % to 99.5 % range of the data; Wasserstein-1 distance of density and of volume per atom to the
data (val rows); Jensen-Shannon distance (base 2) of the element frequencies.
The column "data" compares another random part of the data to the same reference: the floor of each number.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import crystalsmith
from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.evaluation.statistics import jensen_shannon, wasserstein
from crystalsmith.generation.describe import Crystal, describe
from crystalsmith.generation.loaded import LoadedModel


def facts(batch: CrystalBatch, elements: Sequence[int]) -> dict[str, Any]:
    """Per-crystal numbers of a set and its element counts; a crystal that cannot be described counts as bad."""
    rows = []
    for index, (frac, cell, numbers) in enumerate(batch.crystals()):
        crystal = Crystal(0, index, frac, cell, numbers, frozenset(elements))
        if crystal.failure is None:
            row = describe(crystal).row
            rows.append((float(row["density"]), float(row["volume_per_atom"]), float(row["shortest_distance"])))
    table = np.array(rows).reshape(-1, 3)
    return {
        "requested": batch.num_crystals,
        "density": table[:, 0],
        "volume": table[:, 1],
        "distance": table[:, 2],
        "elements": np.bincount(batch.atomic_numbers.numpy(), minlength=102)[:102].astype(float),
    }


def compare(name: str, one: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The row of one set."""
    n = one["requested"]
    inside = {}
    for key in ("density", "volume"):
        low, high = np.quantile(reference[key], [0.005, 0.995])
        inside[key] = float(((one[key] >= low) & (one[key] <= high)).sum() / n)
    return {
        "set": name,
        "crystals": n,
        "no_distance_below_0.5": float((one["distance"] >= 0.5).sum() / n),
        "no_distance_below_0.7": float((one["distance"] >= 0.7).sum() / n),
        "no_distance_below_1.0": float((one["distance"] >= 1.0).sum() / n),
        "density_in_range": inside["density"],
        "volume_in_range": inside["volume"],
        "density_wasserstein": wasserstein(one["density"], reference["density"]),
        "volume_wasserstein": wasserstein(one["volume"], reference["volume"]),
        "median_density": float(np.median(one["density"])),
        "median_shortest_distance": float(np.median(one["distance"])),
        "elements_jensen_shannon": jensen_shannon(one["elements"], reference["elements"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="prepared data set")
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solver")
    parser.add_argument("--untrained", action="store_true", help="also the same network with fresh weights")
    parser.add_argument("--json", help="write the table here")
    args = parser.parse_args()

    data = CrystalDataset.open(args.data)
    rows = np.random.default_rng(0).permutation(data.rows("val"))
    loaded = crystalsmith.load(args.model)
    elements = load_model(args.model).metadata.elements
    reference = facts(data.batch(np.sort(rows[:2000])), elements)
    table = [compare("data", facts(data.batch(np.sort(rows[2000 : 2000 + args.num])), elements), reference)]
    runs = [(args.model, loaded)]
    if args.untrained:
        torch.manual_seed(0)
        fresh = Model.from_config(load_model(args.model).config_dict())
        runs.append(("untrained", LoadedModel(fresh, "untrained", "", loaded.device, loaded.precision)))
    for name, run in runs:
        began = time.perf_counter()
        result = run.generate(args.num, seed=args.seed, steps=args.steps, solver=args.solver, progress=True)
        row = compare(name, facts(result.batch, elements), reference)
        table.append(row | {"seconds_per_crystal": (time.perf_counter() - began) / args.num})
    for key in table[1]:
        print(f"{key:26s}", *(_cell(row.get(key)) for row in table))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)


def _cell(value: Any) -> str:
    return f"{value:>16.4g}" if isinstance(value, float) else f"{value if value is not None else '':>16}"


if __name__ == "__main__":
    main()
