"""The training data of taught-tiny: that of hull-tiny and a model's own crystals, with what a potential says of each.

    crystalsmith generate own1 --model hull-tiny --num 16500 --steps 60 --no-cif
    python benchmarks/taught_data.py all.parquet REF taught.parquet own1 own2
    crystalsmith data prepare taught.parquet prepared/taught --max-energy-above-hull inf
    crystalsmith data symmetry prepared/taught

Each generated crystal is labelled, as it is, with the energy above REF's hull of one single point of the potential: a
model that is told these energies in training sees what becomes of its own mistakes. Guards against drift:

- left out: forces of 15 eV/angstrom and more, energies below -0.1 (the potential's error, as a rule) or above 1.5
  eV/atom, elements of which the potential knows little, and more than three crystals of a composition;
- left out: compositions that REF knows, if stable: the data have them already;
- among those within 0.1 eV/atom of the hull no element is much more frequent than in the training data;
- labels end at 0.6 eV/atom; new compositions within 0.05 stand twice.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.batched import BatchPotential, make_batch_potential
from crystalsmith.evaluation.potential.placing import Placing
from crystalsmith.evaluation.potential.potentials import find_potential
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import read_samples
from hull_data import formula

LARGEST_FORCE, LOWEST, HIGHEST, LABEL = 15.0, -0.1, 1.5, 0.6
STABLE, NEAR = 0.05, 0.1
OF_A_COMPOSITION, LEAN, KEPT = 3, 1.4, 0.75
DENIED = frozenset({2, 10, 18, 36, 54, 43, 61})
"""Noble gases, Tc, Pm."""


@dataclass(frozen=True)
class Own:
    """A generated crystal, its energy above the hull (eV/atom) and whether the reference lacks its composition."""

    name: str
    crystal: Arrays
    energy: float
    new: bool

    @property
    def elements(self) -> set[int]:
        """Atomic numbers."""
        return set(self.crystal[2].tolist())


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
            if LOWEST <= value <= HIGHEST and float(force.max()) < LARGEST_FORCE:
                new = not reference.knows_composition(crystals[i][2])
                yield Own(f"{folder.name}-{i}", crystals[i], value, new)


def guarded(own: Sequence[Own], share: np.ndarray) -> list[Own]:
    """What the guards let pass, in random order (seed 0).

    Args:
        share: ``(119,)`` of the crystals of MP-20 train that hold each element.
    """
    near = sum(one.energy < NEAR for one in own)
    elements: Counter[int] = Counter()
    compositions: Counter[tuple] = Counter()
    kept = []
    for k in np.random.default_rng(0).permutation(len(own)):
        one = own[k]
        key = formula(one.crystal[2])
        if one.elements & DENIED or compositions[key] >= OF_A_COMPOSITION or (not one.new and one.energy < STABLE):
            continue
        if one.energy < NEAR:
            if any(elements[z] >= LEAN * KEPT * share[z] * near + 5 for z in one.elements):
                continue
            elements.update(one.elements)
        compositions[key] += 1
        kept.append(one)
    return kept


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
            "e_above_hull": min(one.energy, LABEL),
        }
        for one in kept
        for copy in range(2 if one.new and one.energy < STABLE else 1)
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
