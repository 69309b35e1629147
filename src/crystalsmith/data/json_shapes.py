"""The crystal in a JSON object, whoever wrote it: pymatgen, OPTIMADE, JARVIS, ASE, or columns of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystalsmith.data.cif.read import rows_of_cif
from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.json_stream import loads
from crystalsmith.data.rows import (
    CARTESIAN_NAMES,
    CELL_NAMES,
    CIF_NAMES,
    FRACTIONAL_NAMES,
    ID_NAMES,
    SPECIES_NAMES,
    SPLIT_NAMES,
    Crystal,
    Note,
    Refused,
    Row,
    RowError,
    crystal,
    element,
    fractional,
    labels_of,
    row_id,
    split_name,
)

Shape = Mapping[str, Any]

_HELD_UNDER = ("structure", "atoms", "final_structure", "crystal", "structure_dict")
_NO_LABELS = frozenset(
    ("structure", "atoms", "attributes", "data", "energy", "correction", "key_value_pairs", "ctime", "mtime")
)
VACANCIES = ("vacancy", "X", "Va", "Vac")


def looks_like_crystal(value: Any) -> bool:
    """Whether an entry of a JSON file holds a crystal in a shape that is known."""
    if isinstance(value, str):
        return "_cell_length_a" in value or ('"sites"' in value and '"lattice"' in value)
    if not isinstance(value, Mapping):
        return False
    held = [value[key] for key in _HELD_UNDER if key in value]
    if any(isinstance(one, str) or (isinstance(one, Mapping) and looks_like_crystal(one)) for one in held):
        return True
    lowered = {str(key).lower() for key in value}
    named = any(n.lower() in lowered for n in CELL_NAMES) and any(n.lower() in lowered for n in SPECIES_NAMES)
    keys = ({"sites"}, {"attributes"}, {"lattice_mat"}, {"numbers", "positions"}, {"composition", "energy"})
    return named or any(needed <= lowered for needed in keys) or any(n in lowered for n in CIF_NAMES)


def rows_of_entry(number: int, name: str, entry: Any, disorder: str = "refuse") -> list[Row | Refused]:
    """The crystal of an entry with the labels beside it.

    Raises:
        RowError: if there is none, naming what the entry is.
    """
    if isinstance(entry, str):
        if "_cell_length_a" in entry and not entry.lstrip().startswith(("{", "[")):  # no JSON text with a CIF in it
            return rows_of_cif(number, name, entry, disorder)
        entry = loads(entry)
    if not isinstance(entry, Mapping):
        raise RowError("unreadable", f"a {type(entry).__name__} instead of a structure")
    values = _values(entry)
    lowered = {str(k).lower(): v for k, v in values.items()}
    found = next((lowered[k] for k in ID_NAMES if lowered.get(k) not in (None, "")), None)
    split = next((split_name(lowered[k]) for k in SPLIT_NAMES if k in lowered), None)
    each, (labels, odd) = row_id(found, name), labels_of(values)
    held = _held(entry)
    if isinstance(held, str):
        return rows_of_cif(number, each, held, disorder, labels, split, odd)
    notes: list[Note] = []
    return [Row(number, each, *_crystal(held, disorder, notes), labels, split, odd, tuple(notes))]


def _values(entry: Shape) -> dict[str, Any]:
    """What stands beside the crystal."""
    values = {k: v for k, v in entry.items() if k not in _NO_LABELS}
    for inner in ("attributes", "data", "key_value_pairs"):
        if isinstance(entry.get(inner), Mapping):
            values.update(entry[inner])
    if "sites" in entry:  # a structure by itself: its numbers are no labels
        values = {k: v for k, v in values.items() if k in (*ID_NAMES, *SPLIT_NAMES)}
    return values


def _held(entry: Shape) -> Shape | str:
    """The crystal itself: an object, or CIF text.

    Raises:
        RowError: if the entry holds none.
    """
    for key in _HELD_UNDER:
        if "sites" in entry or "lattice_mat" in entry:
            break
        held = entry.get(key)
        if isinstance(held, str):
            if "_cell_length_a" in held:
                return held
            held = loads(held)
        if isinstance(held, Mapping):
            return held
        if key in entry and held is None:
            raise RowError("missing_value", f"'{key}' is empty")
    lowered = {str(key).lower(): key for key in entry}
    for name in CIF_NAMES:
        if name in lowered and isinstance(entry[lowered[name]], str):
            return str(entry[lowered[name]])
    return entry


def _crystal(held: Shape, disorder: str, notes: list[Note]) -> Crystal:
    if isinstance(held.get("attributes"), Mapping):
        held = held["attributes"]
    lowered = {str(k).lower(): v for k, v in held.items()}
    if "sites" in held:
        if not isinstance(held.get("lattice"), Mapping):
            raise RowError("no_lattice", "a molecule (sites without a lattice) and no crystal")
        return _pymatgen(held, disorder, notes)
    if "species_at_sites" in held and ("species" in held or "lattice_vectors" in held):
        return _optimade(held, disorder, notes)
    if "lattice_mat" in held:
        return _jarvis(held)
    if "numbers" in held and "positions" in held:
        return _ase(held)
    columns = [
        next((lowered[n.lower()] for n in names if lowered.get(n.lower()) is not None), None)
        for names in (CELL_NAMES, FRACTIONAL_NAMES, CARTESIAN_NAMES, SPECIES_NAMES)
    ]
    if columns[0] is not None and columns[3] is not None and (columns[1] is not None or columns[2] is not None):
        return _arrays(*columns)
    if "composition" in held and "energy" in held:
        raise RowError("no_structure", "a computed entry of a composition and an energy, without a structure")
    keys = ", ".join(str(key)[:20] for key in list(held)[:6])
    raise RowError("unreadable", f"no crystal in a shape that is known (an object with {keys or 'no keys'})")


def _bounded(values: Any, what: str) -> Sequence[Any]:
    if not isinstance(values, (list, tuple)):
        raise RowError("unreadable", f"'{what}' is no list")
    if len(values) > MAX_SITES:
        raise RowError("too_many_atoms", f"{len(values)} atoms (at most {MAX_SITES} are read)")
    return values


def _choose(shares: Sequence[tuple[str, float]], disorder: str, notes: list[Note]) -> str | None:
    """The species of a site by their occupancies; None for a vacancy.

    Raises:
        RowError: if there are several, or a vacancy, and these are refused.
    """
    total = math.fsum(share for _, share in shares)
    solid = [(name, share) for name, share in shares if name not in VACANCIES]
    if len(solid) == 1 and abs(solid[0][1] - 1.0) < 1e-3 and abs(total - 1.0) < 1e-3:
        return solid[0][0]
    if disorder == "refuse" or not shares:
        raise RowError("disordered", "a site holds several elements or vacancies")
    note = ("disorder_resolved", "partly occupied sites: the largest occupancy was taken")
    if note not in notes:
        notes.append(note)
    vacancy = 1.0 - math.fsum(share for _, share in solid)
    best = max(solid, key=lambda pair: pair[1], default=("", 0.0))
    return best[0] if best[1] >= vacancy and best[1] > 0 else None


def _pymatgen(structure: Shape, disorder: str, notes: list[Note]) -> Crystal:
    """pymatgen's plain form. Read here, because its own decoder imports whatever a file names."""
    cell = structure["lattice"]["matrix"]
    coords, numbers = [], []
    for site in _bounded(structure["sites"], "sites"):
        species = [(str(one["element"]), float(one.get("occu", 1.0))) for one in site["species"]]
        name = _choose(species, disorder, notes)
        if name is None:
            continue
        numbers.append(element(name))
        coords.append(site["abc"] if "abc" in site else fractional(site["xyz"], cell)[0])
    return crystal(coords, cell, numbers)


def _optimade(attributes: Shape, disorder: str, notes: list[Note]) -> Crystal:
    """Structures as databases with the OPTIMADE interface hand them out."""
    cell, places = attributes.get("lattice_vectors"), attributes.get("cartesian_site_positions")
    if cell is None or places is None or any(None in row for row in cell):
        raise RowError("missing_value", "an OPTIMADE structure without lattice_vectors or cartesian_site_positions")
    known: dict[str, list[tuple[str, float]]] = {}
    for one in attributes.get("species") or []:
        symbols = one["chemical_symbols"]
        known[str(one["name"])] = list(
            zip(map(str, symbols), one.get("concentration", [1.0] * len(symbols)), strict=True)
        )
    coords, numbers = [], []
    names = _bounded(attributes["species_at_sites"], "species_at_sites")
    if len(names) != len(places):
        raise RowError("bad_shape", f"{len(names)} species but {len(places)} positions")
    for species, place in zip(names, places, strict=True):
        chosen = _choose(known.get(str(species), [(str(species), 1.0)]), disorder, notes)
        if chosen is not None:
            numbers.append(element(chosen))
            coords.append(place)
    return crystal(fractional(coords, cell), cell, numbers)


def _jarvis(atoms: Shape) -> Crystal:
    """Atoms of JARVIS: ``lattice_mat``, ``coords``, ``elements``, ``cartesian``."""
    cell, numbers = atoms["lattice_mat"], [element(str(s)) for s in _bounded(atoms["elements"], "elements")]
    coords = atoms["coords"]
    return crystal(fractional(coords, cell) if atoms.get("cartesian") in (True, "True") else coords, cell, numbers)


def _ase(atoms: Shape) -> Crystal:
    """Atoms of ASE, by themselves or as a row of its JSON database."""
    held = atoms.get("cell")
    cell = _array(held.get("array", held) if isinstance(held, Mapping) else held)
    numbers = _array(atoms["numbers"])
    if numbers.size > MAX_SITES:
        raise RowError("too_many_atoms", f"{numbers.size} atoms (at most {MAX_SITES} are read)")
    pbc = np.atleast_1d(_array(atoms.get("pbc", [True] * 3)))
    if cell.size != 9 or not pbc.all():
        raise RowError("no_lattice", "not periodic in three dimensions")
    return crystal(fractional(_array(atoms["positions"]), cell), cell, numbers)


def _array(value: Any) -> np.ndarray:
    """A list of numbers, or the form in which ASE writes arrays."""
    if isinstance(value, Mapping) and "__ndarray__" in value:
        shape, dtype, flat = value["__ndarray__"]
        if not str(dtype).startswith(("int", "float", "bool", "uint")):
            raise RowError("unreadable", f"an array of {str(dtype)[:20]}")
        return np.asarray(flat, dtype=np.float64).reshape([int(n) for n in shape])
    return np.asarray(value, dtype=np.float64)


def _arrays(cell: Any, frac: Any, cart: Any, species: Any) -> Crystal:
    """Columns of a table: lattice, coordinates, species."""
    names = _bounded(species, "species")
    numbers = [element(s) if isinstance(s, str) else s for s in names]
    return crystal(frac if frac is not None else fractional(cart, cell), cell, numbers)
