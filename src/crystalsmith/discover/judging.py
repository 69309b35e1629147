"""Where a candidate stands: energies on the reference's scale, the hull, and all that can be measured of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crystalsmith.evaluation.asked.measures import Predictor, measure
from crystalsmith.evaluation.asked.requirements import Requirement
from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.potential.potentials import find_potential, refuse_scheme, scale_correction
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import Sample


class Judge:
    """Places crystals on the hull of a reference and measures them.

    Args:
        reference: None where there is none; then there is no hull.
        potential, scale: whose energies are placed.
        predictors: of properties that nothing else measures.

    Raises:
        InputError: if the energies of the potential and the reference do not belong together.
    """

    def __init__(
        self, reference: Reference | None, potential: str, scale: str | None, predictors: Sequence[Predictor] = ()
    ) -> None:
        self.reference = reference if reference is not None and reference.num_entries else None
        self.potential, self.predictors = find_potential(potential, scale), tuple(predictors)
        self.scheme = None if self.reference is None else self.reference.corrections
        refuse_scheme(self.potential, self.scheme)

    def place(self, arrays: Arrays, energy: float) -> dict[str, Any]:
        """Energies in eV/atom: per atom as the reference has it, of formation, above the hull; and what it decays to.

        Args:
            energy: total, eV per cell, as the potential gives it.
        """
        atoms = len(arrays[2])
        if self.reference is None or self.scheme is None:
            return {"energy_per_atom": energy / atoms}
        total = (energy + scale_correction(self.potential, self.scheme, energy, arrays)) / atoms
        if not math.isfinite(total):
            return {"problem": f"the scheme {self.scheme} has no correction for this composition"}
        composition = {z: float(n) for z, n in formula_key(arrays[2])}
        formation = self.reference.formation_energy(composition, total)
        return {"energy_per_atom": total, **self.place_formation(arrays, formation)}

    def place_formation(self, arrays: Arrays, formation: float) -> dict[str, Any]:
        """The same from a formation energy, eV/atom."""
        assert self.reference is not None
        composition = {z: float(n) for z, n in formula_key(arrays[2])}
        found = self.reference.hull.distance(composition, formation)
        missing = {*found.missing, *self.reference.without_elemental_energy(composition)}
        if not math.isfinite(found.energy_above_hull):
            return {"problem": f"the reference lacks {' '.join(sorted(missing)) or 'an energy'}"}
        name = self.reference.entry_name
        return {
            "formation_energy_per_atom": formation,
            "energy_above_hull": found.energy_above_hull,
            "decomposition": "; ".join(f"{name(e)} {share:.3f}" for e, share in sorted(found.decomposition.items())),
        }

    def measure(self, name: str, arrays: Arrays, facts: Facts, values: dict[str, Any]) -> dict[str, Any]:
        """All that can be measured of a crystal, by canonical name."""
        crystal = Judged(Sample(name, *arrays), facts=facts, relaxed=facts)
        crystal.energy_per_atom = values.get("energy_per_atom")
        crystal.formation_energy = values.get("formation_energy_per_atom")
        crystal.energy_above_hull = values.get("energy_above_hull")
        crystal.bulk_modulus = values.get("bulk_modulus")
        measure([crystal], True, self.predictors, lambda _: arrays)
        return dict(crystal.measured)


def unmet(tests: Sequence[Requirement], values: dict[str, Any], yet_to_come: Sequence[str] = ()) -> str:
    """The first requirement that a candidate does not meet; empty if it meets all but those on what is yet to come."""
    for test in tests:
        if test.name in yet_to_come:
            continue
        if not test.met(values.get(test.name)):
            return test.text
    return ""
