"""A plan: everything that decides one crystal, as plain data. A worker needs the model and plans, nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from crystalsmith.diffusion.noise import crystal_number
from crystalsmith.diffusion.orbit_counts import Counts
from crystalsmith.symmetry.wyckoff import Sites, Template, sites_of

Value = float | str | None
"""A number, a chemical system such as ``Fe-Li-O``, or None: unconditional."""

Points = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Arrangement:
    """The symmetry of a crystal before it is made.

    Attributes:
        template: its orbits.
        points: a point on the Wyckoff position of each orbit, in the standard primitive cell.
        elements: the atomic number of each orbit, for models that are given it, or empty.
        held: the atomic number that each orbit keeps, 0 where it is open; empty where all are.
    """

    template: Template
    points: Points
    elements: tuple[int, ...] = ()
    held: tuple[int, ...] = ()

    @property
    def sites(self) -> Sites:
        """Where the atoms may stand."""
        return sites_of(self.template, self.points)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Atoms of each orbit."""
        return _orbit_sizes(self.template, self.points)

    def numbers(self) -> list[int]:
        """The element of each atom, where those of the orbits are decided."""
        return [z for z, size in zip(self.elements, self.sizes, strict=True) for _ in range(size)]


@lru_cache(maxsize=65536)
def _orbit_sizes(template: Template, points: Points) -> tuple[int, ...]:
    first = sites_of(template, points).first.tolist()
    return tuple(first.count(atom) for atom in dict.fromkeys(first))


@dataclass(frozen=True)
class Start:
    """The crystal that another starts from, and what is kept of it.

    Attributes:
        frac_coords: one row per atom.
        cell: three rows, the lattice vectors in angstrom.
        numbers: atomic number of each atom.
        fix_sites: sites (from 0) whose position and element are kept.
        fix_cell: keep the cell.
        fix_elements: keep the element of every atom.
        redecorate: keep the space group and draw every element anew.
    """

    frac_coords: tuple[tuple[float, ...], ...]
    cell: tuple[tuple[float, ...], ...]
    numbers: tuple[int, ...]
    fix_sites: tuple[int, ...] = ()
    fix_cell: bool = False
    fix_elements: bool = False
    redecorate: bool = False

    @property
    def holds(self) -> bool:
        """Whether any part is kept."""
        return bool(self.fix_sites) or self.fix_cell or self.fix_elements


@dataclass(frozen=True)
class Plan:
    """All that decides one crystal; with the model and how it is sampled, the crystal is a function of it.

    Attributes:
        seed, index, attempt: the name of its random stream; ``attempt`` counts the proposals that were turned down.
        num_atoms: atoms in the cell.
        counts: atoms of each element, or empty where the composition is free.
        allowed: atomic numbers that may appear, or empty: all of the model.
        required: atomic numbers that appear at least once.
        turn: how many crystals of the same composition and size come before it.
        arrangement: its symmetry, or None.
        targets: property and what it shall be, in the order of the request.
        start: the crystal that it starts from, or None.
        labels: further columns of the table of results, told by the source.
    """

    seed: int
    index: int
    attempt: int = 0
    num_atoms: int = 0
    counts: Counts = ()
    allowed: tuple[int, ...] = ()
    required: tuple[int, ...] = ()
    turn: int = 0
    arrangement: Arrangement | None = None
    targets: tuple[tuple[str, Value], ...] = ()
    start: Start | None = None
    labels: tuple[tuple[str, Any], ...] = ()

    def uniform(self, field: int) -> float:
        """A number in (0, 1) of the crystal's own random stream."""
        return crystal_number(self.seed, self.index, field, self.attempt)

    def columns(self) -> dict[str, Any]:
        """What was asked of the crystal, as columns of the table of results."""
        row: dict[str, Any] = {}
        if self.arrangement is not None:
            template = self.arrangement.template
            row |= {"asked_space_group": template.number, "wyckoff_letters": template.letters}
        return row | {f"target_{name}": value for name, value in self.targets} | dict(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not asked is left out."""
        values = dataclasses.asdict(self)
        blank = {f.name: f.default for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if name == "attempt" or value != blank[name]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`to_dict` and JSON made plain."""
        plain = {name: _tuples(value) for name, value in values.items()}
        if (arrangement := plain.get("arrangement")) is not None:
            plain["arrangement"] = Arrangement(**arrangement | {"template": Template(**arrangement["template"])})
        if (start := plain.get("start")) is not None:
            plain["start"] = Start(**start)
        return Plan(**plain)


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
