"""How much of a reference stands behind the hull of each chemical system that was judged.

A phase that the reference lacks can only lower the true hull, so a distance to an incomplete hull is a lower bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from crystalsmith.elements import SYMBOLS
from crystalsmith.evaluation.judged import Judged, system_of
from crystalsmith.evaluation.reference.hull import Hull, System, system_name
from crystalsmith.evaluation.reference.known import ADDED_ELEMENT

SIZES = (2, 3)
"""Sub-systems of so many elements are looked for by name."""

NAMED = 40
"""Most gaps that are named (a system of six elements has 35 sub-systems of two or three); the rest are counted."""

NOTE = (
    "A distance to an incomplete hull is a lower bound: a phase that the reference lacks could only raise it. A "
    "sub-system without entries may have no compounds, or the reference may lack them."
)


@dataclass(frozen=True)
class Completeness:
    """What a hull holds of one chemical system.

    Attributes:
        system: atomic numbers, ascending.
        entries: entries of 1, 2, ... elements within the system; the elements that were added at zero are not counted.
        missing: sub-systems of 2 and of 3 elements (the system itself included) without any entry.
        possible: how many sub-systems of 2 and of 3 elements there are.
        without_terminal: symbols of elements without an entry; no distance is known.
        without_phase: symbols of elements whose entry was added at zero, without a structure behind it.
        left_out: reference entries within the system that could not take part in the hull.
    """

    system: System
    entries: tuple[int, ...]
    missing: Mapping[int, tuple[System, ...]]
    possible: Mapping[int, int]
    without_terminal: tuple[str, ...]
    without_phase: tuple[str, ...]
    left_out: int = 0

    def record(self, crystals: int) -> dict[str, Any]:
        """The same for ``metrics.json``, with how many crystals were judged by it."""
        return {
            "system": system_name(self.system),
            "crystals": crystals,
            "entries": list(self.entries),
            "binaries": [self.possible[2] - len(self.missing[2]), self.possible[2]],
            "ternaries": [self.possible[3] - len(self.missing[3]), self.possible[3]],
            "missing": self.gaps,
            "elements_without_entry": list(self.without_terminal),
            "elements_without_structure": list(self.without_phase),
            "left_out": self.left_out,
        }

    @property
    def gaps(self) -> list[str]:
        """Names of the elements without entry and of the binary and ternary sub-systems without any."""
        systems = [s for k in SIZES for s in self.missing[k]]
        more = len(systems) - NAMED
        names = [*self.without_terminal, *(system_name(s) for s in systems[:NAMED])]
        return [*names, f"... and {more} more"] if more > 0 else names


def completeness(
    system: System, hull: Hull, name: Callable[[int], str], left_out: Collection[System] = ()
) -> Completeness:
    """Look at one chemical system.

    Args:
        name: entry number to id.
        left_out: chemical systems of the entries that could not take part, one for each.
    """
    sizes: Counter[int] = Counter()
    for part in hull.systems_within(system):
        entries = hull.entries_of(part)
        added = sum(name(e).startswith(ADDED_ELEMENT) for e in entries.tolist()) if len(part) == 1 else 0
        sizes[len(part)] += len(entries) - added
    missing = {k: tuple(s for s in combinations(system, k) if not len(hull.entries_of(s))) for k in SIZES}
    terminals = {z: hull.entries_of((z,)).tolist() for z in system}
    inside = set(system)
    return Completeness(
        system,
        tuple(sizes[k] for k in range(1, len(system) + 1)),
        missing,
        {k: sum(1 for _ in combinations(system, k)) for k in SIZES},
        tuple(SYMBOLS[z - 1] for z, found in terminals.items() if not found),
        tuple(
            SYMBOLS[z - 1]
            for z, found in terminals.items()
            if found and all(name(e).startswith(ADDED_ELEMENT) for e in found)
        ),
        sum(inside.issuperset(s) for s in left_out),
    )


def survey(
    crystals: Sequence[Judged], hull: Hull, name: Callable[[int], str], left_out: Collection[System] = ()
) -> dict[str, Any]:
    """Look at every chemical system that a crystal was judged in, and note its gaps with the crystal.

    Returns:
        The note, totals over the different systems and sub-systems, and a record for each system.
    """
    judged = Counter(system_of(c) for c in crystals if c.facts is not None)
    found = {system: completeness(system, hull, name, left_out) for system in judged}
    for crystal in crystals:
        if crystal.facts is not None:
            known = found[system_of(crystal)]
            crystal.hull_entries_by_size = "+".join(str(n) for n in known.entries)
            crystal.hull_gaps = " ".join(known.gaps)
    totals = {}
    for k, word in zip(SIZES, ("binaries", "ternaries"), strict=True):
        every = {s for system in judged for s in combinations(system, k)}
        lacking = {s for known in found.values() for s in known.missing[k]}
        totals[word] = {"count": len(every) - len(lacking), "of": len(every)}
    return {
        "note": NOTE,
        "chemical_systems": len(judged),
        **totals,
        "elements_without_entry": sorted({s for known in found.values() for s in known.without_terminal}),
        "elements_without_structure": sorted({s for known in found.values() for s in known.without_phase}),
        "crystals_with_gaps": sum(bool(c.hull_gaps) for c in crystals),
        "systems": [
            found[system].record(count) for system, count in sorted(judged.items(), key=lambda x: (-x[1], x[0]))
        ],
    }
