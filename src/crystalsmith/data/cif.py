"""CIF text to a crystal: a small reader for what databases write, pymatgen for what it does not understand.

Files that name their symmetry operations (or have none but the identity) are read here, some thirty times faster than
the general parser; files that give a space group only by its symbol, or mixed occupancies, are left to pymatgen.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from crystalsmith.cells import cell_from_parameters
from crystalsmith.data.rows import Crystal, RowError, crystal, element

MAX_SITES = 1000
"""Sites in one CIF; preparation wants small crystals, and one file must not hold up all others."""

MAX_TEXT = 4 * 2**20
"""Bytes of the largest CIF read; files and zip members are measured before they are unpacked."""

MAX_LINE = 4096
"""Characters in a line; CIF allows 2048. Longer ones are no CIF, and would cost time squared."""

SAME_SITE = 0.05
"""Angstrom within which symmetry images of one site are one atom."""

MAX_LOOKED_UP = 200
"""Sites in a CIF whose symmetry pymatgen has to look up, which it does in a time that grows with their square."""

Values = dict[str, list[str]]
Operations = list[tuple[NDArray[np.float64], NDArray[np.float64]]]

_TOKEN = re.compile(r"""'(?:[^'\n]|'(?=\S))*'(?=\s|$)|"(?:[^"\n]|"(?=\S))*"(?=\s|$)|\#[^\n]*|[^\s'"#][^\s]*|\S+""")
_CELL = tuple(f"_cell_length_{k}" for k in "abc") + tuple(f"_cell_angle_{k}" for k in ("alpha", "beta", "gamma"))
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NAMES = ("_symmetry_space_group_name_h-m", "_space_group_name_h-m_alt", "_space_group_name_hall")
_GROUP_NUMBERS = ("_symmetry_int_tables_number", "_space_group_it_number")


def crystal_from_cif(text: str) -> Crystal:
    """The crystal of the first data block that holds atoms.

    Raises:
        RowError: if the text holds no complete ordered crystal.
    """
    if "\0" in text:
        raise RowError("unreadable", "binary data instead of CIF text")
    if len(text) > MAX_TEXT:
        raise RowError("too_large", f"the CIF is longer than {MAX_TEXT // 2**20} MB")
    if max(map(len, text.splitlines()), default=0) > MAX_LINE:
        raise RowError("unreadable", f"a line is longer than {MAX_LINE} characters")
    blocks = [values for values in _blocks(text) if "_atom_site_fract_x" in values]
    if not blocks:
        raise RowError("unreadable", "no CIF block with _atom_site_fract_x")
    values = blocks[0]
    sites = len(values["_atom_site_fract_x"])
    if sites > MAX_SITES:
        raise RowError("too_many_atoms", f"{sites} sites in one CIF (at most {MAX_SITES} are read)")
    missing = [name for name in (*_CELL, "_atom_site_fract_y", "_atom_site_fract_z") if name not in values]
    if missing:
        raise RowError("unreadable", f"the CIF has no {missing[0]}")
    try:
        parameters = [_number(values[name][0]) for name in _CELL]
        cell = cell_from_parameters(parameters[:3], parameters[3:])
    except ValueError as error:
        raise RowError("bad_cell", str(error)) from None
    _refuse_disorder(values)
    operations = _operations(values)
    if operations is None:
        if sites > MAX_LOOKED_UP:
            raise RowError("too_many_atoms", f"{sites} sites and no symmetry operations (at most {MAX_LOOKED_UP})")
        return _with_pymatgen(text)
    columns = [[_number(x) for x in values[f"_atom_site_fract_{k}"]] for k in "xyz"]
    numbers = _species(values)
    if any(length != sites for length in (len(numbers), *map(len, columns))):
        raise RowError("bad_shape", "the columns of the atom loop differ in length")
    coords = np.array(columns).T
    if not np.isfinite(coords).all():
        raise RowError("not_finite", "a coordinate is NaN or infinite")
    if len(operations) > 1:
        coords, numbers = _apply(operations, coords, numbers, cell)
    return crystal(coords, cell, numbers)


def _blocks(text: str) -> Iterator[Values]:
    """Each data block as tag (lower case) to its values; a tag outside a loop has one."""
    values: Values = {}
    tokens = list(_tokens(text))
    k = 0
    while k < len(tokens):
        token = tokens[k]
        lowered = token.lower()
        if lowered.startswith("data_"):
            if values:
                yield values
            values = {}
            k += 1
        elif lowered == "loop_":
            k = _loop(tokens, k + 1, values)
        elif token.startswith("_") and k + 1 < len(tokens):
            values[lowered] = [_unquote(tokens[k + 1])]
            k += 2
        else:
            k += 1
    if values:
        yield values


def _tokens(text: str) -> Iterator[str]:
    if "\n;" in text:
        # Multi-line text fields hold prose, never what is needed here.
        text = re.sub(r"(?ms)^;.*?^;", " '' ", text)
    for token in _TOKEN.findall(text):
        if not token.startswith("#"):
            yield token


def _loop(tokens: list[str], k: int, values: Values) -> int:
    """Read one loop into the values; returns the place after it."""
    tags = []
    while k < len(tokens) and tokens[k].startswith("_"):
        tags.append(tokens[k].lower())
        k += 1
    start = k
    while k < len(tokens) and not (tokens[k].startswith("_") or tokens[k].lower() in ("loop_",)):
        if tokens[k].lower().startswith("data_"):
            break
        k += 1
    for column, tag in enumerate(tags):
        values[tag] = [_unquote(token) for token in tokens[start + column : k : len(tags)]]
    return k


def _unquote(token: str) -> str:
    if len(token) >= 2 and token[0] == token[-1] and token[0] in "'\"":
        return token[1:-1]
    return token


def _number(text: str) -> float:
    """A CIF number without its uncertainty, ``5.6402(3)`` -> 5.6402.

    Raises:
        RowError: if it is no number (``?`` and ``.`` stand for unknown ones).
    """
    try:
        return float(text.split("(")[0])
    except ValueError:
        raise RowError("not_finite", f"'{text[:20]}' stands where a number should") from None


def _refuse_disorder(values: Values) -> None:
    for text in values.get("_atom_site_occupancy", []):
        if text not in (".", "?") and abs(_number(text) - 1.0) > 1e-3:
            raise RowError("disordered", f"a site has occupancy {text[:12]}")


def _species(values: Values) -> NDArray[np.int64]:
    for tag in ("_atom_site_type_symbol", "_atom_site_label"):
        if tag in values:
            return np.array([element(text) for text in values[tag]], dtype=np.int64)
    raise RowError("unreadable", "the CIF names no elements (_atom_site_type_symbol)")


def _operations(values: Values) -> Operations | None:
    """Symmetry operations, or None where the file leaves them to be looked up from the space group."""
    for tag in _OPERATIONS:
        if tag in values:
            try:
                return [_operation(text) for text in values[tag]]
            except (ValueError, ZeroDivisionError):
                return None
    names = [values[tag][0].replace(" ", "").upper() for tag in _GROUP_NAMES if tag in values]
    numbers = [values[tag][0] for tag in _GROUP_NUMBERS if tag in values]
    if all(name in ("P1", "?", ".") for name in names) and all(number in ("1", "?", ".") for number in numbers):
        return [_operation("x,y,z")]
    return None


def _operation(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation and translation of ``-y, x-y, z+1/3``."""
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    parts = text.lower().replace(" ", "").split(",")
    if len(parts) != 3:
        raise ValueError(text)
    for row, part in enumerate(parts):
        for sign, term in re.findall(r"([+-]?)([^+-]+)", part):
            factor = -1.0 if sign == "-" else 1.0
            if term in ("x", "y", "z"):
                rotation[row, "xyz".index(term)] += factor
            else:
                translation[row] += factor * float(Fraction(term))
    if abs(abs(np.linalg.det(rotation)) - 1.0) > 1e-6:
        raise ValueError(text)
    return rotation, translation


def _apply(
    operations: Operations, coords: NDArray[np.float64], numbers: NDArray[np.int64], cell: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All atoms of the cell: images of each site under the operations, those that coincide taken once."""
    if len(coords) * len(operations) > 20 * MAX_SITES:
        raise RowError("too_many_atoms", f"{len(coords)} sites under {len(operations)} symmetry operations")
    rotations = np.array([r for r, _ in operations])
    translations = np.array([t for _, t in operations])
    all_coords, all_numbers = [], []
    for site, number in zip(coords, numbers, strict=True):
        images = rotations @ site + translations
        delta = images[:, None] - images[None, :]
        delta -= np.rint(delta)
        same = np.linalg.norm(delta @ cell, axis=-1) < SAME_SITE
        # The first image of each group of coinciding ones stands for it.
        kept = images[same.argmax(axis=1) == np.arange(len(images))]
        all_coords.append(kept)
        all_numbers.append(np.full(len(kept), number))
    return np.concatenate(all_coords), np.concatenate(all_numbers)


def _with_pymatgen(text: str) -> Crystal:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
    if not structure.is_ordered:
        raise RowError("disordered", "a site holds several elements or vacancies")
    numbers = [element(site.specie.symbol) for site in structure]
    return crystal(structure.frac_coords, structure.lattice.matrix, numbers)
