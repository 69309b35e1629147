"""The training data of hull-tiny: MP-20 and structures of other databases, with energies above one hull.

    python benchmarks/hull_data.py mp20.parquet extra_le20.parquet extra_le20_labels.parquet all.parquet
    crystalsmith data prepare all.parquet prepared/all --max-energy-above-hull inf
    crystalsmith data symmetry prepared/all

Left out of the further structures: those more than 0.5 eV/atom above the hull or more than 0.05 below it, and those
that may be a crystal of MP-20's val or test split (the same reduced formula, volume per atom within 10 %). Without a
label they stay in, unlabelled. Columns: ``lattice`` (nine numbers), ``frac``, ``Z``, ``mp20_split``, labels.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import reduce
from math import gcd

import numpy as np
import pandas as pd

HIGHEST, LOWEST = 0.5, -0.05
"""eV/atom above the hull."""

SAME_VOLUME = 0.1
COLUMNS = [
    *("material_id", "mp20_split", "formula", "lattice", "frac", "Z"),
    *("formation_energy_per_atom", "band_gap", "e_above_hull", "mag_density", "bulk_modulus"),
]


def formula(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Reduced formula: atomic number and count."""
    counts = Counter(int(z) for z in numbers)
    unit = reduce(gcd, counts.values())
    return tuple(sorted((z, n // unit) for z, n in counts.items()))


def volume_per_atom(lattice: Sequence[float], numbers: Sequence[int]) -> float:
    """Cubic angstrom."""
    return abs(np.linalg.det(np.array(lattice, dtype=float).reshape(3, 3))) / len(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mp20")
    parser.add_argument("extra")
    parser.add_argument("labels")
    parser.add_argument("out")
    options = parser.parse_args()
    mp20, extra = pd.read_parquet(options.mp20), pd.read_parquet(options.extra)
    labels = pd.read_parquet(options.labels).set_index("material_id")
    for name in ("formation_energy_per_atom", "e_above_hull"):
        extra[name] = labels[name].reindex(extra.material_id).to_numpy()
    extra["mp20_split"] = "train"
    extra = extra[~(extra.e_above_hull > HIGHEST) & ~(extra.e_above_hull < LOWEST)]
    held: dict[tuple, list[float]] = defaultdict(list)
    for row in mp20[mp20.mp20_split.isin(["val", "test"])].itertuples():
        held[formula(row.Z)].append(volume_per_atom(row.lattice, row.Z))
    same = [
        any(abs(volume_per_atom(row.lattice, row.Z) / v - 1) < SAME_VOLUME for v in held.get(formula(row.Z), ()))
        for row in extra.itertuples()
    ]
    kept = extra[~np.array(same)]
    everything = pd.concat([mp20[COLUMNS], kept[COLUMNS]], ignore_index=True)
    everything["mp20_split"] = everything.mp20_split.astype(str)
    everything.to_parquet(options.out)
    print(f"{len(everything):,} rows: {len(mp20):,} of MP-20 and {len(kept):,} others; {sum(same):,} may be held out.")


if __name__ == "__main__":
    main()
