"""The training data of taught-tiny: that of hull-tiny and a model's own crystals, with what a potential says of each.

    crystalsmith generate own1 --model hull-tiny --num 16500 --steps 60 --no-cif
    python benchmarks/taught_data.py all.parquet REF taught.parquet own1 own2
    crystalsmith data prepare taught.parquet prepared/taught --max-energy-above-hull inf
    crystalsmith data symmetry prepared/taught

Each generated crystal is labelled, as it is, with the energy above REF's hull of one single point of the potential: a
model that is told these energies in training sees what becomes of its own mistakes. The guards against drift are those
of ``crystalsmith discover --learn`` (``crystalsmith/discovery/learning.py``).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.discovery.learning import LARGEST_LABEL, Own, guarded, sensible
from crystalsmith.evaluation.potential.batched import BatchPotential, make_batch_potential
from crystalsmith.evaluation.potential.placing import Placing
from crystalsmith.evaluation.potential.potentials import find_potential
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import read_samples


def judged(folder: Path, reference: Reference, placing: Placing, potential: BatchPotential, size: int) -> Iterator[Own]:
    """The crystals of a run that the potential and the hull have a word on."""
    crystals = [sample.arrays for sample in read_samples(folder) if not sample.failure]
    order = sorted(range(len(crystals)), key=lambda i: len(crystals[i][2]))
    for cut in range(0, len(order), size):
        rows = order[cut : cut + size]
        batch = CrystalBatch.from_arrays([crystals[i] for i in rows], torch.float64).to(potential.device)
        found = potential.evaluate(batch)
        forces = found.forces.abs().amax(1).split(batch.num_atoms.tolist())
        for i, energy, force in zip(rows, found.energy.tolist(), forces, strict=True):
            value = placing.place(crystals[i], energy).get("energy_above_hull", math.nan)
            if sensible(value, float(force.max())):
                new = not reference.knows_composition(crystals[i][2])
                yield Own(f"{folder.name}-{i}", crystals[i], value, new)


def rows_of(kept: Sequence[Own]) -> pd.DataFrame:
    """Rows as those of ``hull_data.py``; new compositions that are stable stand twice."""
    rows = [
        {
            "material_id": f"{one.name}-{copy}",
            "mp20_split": "train",
            "formula": "",
            "lattice": one.crystal[1].reshape(-1).astype(float),
            "frac": one.crystal[0].reshape(-1).astype(float),
            "Z": one.crystal[2],
            "e_above_hull": min(one.energy, LARGEST_LABEL),
        }
        for one in kept
        for copy in range(one.weight)
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what hull_data.py wrote")
    parser.add_argument("reference", help="reference set with energies")
    parser.add_argument("out")
    parser.add_argument("runs", nargs="+", type=Path, help="generated crystals")
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    data, reference = pd.read_parquet(options.data), Reference.open(options.reference)
    placing = Placing(reference, options.potential)
    potential = make_batch_potential(find_potential(options.potential))
    own = [one for run in options.runs for one in judged(run, reference, placing, potential, options.batch_size)]
    train = data[data.mp20_split == "train"]
    counts = np.bincount(np.concatenate([np.unique(z) for z in train.Z]), minlength=119)
    kept = guarded(own, counts / len(train))
    more = rows_of(kept)
    more["Z"] = [z.astype(train.Z.iloc[0].dtype) for z in more.Z]
    pd.concat([data, more], ignore_index=True).to_parquet(options.out)
    share = len(more) / (len(more) + len(train))
    print(f"{len(own):,} crystals judged, {len(kept):,} kept, {len(more):,} rows: {share:.0%} of the training data.")


if __name__ == "__main__":
    main()
