"""Energies of a potential on the hull of a reference."""

from __future__ import annotations

import math
from typing import Any

from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.potential.potentials import find_potential, refuse_scheme, scale_correction
from crystalsmith.evaluation.reference.known import Reference


class Placing:
    """Brings a potential's energies to a reference's scale and places them on its hull.

    Args:
        reference: None, or one without energies: then there is no hull.
        potential, scale: whose energies are placed.

    Raises:
        InputError: if the energies of the potential and the reference do not belong together.
    """

    def __init__(self, reference: Reference | None, potential: str, scale: str | None = None) -> None:
        self.reference = reference if reference is not None and reference.num_entries else None
        self.potential = find_potential(potential, scale)
        self.scheme = None if self.reference is None else self.reference.corrections
        refuse_scheme(self.potential, self.scheme)

    def place(self, arrays: Arrays, energy: float) -> dict[str, Any]:
        """Energies in eV/atom: per atom as the reference has it, of formation, above the hull; and what it decays to.

        Args:
            energy: total, eV per cell, as the potential gives it.

        Returns:
            ``problem``, a phrase, where one of them cannot be had.
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
