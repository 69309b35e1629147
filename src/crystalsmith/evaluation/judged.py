"""One crystal and all that was found out about it, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.plausible import Plausibility
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
        no_energy: why a table of energies gives it none; it counts as not stable, and in every other rate as it is.
        formation_energy: eV/atom on the reference's scale.
        energy_rank: among the crystals of its reduced formula by energy, 1 is the lowest.
        energy_above_hull: eV/atom.
        formation_energy_given, energy_above_hull_given: of the crystal as given, before relaxation.
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
        plausibility: of the crystal as given; None where it is not valid.
        condensed: whether the crystal that was judged, relaxed if it was, hangs together in three directions.
        novel_composition: whether the reference knows its reduced formula neither as structure nor as energy.
        novel_framework: whether no structure of the reference has its kinds of places; None in P1.
        bulk_modulus: GPa, by an equation of state; the note says why there is none.
        measured: properties by canonical name; see :mod:`crystalsmith.evaluation.asked.measures`.
        meets: whether it meets all requirements.
    """

    sample: Sample
    facts: Facts | None = None
    relaxed: Facts | None = None
    failure: str = ""
    detail: str = ""
    no_energy: str = ""
    energy_per_atom: float | None = None
    formation_energy: float | None = None
    formation_energy_given: float | None = None
    energy_above_hull_given: float | None = None
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
    plausibility: Plausibility | None = None
    condensed: bool | None = None
    novel_composition: bool | None = None
    novel_framework: bool | None = None
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

    def stable_given(self, threshold: float) -> bool:
        """The same of the crystal as given."""
        given = self.energy_above_hull_given
        return given is not None and given <= threshold + HULL_TOLERANCE

    @property
    def new(self) -> bool:
        """Whether it is unique and novel, and a crystal: molecules, chains or slabs in a vacuum are none."""
        return bool(self.unique and self.novel and self.condensed is not False)

    @property
    def new_disordered(self) -> bool:
        """The same by either matcher."""
        return bool(self.unique_disordered and self.novel_disordered and self.condensed is not False)


def system_of(crystal: Judged) -> tuple[int, ...]:
    """The chemical system of a crystal: its atomic numbers, ascending."""
    return tuple(sorted({int(z) for z in crystal.sample.numbers}))
