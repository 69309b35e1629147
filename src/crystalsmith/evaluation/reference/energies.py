"""Energies from files: entries of a hull, and energies of the crystals to be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.data.delimited import Delimited, find_column, value_of
from crystalsmith.data.labels import Column, odd_text, plain_number, sentence
from crystalsmith.data.rows import ID_NAMES
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.compositions import parse_composition
from crystalsmith.evaluation.reference.computed import Computed, read_computed, refuse_mixture
from crystalsmith.evaluation.reference.sense import refuse_tiny, wild
from crystalsmith.properties import PROPERTIES, canonical_name
from crystalsmith.schema import read_json

FORMATION, TOTAL = "formation_energy_per_atom", "energy_per_atom"
FORMATION_NAMES = (*PROPERTIES[FORMATION].aliases, FORMATION)
COMPOSITION_NAMES = ("composition", "formula", "formula_pretty", "pretty_formula", "reduced_formula")
SAME_ENERGY = 1e-4
"""eV/atom within which two energies of one id are the same."""

SHOWN = 20
"""Names that are kept of what was left out for one reason."""


@dataclass
class Entries:
    """Compositions with formation energies.

    Attributes:
        names: ids.
        compositions: atomic number to amount.
        energies: formation energies, eV/atom.
        elemental_energies: symbol to eV/atom, where total energies were read.
        corrected: whether computed entries carried corrections; None for energies that do not tell.
        left_out: why entries have no place here, and their names.
        own_names: whether the ids are the entries' own, so that no two may differ.
    """

    names: list[str]
    compositions: list[dict[int, float]]
    energies: list[float]
    elemental_energies: dict[str, float] | None = None
    corrected: bool | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    own_names: bool = True

    def add(self, name: str, composition: dict[int, float], energy: float) -> None:
        """One more entry."""
        self.names.append(name)
        self.compositions.append(composition)
        self.energies.append(energy)

    def leave_out(self, reason: str, name: str) -> None:
        """Note an entry that has no place."""
        self.left_out.setdefault(reason, []).append(name)

    def checked(self, where: str) -> Entries:
        """The entries without single wild energies.

        Raises:
            InputError: if energies make no sense, or an id has two values.
        """
        atoms = [sum(c.values()) for c in self.compositions]
        bad = set(wild(self.energies, atoms, where))
        refuse_tiny([e for e, c in zip(self.energies, self.compositions, strict=True) if len(c) > 1], where)
        kept = Entries([], [], [], self.elemental_energies, self.corrected, self.left_out, self.own_names)
        for k, row in enumerate(zip(self.names, self.compositions, self.energies, strict=True)):
            if k in bad:
                kept.leave_out("energy_out_of_range", f"{row[0]} ({row[2]:.4g} eV/atom)")
            else:
                kept.add(*row)
        if self.own_names:
            kept._refuse_contradictions(where)
        return kept

    def _refuse_contradictions(self, where: str) -> None:
        seen: dict[str, tuple[dict[int, float], float]] = {}
        for name, composition, energy in zip(self.names, self.compositions, self.energies, strict=True):
            first = seen.setdefault(name, (composition, energy))
            if abs(first[1] - energy) > SAME_ENERGY:
                raise InputError(
                    f"{where} gives the id {name} twice, with {first[1]:.6g} and {energy:.6g} eV/atom; keep the right "
                    "one."
                )

    @staticmethod
    def join(parts: Sequence[Entries]) -> Entries:
        """All entries of several files.

        Raises:
            InputError: if some carry corrections and some do not.
        """
        if len({p.corrected for p in parts} - {None}) > 1:
            raise InputError("Some of the inputs carry energy corrections and some do not; give entries of one scheme.")
        joined = Entries([], [], [], None, None, {}, all(p.own_names for p in parts))
        for part in parts:
            joined.names += part.names
            joined.compositions += part.compositions
            joined.energies += part.energies
            joined.corrected = part.corrected if joined.corrected is None else joined.corrected
            for reason, names in part.left_out.items():
                joined.left_out.setdefault(reason, []).extend(names)
            if part.elemental_energies is not None:
                joined.elemental_energies = _lower(joined.elemental_energies or {}, part.elemental_energies)
        return joined


def _lower(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: min(e for e in (one.get(name), other.get(name)) if e is not None) for name in {**one, **other}}


def read_entries(paths: Sequence[Path], elements: Mapping[str, float] | None = None) -> Entries:
    """Hull entries: tables with a composition and a formation energy, and JSON of pymatgen computed entries.

    Args:
        paths: the files; total energies of all of them are placed by the same elements.
        elements: symbol to eV/atom on the scale of the totals; they count before the elements among the entries.

    Raises:
        InputError: if a file cannot be read, nothing in it can be placed, or its energies contradict one another.
    """
    tables, totals, left_out = [], list[tuple[Path, list[Computed]]](), Entries([], [], [])
    for path in paths:
        if not path.is_file():
            raise InputError(f"There is no file {path}; give a Parquet or CSV table, or a JSON of computed entries.")
        if _is_table(path):
            tables.append(_table_entries(path).checked(str(path)))
        else:
            totals.append((path, _computed_entries(path, left_out)))
    placed = [_placed(totals, elements, left_out)] if totals else []
    return Entries.join([*tables, *placed])


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq", ".csv", ".tsv", ".txt")


def read_energies(path: Path) -> dict[str, dict[str, float]]:
    """Energies of crystals by id, from CSV, Parquet or JSON.

    Returns:
        id to the energies given: ``formation`` (eV/atom) or ``total`` (eV/atom); neither where the cell is empty.

    Raises:
        InputError: if there is no column of ids, or none of energies, or an id has two values.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a CSV with the columns id and energy_per_atom.")
    names, given = [], list[dict[str, Any]]()
    for record in _energy_records(path):
        name = value_of(record, ID_NAMES)
        if name is None:
            raise InputError(f"{path} has a row without id; give a column 'id' with the names of the crystals.")
        names.append(str(name))
        given.append({kind: v for key, v in record.items() if (kind := _kind(str(key)))})
    found: list[dict[str, float]] = [{} for _ in names]
    for kind in ("formation", "total"):
        for row, value in _settled(path, kind, [cells.get(kind) for cells in given]).items():
            found[row][kind] = value
    if not any(found):
        raise InputError(f"{path} has no energies; give a column formation_energy_per_atom or energy_per_atom (eV).")
    by_name: dict[str, dict[str, float]] = {}
    for name, energies in zip(names, found, strict=True):
        before = by_name.setdefault(name, energies)
        for kind in before.keys() & energies.keys():
            if abs(before[kind] - energies[kind]) > SAME_ENERGY:
                raise InputError(
                    f"{path} gives the id {name} twice, with {before[kind]:.6g} and {energies[kind]:.6g} eV/atom; keep "
                    "the right one."
                )
        by_name[name] = {**energies, **before}
    return by_name


def _energy_records(path: Path) -> Iterable[Mapping[str, Any]]:
    if path.suffix.lower() != ".json":
        return _records(path)
    loaded = read_json(path)
    if isinstance(loaded, list) and all(isinstance(row, dict) for row in loaded):
        return loaded
    if not isinstance(loaded, dict):
        raise InputError(f"{path} should map ids to formation energies in eV/atom, or to objects with energies.")
    return [{"id": k, **(v if isinstance(v, dict) else {FORMATION: v})} for k, v in loaded.items()]


def _kind(column: str) -> str:
    """Which energy a column holds, empty for none."""
    return {FORMATION: "formation", TOTAL: "total"}.get(canonical_name(column), "")


def _settled(path: Path, kind: str, cells: Sequence[Any]) -> dict[int, float]:
    """The energies of a column by row; cells that are no plain numbers as ``data.labels`` reads them.

    Raises:
        InputError: if a comma in them could mean two things.
    """
    column = Column(FORMATION if kind == "formation" else TOTAL)
    found: dict[int, float] = {}
    for row, value in enumerate(cells):
        number = plain_number(value)
        if number is not None:
            found[row] = number
        elif text := odd_text(value):
            column.add(row, text)
    reading, odd = column.settle(np.array(list(found.values())))
    if "could be a decimal sign" in reading.why:
        raise InputError(f"{path}, {sentence(column.name, reading.facts())}; write points as decimal signs.")
    return found | odd


def _table_entries(path: Path) -> Entries:
    names = column_names(path)
    energy = next((n for n in names if _kind(n) == "formation"), None)
    composition = find_column(names, COMPOSITION_NAMES)
    if energy is None or composition is None:
        missing = FORMATION if energy is None else "composition"
        raise InputError(f"{path} has no column {missing}; a hull needs 'composition' and 'formation_energy_per_atom'.")
    identity = find_column(names, ID_NAMES)
    entries = Entries([], [], [], own_names=identity is not None and identity.strip().lower() != "name")
    rows = list(_records(path, [n for n in (energy, composition, identity) if n]))
    energies = _settled(path, "formation", [record[energy] for record in rows])
    for row, record in enumerate(rows):
        name = str(record[identity]) if identity else f"{path.stem}:{row + 1}"
        if row not in energies:
            entries.leave_out("no_energy", name)
            continue
        try:
            amounts = parse_composition(record[composition])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{path} row {row + 1} has no readable composition ({str(record[composition])[:60]!r})."
            ) from None
        entries.add(name, amounts, energies[row])
    if not entries.names:
        raise InputError(f"{path} holds no energies; the column {energy} is empty.")
    return entries


def _computed_entries(path: Path, left_out: Entries) -> list[Computed]:
    """pymatgen's computed entries that have a total energy; the others are noted.

    Raises:
        InputError: if there is none, or they are of different functionals.
    """
    from crystalsmith.data.json_files import JsonSource

    found, reasons = [], Counter[str]()
    for name, content in JsonSource(path).entries():
        entry = read_computed(name, content)
        if isinstance(entry, str):
            left_out.leave_out(entry, name)
            reasons[entry] += 1
        else:
            found.append(entry)
    if not found:
        why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "it is empty"
        raise InputError(f"{path} holds no computed entry with composition and energy ({why}); check the file.")
    refuse_mixture(Counter(entry.functional for entry in found), path)
    return found


def _placed(
    totals: Sequence[tuple[Path, Sequence[Computed]]], elements: Mapping[str, float] | None, entries: Entries
) -> Entries:
    """Total energies made formation energies by the lowest energy of each element."""
    everything = [entry for _, some in totals for entry in some]
    where = ", ".join(str(path) for path, _ in totals)
    refuse_mixture(Counter(entry.functional for entry in everything), totals[0][0])
    known: dict[str, float] = {}
    for entry in everything:
        if len(entry.composition) == 1:
            symbol = SYMBOLS[next(iter(entry.composition)) - 1]
            known[symbol] = min(entry.energy, known.get(symbol, entry.energy))
    known |= elements or {}
    entries.elemental_energies = known
    entries.corrected = any(entry.correction != 0 for entry in everything)
    entries.own_names = False
    lacking: set[str] = set()
    for entry in everything:
        missing = [SYMBOLS[z - 1] for z in entry.composition if SYMBOLS[z - 1] not in known]
        if missing:
            lacking.update(missing)
            entries.leave_out("no_elemental_energy", f"{entry.name} ({' '.join(missing)})")
            continue
        atoms = sum(entry.composition.values())
        reference = sum(n * known[SYMBOLS[z - 1]] for z, n in entry.composition.items()) / atoms
        entries.add(entry.name, entry.composition, entry.energy - reference)
    if not entries.names:
        raise InputError(
            f"{where} holds no entries whose elements it holds as well ({', '.join(sorted(lacking))} lack); add the "
            "elemental entries, or give --elemental-energies."
        )
    named = {entry.name for entry in everything if entry.named}
    checked = entries.checked(where)
    own = [k for k, name in enumerate(checked.names) if name in named]
    Entries(
        [checked.names[k] for k in own], [checked.compositions[k] for k in own], [checked.energies[k] for k in own]
    )._refuse_contradictions(where)
    return checked


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file or a table of text.

    Raises:
        InputError: if it cannot be read.
    """
    if path.suffix.lower() not in (".parquet", ".pq"):
        return list(Delimited.open(path).header)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        raise InputError(f"{path} is not a complete Parquet file; write it again or download it anew.") from None


def _records(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() not in (".parquet", ".pq"):
        yield from Delimited.open(path).records()
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError):
        raise InputError(f"{path} is not a complete Parquet file; write it again or download it anew.") from None
