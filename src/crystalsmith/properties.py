"""The registry of properties a crystal can be labelled with and conditioned on.

One canonical name each; files of other projects use other names for the same thing, which are aliases here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["scalar", "log", "category", "elements"]


@dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        name: canonical name, also the name of its label file.
        kind: ``scalar``; ``log`` (a positive scalar that models see as log10); ``category`` (whole number);
            ``elements`` (a set of elements, read off the crystal itself).
        unit: empty for pure numbers.
        description: one line for people.
        aliases: names in other projects' files, the preferred first when one file holds several.
        bounds: what a label can be at all; anything outside is an error of the source and is not trained on.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    aliases: tuple[str, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property(
            "band_gap", "scalar", "eV", "electronic band gap", ("dft_band_gap", "bandgap", "band_gap_pbe"), (0.0, 30.0)
        ),
        Property(
            "bulk_modulus",
            "log",
            "GPa",
            "bulk modulus, Voigt-Reuss-Hill average",
            ("dft_bulk_modulus", "k_vrh", "bulk_modulus_vrh", "ml_bulk_modulus"),
            (0.0, 1000.0),
        ),
        Property(
            "energy_above_hull",
            "scalar",
            "eV/atom",
            "energy above the convex hull",
            ("e_above_hull", "e_hull", "ehull", "energy_above_hull_per_atom"),
            (-5.0, 20.0),
        ),
        Property(
            "energy_per_atom",
            "scalar",
            "eV/atom",
            "total DFT energy per atom, without corrections",
            ("energy_per_atom_mpf_raw",),
        ),
        Property(
            "formation_energy_per_atom",
            "scalar",
            "eV/atom",
            "formation energy from the elements",
            ("formation_energy", "e_form", "e_formation_per_atom"),
            (-20.0, 20.0),
        ),
        Property(
            "hhi_score",
            "scalar",
            "",
            "Herfindahl-Hirschman index of the supply of its elements: mean of production and reserves",
            ("hhi",),
            (0.0, 10000.0),
        ),
        Property("hhi_production", "scalar", "", "Herfindahl-Hirschman index of production", (), (0.0, 10000.0)),
        Property("hhi_reserve", "scalar", "", "Herfindahl-Hirschman index of reserves", (), (0.0, 10000.0)),
        Property(
            "mag_density",
            "scalar",
            "Bohr magnetons per cubic angstrom",
            "magnetic moment per volume",
            ("dft_mag_density", "magnetic_density"),
            (-1.0, 1.0),
        ),
        Property("density", "scalar", "g/cm^3", "mass density", (), (0.0, 40.0)),
        Property("num_elements", "scalar", "", "number of different elements", ("nelements",), (1.0, 100.0)),
        Property(
            "space_group",
            "category",
            "",
            "space group number, 1 to 230",
            ("spacegroup", "spacegroup.number", "spacegroup_number", "space_group_number", "sg", "spg"),
            (1.0, 230.0),
        ),
        Property("chemical_system", "elements", "", "the set of elements in the crystal", ("chemsys",)),
    )
}
"""All known properties by canonical name."""

_CANONICAL: dict[str, tuple[str, int]] = {
    alias: (p.name, rank) for p in PROPERTIES.values() for rank, alias in enumerate((p.name, *p.aliases))
}


def canonical_name(name: str) -> str:
    """Our name of a property that may carry another project's name; unknown names come back unchanged."""
    return _CANONICAL.get(name.strip().lower(), (name.strip(), 0))[0]


def preference(name: str) -> int:
    """Rank of a name among those of its property: 0 is taken first where one file holds several of them."""
    return _CANONICAL.get(name.strip().lower(), (name, 0))[1]


_SCALES: dict[str, dict[str, float]] = {
    "eV": {"eV": 1.0, "meV": 1e-3, "keV": 1e3, "Ha": 27.211386246, "Ry": 13.605693123, "kJ/mol": 0.010364270},
    "eV/atom": {"eV/atom": 1.0, "eV": 1.0, "meV/atom": 1e-3, "meV": 1e-3, "kJ/mol": 0.010364270},
    "GPa": {"GPa": 1.0, "Pa": 1e-9, "kPa": 1e-6, "MPa": 1e-3, "TPa": 1e3, "bar": 1e-4, "kbar": 0.1},
    "g/cm^3": {"g/cm^3": 1.0, "g/cm3": 1.0, "g/cc": 1.0, "kg/m3": 1e-3, "kg/m^3": 1e-3},
}
"""By unit of ours: other units and what a number in them is multiplied by (CODATA 2018; kJ/mol per mole of atoms)."""


def unit_factor(unit: str, ours: str) -> float | None:
    """What a number in ``unit`` is multiplied by to be in the unit of a property; None where it is no such unit."""
    return _SCALES.get(ours, {ours: 1.0}).get(unit)


def likely_unit(values: Sequence[float], known: Property) -> str:
    """The unit that impossible values of a property seem to be in: the one that brings most of them within its bounds.

    Returns:
        empty where none brings nine of ten within.
    """
    low, high = known.bounds
    others = [(f, unit) for unit, f in _SCALES.get(known.unit, {}).items() if f < 1.0]
    for factor, unit in sorted(others, reverse=True):
        if sum(low <= v * factor <= high for v in values) >= 0.9 * len(values):
            return unit
    return ""
