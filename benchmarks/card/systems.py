"""Chemical systems for the card: nine that are well explored, nine partially and nine not at all, three of each size.

    python benchmarks/card/systems.py REF > systems.json

A system of 3, 4 or 5 elements counts as well explored if it is among the twenty of its size with most entries in the
reference's hull that hold all its elements; as partially explored with one or two of them; as unexplored with none
though all its binaries have some. Three of each are drawn by the seed, as far as possible without a common element.
Left out are noble gases, radioactive elements and Yb, whose reference energies rest on a withdrawn pseudopotential.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np

from crystalsmith.elements import SYMBOLS, deny_lists
from crystalsmith.evaluation.reference.known import Reference

System = tuple[int, ...]

SIZES = (3, 4, 5)
EACH = 3
MOST = 20
YTTERBIUM = 70
TRIES = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reference = Reference.open(args.reference)
    counts = entries_by_system(reference)
    chosen = choose(counts, np.random.default_rng(args.seed))
    named = {kind: ["-".join(SYMBOLS[z - 1] for z in system) for system in systems] for kind, systems in chosen.items()}
    print(json.dumps({"reference": reference.name, "seed": args.seed, **named}, indent=1))


def entries_by_system(reference: Reference) -> Counter[System]:
    """How many hull entries hold exactly the elements of each system."""
    hull = reference.hull
    return Counter(tuple(sorted(hull.composition(entry))) for entry in range(len(hull)))


def choose(counts: Counter[System], rng: np.random.Generator) -> dict[str, list[System]]:
    """``EACH`` systems of each size for each class."""
    banned = {*deny_lists("noble,radioactive"), YTTERBIUM}
    allowed = {system: n for system, n in counts.items() if not banned & set(system)}
    found: dict[str, list[System]] = {"well_explored": [], "partially_explored": [], "unexplored": []}
    for size in SIZES:
        mine = sorted((system for system in allowed if len(system) == size), key=lambda s: (-allowed[s], s))
        found["well_explored"] += apart(mine[:MOST], rng)
        found["partially_explored"] += apart([s for s in mine if allowed[s] <= 2], rng)
        found["unexplored"] += apart(unexplored(allowed, size, rng), rng)
    return found


def apart(systems: list[System], rng: np.random.Generator) -> list[System]:
    """``EACH`` of the systems in a random order, without a common element as far as there are such."""
    order = [systems[k] for k in rng.permutation(len(systems)).tolist()]
    chosen: list[System] = []
    for strict in (True, False):
        for system in order:
            alone = not any(set(system) & set(other) for other in chosen)
            if len(chosen) < EACH and system not in chosen and (alone or not strict):
                chosen.append(system)
    return chosen


def unexplored(allowed: dict[System, int], size: int, rng: np.random.Generator) -> list[System]:
    """Some systems without an entry of all their elements, whose binaries all have entries."""
    elements = sorted({z for system in allowed for z in system})
    found: set[System] = set()
    for _ in range(TRIES):
        system = tuple(sorted(rng.choice(elements, size, replace=False).tolist()))
        if system not in allowed and all(pair in allowed for pair in combinations(system, 2)):
            found.add(system)
        if len(found) >= 10 * EACH:
            break
    return sorted(found)


if __name__ == "__main__":
    main()
