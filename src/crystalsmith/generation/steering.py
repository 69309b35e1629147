"""The options that steer a request, as the user writes them, in Python and on the command line alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Names = str | Sequence[str]


@dataclass(frozen=True)
class Steering:
    """What crystals shall be like; None (or False) where nothing is asked.

    Attributes:
        chemical_system: only these elements, as ``"Li-Fe-O"``.
        require_all: every element of the chemical system appears.
        allow, deny, require: element lists: only these; none of these; each of these at least once.
        deny_list: named lists of elements that do not appear, ``"scarce,radioactive,noble,toxic"``.
        max_hhi: only elements whose index of supply (Herfindahl-Hirschman, up to 10000) is at most this.
        prefer: factors on the odds of elements, ``"Li:3,Co:0.2"``: more or fewer of them, no rule.
        formula: exact composition, as ``"LiFePO4"``.
        formula_units: formula units per cell, ``4`` or ``"1-4"``.
        compositions: a table with a column ``formula``, a prepared data set, or formulas, taken in turn.
        samples: crystals of each composition.
        split, limit: which rows of the prepared data set (``test``), and how many of the compositions.
        space_group: numbers, ranges (``"195-230"``), crystal systems (``cubic``) or ``any``: the symmetry is kept
            exactly, on Wyckoff positions drawn as known crystals have them.
        templates: file of Wyckoff templates to draw from, or of crystals whose own are taken, or a bundled model that
            brings some, in place of the model's own or those of MP-20.
        template_elements: what stands in place of the elements of the crystal in ``templates``, ``"Sr=Ba,O=O"``; the
            other orbits are open.
        start_from: file of a crystal (or several, taken in turn) to start from, or the crystals as plain lists.
        strength: the time in (0, 1] that it is noised to: near 0 its relatives, 1 nothing of it but what is kept.
        fix_sites: sites whose position and element are kept, ``"0,1,5"`` or ``"0-6"``, counted from 0.
        fix_cell, fix_elements: keep the cell; keep the elements of all its atoms.
        resample: passes through each stretch of the way, so that free and kept parts agree better.
        redecorate: keep the space group and, as far as ``strength`` says, the geometry of the crystal to start from,
            and draw its elements anew.
        novel_to: folder of a reference set: a crystal whose reduced formula it holds is turned down, and the next
            proposal is made for it.
        select: proposals for each crystal, of which the one of the lowest prediction stays.
        selector: for that: a predictor, bundled or a folder (of the energy above the hull if nothing is said), or a
            potential on the hull of ``novel_to``.
        disorder: what becomes of partly occupied sites in the files that are named, ``refuse`` or ``largest``.
        properties: targets of properties that the model knows, ``{"band_gap": 2.0}`` or ``["band_gap=2.0"]``; a value
            may be several separated by commas, taken in turn, or a range ``0.5..3`` to draw from.
        targets: CSV file of targets, a column per property, rows taken in turn.
        guidance: how strongly targets are followed: a factor, or factors by property.
        guidance_interval: times between which guidance extrapolates, ``"0.2..0.8"``.
    """

    chemical_system: Names | None = None
    require_all: bool = False
    allow: Names | None = None
    deny: Names | None = None
    require: Names | None = None
    deny_list: Names | None = None
    max_hhi: float | None = None
    prefer: str | Mapping[str, float] | None = None
    formula: str | None = None
    formula_units: str | int | None = None
    compositions: str | Sequence[str] | None = None
    samples: int | None = None
    split: str | None = None
    limit: int | None = None
    space_group: str | int | Sequence[int] | None = None
    templates: str | None = None
    template_elements: str | Mapping[str, str] | None = None
    start_from: str | Sequence[Any] | None = None
    strength: float | None = None
    fix_sites: str | Sequence[int] | None = None
    fix_cell: bool = False
    fix_elements: bool = False
    resample: int | None = None
    redecorate: bool = False
    novel_to: str | None = None
    select: int | None = None
    selector: str | None = None
    disorder: str | None = None
    properties: Mapping[str, Any] | Sequence[str] | None = None
    targets: str | None = None
    guidance: float | str | Mapping[str, float] | Sequence[str] | None = None
    guidance_interval: str | Sequence[float] | None = None

    def given(self) -> dict[str, Any]:
        """The options that were given, as plain values for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None and value is not False}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (str, int, float)):
        return value
    return [_plain(item) for item in value] if isinstance(value, Sequence) else str(value)
