"""A hull of a potential's own energies, so that what it gets wrong everywhere cancels.

Every structure of the reference within the chemical systems at hand takes part, with a single point on the cell it has
there, whether or not it has a labelled energy. Entries that have an energy but no structure cannot, and are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crystalsmith.elements import SYMBOLS
from crystalsmith.engine.run import Engine
from crystalsmith.evaluation.matching import formula_key
from crystalsmith.evaluation.potential.single_points import Computed, Energies
from crystalsmith.evaluation.reference.hull import Hull, System, rows_within, system_name
from crystalsmith.evaluation.reference.known import ADDED_ELEMENT, Reference

LEFT_OUT = "hull_left_out.csv"


@dataclass(frozen=True)
class PotentialHull:
    """The hull of the chemical systems at hand.

    Attributes:
        hull: of formation energies that count from the reference's elemental energies.
        names: ids of its entries.
        elements_from_labels: symbols of elements without a structure; they stand at the reference's elemental energy.
        left_out: reference entries within the systems that cannot take part (no structure, no energy), by number.
        computed: what became of the single points.
    """

    hull: Hull
    names: Sequence[str]
    elements_from_labels: tuple[str, ...]
    left_out: Mapping[int, str]
    computed: Computed

    def facts(self) -> dict[str, Any]:
        """Counts for ``metrics.json``."""
        return {
            "entries": len(self.hull),
            "single_points_known": self.computed.known,
            "single_points_computed": self.computed.computed,
            "single_points_failed": self.computed.failed,
            "left_for_limit": self.computed.left_for_limit,
            "elements_from_labels": list(self.elements_from_labels),
            "left_out": len(self.left_out),
            "left_out_for_want_of_a_structure": sum(why == "no_structure" for why in self.left_out.values()),
            "left_out_file": LEFT_OUT,
        }

    def left_out_rows(self, reference: Reference) -> list[tuple[Any, ...]]:
        """A row for each entry left out: id, composition, chemical system, formation energy, above its hull, why."""
        rows = []
        for entry, why in sorted(self.left_out.items()):
            composition, energy = reference.hull.composition(entry), reference.hull.energy(entry)
            above = reference.hull.distance(composition, energy).energy_above_hull
            text = " ".join(f"{SYMBOLS[z - 1]}{share:.4g}" for z, share in composition.items())
            system = system_name(tuple(sorted(composition)))
            rows.append((reference.entry_name(entry), text, system, round(energy, 6), round(above, 6), why))
        return rows


def potential_hull(
    systems: Sequence[System],
    reference: Reference,
    energies: Energies,
    engine: Engine,
    limit: int | None = None,
    seconds_per_atom: float | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> PotentialHull:
    """Compute what is missing and build the hull of these chemical systems.

    Args:
        limit: most single points to compute; the structures whose labels lie lowest above the hull come first.
        seconds_per_atom, announce: see :meth:`crystalsmith.evaluation.potential.single_points.Energies.compute`.

    Raises:
        InputError: if the potential cannot be used, or the disk is full.
    """
    within = [rows_within(reference.systems, system) for system in systems]
    rows = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *within])).tolist()
    if limit is not None:
        rows = _likeliest_first(rows, reference)
    computed = energies.compute(rows, engine, limit, seconds_per_atom, announce)
    names, compositions, values = [], [], []
    for row, point in sorted(computed.by_row.items()):
        composition = {z: float(n) for z, n in formula_key(reference.structure(row)[1][2])}
        value = reference.formation_energy(composition, point.energy_per_atom)
        if math.isfinite(value):
            names.append(point.id)
            compositions.append(composition)
            values.append(value)
    present = {next(iter(c)) for c in compositions if len(c) == 1}
    added = sorted({z for system in systems for z in system if z in reference.hull.elements} - present)
    names += [f"{ADDED_ELEMENT}{SYMBOLS[z - 1]}" for z in added]
    left_out = _left_out(systems, reference, set(names))
    hull = Hull.from_entries([*compositions, *({z: 1.0} for z in added)], [*values, *[0.0] * len(added)])
    return PotentialHull(hull, names, tuple(SYMBOLS[z - 1] for z in added), left_out, computed)


def _likeliest_first(rows: Sequence[int], reference: Reference) -> list[int]:
    """Elements, then by the labelled energy above the hull, then those without a label."""

    def height(row: int) -> tuple[bool, float]:
        name, (_, _, numbers) = reference.structure(row)
        composition = {z: float(n) for z, n in formula_key(numbers)}
        entry = reference.entries_by_name.get(name)
        if entry is None:
            return len(composition) > 1, math.inf
        above = reference.hull.distance(composition, reference.hull.energy(entry)).energy_above_hull
        return len(composition) > 1, above if math.isfinite(above) else math.inf

    return sorted(rows, key=height)


def _left_out(systems: Sequence[System], reference: Reference, taken: set[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for system in systems:
        for entry in reference.hull.entries_within(system).tolist():
            name = reference.entry_name(entry)
            if entry not in found and name not in taken and not name.startswith(ADDED_ELEMENT):
                found[entry] = "no_energy" if name in reference.structures_by_name else "no_structure"
    return found
