"""What a data block says about its symmetry: each group that it can mean, the likeliest first.

A block may say it up to four times: by a list of operations, a Hall symbol, a Hermann-Mauguin symbol and a number.
Where these agree there is one reading; where they do not, or leave the origin open, there are several, and formula,
Z and multiplicities decide (:mod:`crystalsmith.data.cif.read`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.cif.blocks import UNKNOWN, Block
from crystalsmith.data.cif.groups import Group, by_hall, by_number, by_symbol, identity
from crystalsmith.data.cif.operations import closed, group_of
from crystalsmith.data.rows import Note, RowError

_LISTS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_as_xyz",
    "_space_group_symop_as_xyz",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall", "_space_group_hall_name", "_symmetry_name_hall")
_SYMBOLS = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
    "_space_group_name_h-m_ref",
    "_symmetry_name_h-m",
    "_symmetry_space_group_name",
    "_space_group_name",
)
_NUMBERS = (
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_symmetry_space_group_it_number",
    "_space_group_number",
)
_CODES = ("_space_group_it_coordinate_system_code", "_symmetry_int_tables_coordinate_system_code")
_MAGNETIC = (
    "_space_group_symop_magn_operation_xyz",
    "_space_group_magn_operation_xyz",
    "_space_group_symop_magn_xyz",
    "_space_group_symop_magn_operation",
)
_CENTRINGS = (
    "_space_group_symop_magn_centering_xyz",
    "_space_group_magn_centering_xyz",
    "_space_group_symop_magn_centering",
)
_MODULATED = re.compile(r"_ssg_|_cell_modulation|_cell_wave_vector|_cell_subsystem|_atom_site_fourier|superspace")
_TELLING = re.compile(
    r"symop|equiv_pos|space_?group$|"
    r"_(symmetry|space_group)_.*(name|number|hall|schoenflies|point_group|laue|bravais|patterson)"
)
_SILENT = re.compile(
    r"^_parent_|_child_|_atom_|_geom_|_site_id$|_id$|magn|transform|cell_setting|crystal_system|_wyckoff|_generators"
    r"|_multiplicity|reference_setting|_description|_special_details"
)


@dataclass(frozen=True)
class Symmetry:
    """The groups that a data block can mean.

    Attributes:
        readings: at least one, the likeliest first.
        listed: whether the operations are listed and are more than the identity.
        agreed: whether two of the ways to say it were there and agree, or the crystal is said to have none.
        said: whether anything was said at all.
        doubt: why there are several readings, for a person.
        notes: what was strange about it.
    """

    readings: tuple[Group, ...]
    listed: bool
    agreed: bool
    said: bool
    doubt: str
    notes: tuple[Note, ...] = ()


def symmetry_of(block: Block, cell: NDArray[np.float64]) -> Symmetry:
    """All groups that a block can mean and that fit its cell ``(3, 3)``.

    Raises:
        RowError: if what it says is not understood, or fits no such cell.
    """
    modulated = next((tag for tag in block.values if _MODULATED.search(tag)), "")
    if modulated and any(value.strip() not in (*UNKNOWN, "0") for value in block.values[modulated]):
        raise RowError("modulated", f"a modulated structure ({modulated}); its average is not read")
    listed = _magnetic(block)
    if listed is not None:
        return _fitting(Symmetry((listed,), True, False, True, "", (("magnetic", "moments were left out"),)), cell)
    listed = _listed(block)
    named, notes, words = _named(block)
    if listed is None and not named:
        if words:
            raise RowError("symmetry", f"the space group {words[0]} is not understood, and no operations are listed")
        unread = [tag for tag in block.values if _TELLING.search(tag) and not _SILENT.search(tag)]
        if any(value.strip() not in UNKNOWN for tag in unread for value in block.values[tag]):
            raise RowError("symmetry", f"the symmetry of this file is not understood ({unread[0]})")
        setting = block.one("_symmetry_cell_setting", "_space_group_crystal_system").lower()
        doubt = f"cell setting {setting}" if setting not in ("", "triclinic", "anorthic") else ""
        note = (("no_symmetry", "no space group is given; read as P 1"),)
        return Symmetry((identity(),), False, False, bool(doubt), doubt, () if doubt else note)
    if listed is None:
        kinds = list(dict.fromkeys(group.name.split(":")[0] for group in named))
        doubt = f"the origin or the axes of {kinds[0]}" if len(named) > 1 else ""
        if len({group.number for group in named}) > 1:
            doubt = f"names that contradict one another ({', '.join(kinds[:4])})"
        return _fitting(Symmetry(tuple(named), False, False, True, doubt, notes), cell)
    return _together(listed, named, notes, words, cell)


def _together(
    listed: Group, named: list[Group], notes: tuple[Note, ...], words: list[str], cell: NDArray[np.float64]
) -> Symmetry:
    """Operations and names against one another."""
    same = [group for group in named if _agree(listed, group)]
    if same or not named:
        if words and not named:
            if listed.trivial:
                doubt = f"the operations (x, y, z alone) beside the space group {words[0]}, which is not understood"
                return _fitting(Symmetry((listed,), False, False, True, doubt, notes), cell)
            notes = (*notes, ("unknown_symbol", f"{words[0]} is not understood; the operations were taken"))
        return _fitting(Symmetry((listed,), not listed.trivial, bool(same), True, "", notes), cell)
    doubt = f"the operations ({listed.name}) beside the space group {named[0].name}"
    readings = (*named, listed) if listed.trivial else (listed, *named)
    return _fitting(Symmetry(readings, not listed.trivial, False, True, doubt, notes), cell)


def _agree(listed: Group, named: Group) -> bool:
    """Whether two groups are of one kind; settings that the tables lack are told by their point groups."""
    if listed.number is not None and named.number is not None:
        return listed.number == named.number
    return sorted(map(_trace, listed.rotations)) == sorted(map(_trace, named.rotations)) or (
        sorted({_trace(r) for r in listed.rotations}) == sorted({_trace(r) for r in named.rotations})
        and len({r.tobytes() for r in listed.rotations}) == len({r.tobytes() for r in named.rotations})
    )


def _trace(rotation: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(np.trace(rotation))), round(float(np.linalg.det(rotation)))


def _fitting(found: Symmetry, cell: NDArray[np.float64]) -> Symmetry:
    """Without the readings that do not fit the cell."""
    readings = tuple(group for group in found.readings if group.fits(cell))
    if not readings:
        raise RowError("symmetry", f"the cell has not the symmetry of {found.readings[0].name}")
    settled = len(readings) == 1 < len(found.readings) and found.doubt.startswith("the origin")
    doubt = "" if settled else found.doubt
    return Symmetry(readings, found.listed, found.agreed, found.said, doubt, found.notes)


def _listed(block: Block) -> Group | None:
    for tag in _LISTS:
        texts = tuple(text for text in block.column(tag) if text.strip() not in UNKNOWN)
        if texts:
            return group_of(texts)
    return None


def _magnetic(block: Block) -> Group | None:
    """Operations of a magnetic CIF without their time reversal, times the centrings."""
    texts = next((tuple(block.column(tag)) for tag in _MAGNETIC if tag in block), ())
    if not texts:
        if any("magn" in tag and ("symop" in tag or "operation" in tag) for tag in block.values):
            raise RowError("magnetic", "the magnetic operations of this file are not understood")
        if "_space_group_magn_name_bns" in block and not any(tag in block for tag in (*_LISTS, *_HALL, *_SYMBOLS)):
            raise RowError("magnetic", "a magnetic space group without its operations")
        return None
    group = group_of(texts, primed=True)
    centrings = next((tuple(block.column(tag)) for tag in _CENTRINGS if tag in block), ())
    if not centrings:
        return group
    shifts = group_of(centrings, primed=True)
    rotations = np.concatenate([group.rotations for _ in range(len(shifts))])
    translations = np.concatenate([group.translations + shift for shift in shifts.translations])
    return closed(rotations, translations, f"{len(rotations)} magnetic operations")


def _named(block: Block) -> tuple[list[Group], tuple[Note, ...], list[str]]:
    """The groups of Hall symbol, Hermann-Mauguin symbol and number; and what of these is there at all."""
    code = block.one(*_CODES)
    hall = block.one(*_HALL)
    symbols = dict.fromkeys(value for tag in _SYMBOLS for value in [block.one(tag)] if value)
    number = _whole(block.one(*_NUMBERS))
    words = [*([f"'{hall[:40]}'"] if hall else []), *(f"'{symbol[:40]}'" for symbol in symbols)]
    notes: list[Note] = []
    ways: list[list[Group]] = []
    exact = by_hall(hall) if hall else None
    if exact is not None:
        ways.append([exact])
    for symbol in symbols:
        found = by_symbol(symbol, code)
        if found:
            ways.append(found)
        elif not exact:
            notes.append(("unknown_symbol", f"'{symbol[:40]}' is not understood"))
    if number and not words:
        words.append(f"number {number}")
    if number and 1 <= number <= 230 and not any(group.number == number for way in ways for group in way):
        standard = by_number(number, code)
        # The setting of a symbol that is not understood is not the standard one by necessity.
        if ways or not symbols:
            ways.append(standard)
    return _combined(ways), tuple(notes) if ways else (), words


def _combined(ways: list[list[Group]]) -> list[Group]:
    """One way to name the group narrows down what another leaves open; ways that contradict one another all stay."""
    if not ways:
        return []
    chosen = ways[0]
    for way in ways[1:]:
        both = [group for group in chosen if any(group is other for other in way)]
        if both:
            chosen = both
        elif len(chosen) == 1 and chosen[0].number in {group.number for group in way} and len(way) > 1:
            continue
        else:
            chosen = [*chosen, *(group for group in way if not any(group is other for other in chosen))]
    return chosen


def _whole(text: str) -> int:
    text = text.strip().split(".")[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
