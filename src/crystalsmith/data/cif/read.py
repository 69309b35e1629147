"""CIF text to crystals: every data block, read rightly or refused by name.

Symmetry that is not understood is never P 1. Where a block can mean several crystals, the one that agrees with its own
formula, Z and multiplicities is taken; where none does, or several do, it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crystalsmith.cells import cell_from_parameters
from crystalsmith.data.cif.blocks import Block, blocks, number
from crystalsmith.data.cif.evidence import Formula, Verdict, check_hydrogens, check_volume, formula_of, judge
from crystalsmith.data.cif.groups import Group
from crystalsmith.data.cif.sites import LOOSE_SITE, SAME_SITE, Atoms, Sites, expand, same_atoms, sites_of
from crystalsmith.data.cif.symmetry import Symmetry, symmetry_of
from crystalsmith.data.rows import Crystal, Note, Refused, Row, RowError, crystal

DISORDER = ("refuse", "largest")
"""What becomes of partly occupied sites."""

_CELL = tuple(f"_cell_length_{k}" for k in "abc") + tuple(f"_cell_angle_{k}" for k in ("alpha", "beta", "gamma"))


@dataclass(frozen=True)
class Found:
    """One crystal of a CIF.

    Attributes:
        crystal: atoms in the order of the file.
        notes: what is strange about it.
    """

    crystal: Crystal
    notes: tuple[Note, ...] = ()


def crystals_of_cif(text: str, disorder: str = "refuse") -> list[Found | RowError]:
    """The crystals of all data blocks, in order; an error in the place of one that cannot be trusted.

    Blocks without a cell and atoms (those of a publication, say) are no crystals.

    Raises:
        RowError: if no block holds a crystal.
    """
    found: list[Found | RowError] = []
    for block in blocks(text):
        if isinstance(block, RowError):
            found.append(block)
        elif "_atom_site_fract_x" in block or "_cell_length_a" in block or "_atom_site_cartn_x" in block:
            try:
                found.append(_crystal(block, disorder))
            except RowError as error:
                found.append(error)
    if not found:
        raise RowError("unreadable", "no CIF block with a cell and _atom_site_fract_x")
    return found


def rows_of_cif(
    number: int,
    name: str,
    text: str,
    disorder: str,
    labels: Mapping[str, float] | None = None,
    split: str | None = None,
    odd: Mapping[str, str] | None = None,
) -> list[Row | Refused]:
    """The crystals of a CIF as rows: one keeps the name, several are ``name:1``, ``name:2``.

    Labels belong to one crystal; they are left out, with a note, where the text holds several.
    """
    found = crystals_of_cif(text, disorder)
    rows: list[Row | Refused] = []
    for k, one in enumerate(found, start=1):
        each = name if len(found) == 1 else f"{name}:{k}"
        if isinstance(one, RowError):
            rows.append(Refused(number, each, one.reason, one.detail))
            continue
        notes, own, texts = one.notes, dict(labels or {}), dict(odd or {})
        if (own or texts) and len(found) > 1:
            notes, own, texts = (*notes, ("labels_left_out", f"one row of labels for {len(found)} crystals")), {}, {}
        rows.append(Row(number, each, *one.crystal, own, split, texts, notes))
    return rows


def _crystal(block: Block, disorder: str) -> Found:
    if not block.column("_atom_site_fract_x"):
        what = "Cartesian" if "_atom_site_cartn_x" in block else "no"
        raise RowError("unreadable", f"a cell with {what} coordinates instead of _atom_site_fract_x")
    missing = [name for name in _CELL if not block.column(name)]
    if missing:
        raise RowError("unreadable", f"the CIF has no {missing[0]}")
    try:
        parameters = [number(block.column(name)[0], name) for name in _CELL]
        cell = cell_from_parameters(parameters[:3], parameters[3:])
    except ValueError as error:
        raise RowError("bad_cell", str(error)) from None
    except RowError as error:
        raise RowError("bad_cell", error.detail) from None
    notes = check_volume(block, abs(float(np.linalg.det(cell))))
    sites = sites_of(block, cell, disorder)
    if not len(sites):
        raise RowError("no_atoms", "the crystal has no atoms")
    check_hydrogens(block, sites)
    symmetry = symmetry_of(block, cell)
    formula, strange = formula_of(block)
    atoms, further = _decide(sites, symmetry, formula, cell)
    return Found(
        crystal(atoms.coords, cell, atoms.numbers), (*notes, *sites.notes, *symmetry.notes, *strange, *further)
    )


@dataclass(frozen=True)
class _Reading:
    group: Group
    atoms: Atoms
    verdict: Verdict


def _decide(
    sites: Sites, symmetry: Symmetry, formula: Formula | None, cell: NDArray[np.float64]
) -> tuple[Atoms, tuple[Note, ...]]:
    """The atoms of the reading that the file itself bears out."""
    readings = _read(sites, symmetry, formula, cell, SAME_SITE)
    standing = _distinct([reading for reading in readings if not reading.verdict.contradicts], cell)
    if not standing:
        # Coordinates with too few digits miss their special positions; the formula tells.
        loose = _read(sites, symmetry, formula, cell, LOOSE_SITE)
        standing = _distinct([reading for reading in loose if reading.verdict.agrees], cell)
        if len(standing) == 1:
            note = (
                "moved_onto_symmetry",
                "atoms off their special positions were moved onto them, as formula and Z say",
            )
            return _accepted(_noting(standing[0], note), symmetry)
        return _against(readings[0], symmetry)
    if len(standing) > 1:
        standing = [reading for reading in standing if reading.verdict.agrees] or standing
    if len(standing) > 1:
        raise RowError("ambiguous", f"{symmetry.doubt}: formula and multiplicities do not tell which is meant")
    if symmetry.doubt and len(symmetry.readings) == 1 and not standing[0].verdict.agrees:
        raise RowError("symmetry", f"{symmetry.doubt}: nothing in the file tells what is meant")
    return _accepted(standing[0], symmetry)


def _noting(reading: _Reading, *notes: Note) -> _Reading:
    """The reading with further notes."""
    return replace(reading, verdict=replace(reading.verdict, notes=(*reading.verdict.notes, *notes)))


def _read(
    sites: Sites, symmetry: Symmetry, formula: Formula | None, cell: NDArray[np.float64], tolerance: float
) -> list[_Reading]:
    found = []
    for group in symmetry.readings:
        atoms = expand(sites, group, cell, tolerance)
        found.append(_Reading(group, atoms, judge(sites, atoms, len(group), formula)))
    return found


def _distinct(readings: list[_Reading], cell: NDArray[np.float64]) -> list[_Reading]:
    """One reading of each crystal."""
    found: list[_Reading] = []
    for reading in readings:
        if not any(same_atoms(reading.atoms, other.atoms, cell) for other in found):
            found.append(reading)
    return found


def _accepted(reading: _Reading, symmetry: Symmetry) -> tuple[Atoms, tuple[Note, ...]]:
    notes = list(reading.verdict.notes)
    if symmetry.doubt:
        notes.append(("symmetry", f"{symmetry.doubt}: {reading.group.name} agrees with the rest of the file"))
    if reading.atoms.repeated:
        notes.append(("repeated_sites", f"{reading.atoms.repeated} sites are images of others and were taken once"))
    return reading.atoms, tuple(notes)


def _against(reading: _Reading, symmetry: Symmetry) -> tuple[Atoms, tuple[Note, ...]]:
    """Nothing agrees: kept with a note where the symmetry is said twice and only Z or the solvent is off."""
    verdict = reading.verdict
    if verdict.mends is not None and symmetry.agreed and symmetry.listed:
        return _accepted(_noting(reading, verdict.mends), symmetry)
    reason = "missing_atoms" if "without positions" in verdict.contradicts else "contradiction"
    doubt = f"{symmetry.doubt}, and " if symmetry.doubt else ""
    raise RowError(reason, doubt + verdict.contradicts)
