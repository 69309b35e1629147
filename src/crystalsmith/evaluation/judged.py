"""One crystal and all that was found out about it, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.structures import Sample

HULL_TOLERANCE = 1e-6
"""eV/atom of rounding within which a crystal at the hull is not above it."""


@dataclass
class Judged:
    """One crystal and all that was found out about it; None means not known, not asked or not applicable.

    Attributes:
        sample: as given.
        facts: of the crystal as given; None where there is none.
        relaxed: facts of the relaxed crystal.
        failure, detail: why it could not be judged to the end.
        formation_energy: eV/atom on the reference's scale.
        energy_rank: among the crystals of its reduced formula by energy, 1 is the lowest.
        energy_above_hull: eV/atom.
        energy_above_label_hull: eV/atom, where the hull is the potential's own.
        missing_elements: symbols that the hull does not know.
        hull_entries, hull_entries_with_all: entries of the hull within its chemical system, and with all its elements.
        hull_entries_by_size: those of one element, of two, ... as in ``2+5+1``.
        hull_gaps: its binary and ternary sub-systems without any entry.
        phases_left_out: competing phases by the labels that have no structure to compute.
        biased_elements: those whose energies the potential is known to get wrong.
        rmsd: angstrom, to the relaxed structure.
        unique, novel: by the ordered matcher; ``_disordered`` by either.
        duplicate_of, matched: the earlier crystal, or the reference entry, that it is the same as.
        charge_balanced: SMACT's verdict on the composition.
        bulk_modulus: GPa, by an equation of state; the note says why there is none.
        measured: properties by canonical name; see :mod:`crystalsmith.evaluation.asked.measures`.
        meets: whether it meets all requirements.
    """

    sample: Sample
    facts: Facts | None = None
    relaxed: Facts | None = None
    failure: str = ""
    detail: str = ""
    energy_per_atom: float | None = None
    formation_energy: float | None = None
    energy_rank: int | None = None
    energy_above_hull: float | None = None
    missing_elements: tuple[str, ...] = ()
    hull_entries: int | None = None
    hull_entries_with_all: int | None = None
    hull_entries_by_size: str = ""
    hull_gaps: str = ""
    energy_above_label_hull: float | None = None
    phases_left_out: str = ""
    biased_elements: tuple[str, ...] = ()
    decomposition: str = ""
    rmsd: float | None = None
    unique: bool | None = None
    unique_disordered: bool | None = None
    duplicate_of: str = ""
    duplicate_of_disordered: str = ""
    novel: bool | None = None
    novel_disordered: bool | None = None
    matched: str = ""
    matched_disordered: str = ""
    charge_balanced: bool | None = None
    steps: int | None = None
    seconds: float | None = None
    bulk_modulus: float | None = None
    bulk_modulus_note: str = ""
    measured: dict[str, float | str | None] = field(default_factory=dict)
    meets: bool | None = None

    @property
    def valid(self) -> bool:
        """Whether the crystal as given exists and keeps its atoms apart."""
        return self.facts is not None and self.facts.valid

    def stable(self, threshold: float) -> bool:
        """Whether its energy above the hull is known and at most the threshold (eV/atom)."""
        return self.energy_above_hull is not None and self.energy_above_hull <= threshold + HULL_TOLERANCE


def system_of(crystal: Judged) -> tuple[int, ...]:
    """The chemical system of a crystal: its atomic numbers, ascending."""
    return tuple(sorted({int(z) for z in crystal.sample.numbers}))
