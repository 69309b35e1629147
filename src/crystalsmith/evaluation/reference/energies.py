"""Energies from files: entries of a hull, and energies of the crystals to be judged."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.data.files import JsonSource
from crystalsmith.data.rows import ID_NAMES
from crystalsmith.elements import NUMBERS, SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.properties import canonical_name

FORMATION_NAMES = ("e_form",)
"""Names of the formation energy per atom beside those of the registry."""

_GROUP = re.compile(r"([A-Z][a-z]?)([0-9.]*)")


@dataclass
class Entries:
    """Compositions with formation energies.

    Attributes:
        names: ids.
        compositions: atomic number to amount.
        energies: formation energies, eV/atom.
        elemental_energies: symbol to eV/atom, where total energies were read.
        corrected: whether computed entries carried corrections; None for energies that do not tell.
    """

    names: list[str]
    compositions: list[dict[int, float]]
    energies: list[float]
    elemental_energies: dict[str, float] | None = None
    corrected: bool | None = None

    def add(self, name: str, composition: dict[int, float], energy: float) -> None:
        """One more entry."""
        self.names.append(name)
        self.compositions.append(composition)
        self.energies.append(energy)

    @staticmethod
    def join(parts: Sequence[Entries]) -> Entries:
        """All entries of several files.

        Raises:
            InputError: if some carry corrections and some do not.
        """
        if len({p.corrected for p in parts} - {None}) > 1:
            raise InputError("Some of the inputs carry energy corrections and some do not; give entries of one scheme.")
        joined = Entries([], [], [], parts[0].elemental_energies, parts[0].corrected)
        for part in parts:
            joined.names += part.names
            joined.compositions += part.compositions
            joined.energies += part.energies
        return joined


def read_entries(path: Path) -> Entries:
    """Hull entries: a table with ``composition`` and a formation energy, or JSON of pymatgen computed entries.

    Raises:
        InputError: if the file cannot be read, or an entry lacks composition or energy.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a Parquet or CSV table, or a JSON of computed entries.")
    if path.suffix.lower() in (".parquet", ".pq", ".csv"):
        return _table_entries(path)
    return _computed_entries(path)


def read_energies(path: Path) -> dict[str, dict[str, float]]:
    """Energies of crystals by id, from CSV, Parquet or JSON.

    Returns:
        id to the energies given: ``formation`` (eV/atom) or ``total`` (eV/atom).

    Raises:
        InputError: if there is no column of ids, or none of energies.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a CSV with the columns id and energy_per_atom.")
    records: Iterable[Mapping[str, Any]]
    if path.suffix.lower() == ".json":
        loaded = _load_json(path)
        if not isinstance(loaded, dict):
            raise InputError(f"{path} should map ids to formation energies in eV/atom, or to objects with energies.")
        records = [
            {"id": k, **(v if isinstance(v, dict) else {"formation_energy_per_atom": v})} for k, v in loaded.items()
        ]
    else:
        records = _records(path)
    found: dict[str, dict[str, float]] = {}
    for record in records:
        name = next((str(record[k]) for k in ID_NAMES if record.get(k) not in (None, "")), None)
        if name is None:
            raise InputError(f"{path} has a row without id; give a column 'id' with the names of the crystals.")
        found[name] = _energies_of(record)
    if not any(found.values()):
        raise InputError(f"{path} has no energies; give a column formation_energy_per_atom or energy_per_atom (eV).")
    return found


def _energies_of(record: Mapping[str, Any]) -> dict[str, float]:
    energies = {}
    for key, value in record.items():
        name = canonical_name(str(key))
        kind = {"formation_energy_per_atom": "formation", "energy_per_atom": "total"}.get(name)
        if str(key) in FORMATION_NAMES:
            kind = "formation"
        if kind and (number := _number(value)) is not None:
            energies[kind] = number
    return energies


def parse_composition(value: Any) -> dict[int, float]:
    """Atomic number to amount, from ``{"Li": 1, "O": 2}``, its JSON text, or a formula such as ``Li2O`` or ``Li2 O1``.

    Raises:
        ValueError: if it is none of them.
    """
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("{") else _formula(text)
    amounts = {NUMBERS[str(symbol)]: float(amount) for symbol, amount in dict(value).items() if float(amount) > 0}
    if not amounts:
        raise ValueError("no elements")
    return _whole(amounts)


def _formula(text: str) -> dict[str, float]:
    compact = text.replace(" ", "")
    if "".join(m.group(0) for m in _GROUP.finditer(compact)) != compact:
        raise ValueError(text)
    amounts: dict[str, float] = {}
    for name, count in _GROUP.findall(compact):
        amounts[name] = amounts.get(name, 0.0) + float(count or 1)
    return amounts


def _whole(amounts: dict[int, float]) -> dict[int, float]:
    """Rounded atomic fractions as the whole numbers they came from, where there are such up to 400 atoms."""
    total = sum(amounts.values())
    if all(a == round(a) for a in amounts.values()):
        return amounts
    for atoms in range(1, 401):
        counts = {z: a / total * atoms for z, a in amounts.items()}
        if all(abs(c - round(c)) < 2e-6 * atoms + 1e-9 and round(c) >= 1 for c in counts.values()):
            return {z: float(round(c)) for z, c in counts.items()}
    return amounts


def _table_entries(path: Path) -> Entries:
    names = column_names(path)
    energy = next((n for n in names if canonical_name(n) == "formation_energy_per_atom" or n in FORMATION_NAMES), None)
    composition = next((n for n in ("composition", "formula") if n in names), None)
    if energy is None or composition is None:
        missing = "formation_energy_per_atom" if energy is None else "composition"
        raise InputError(f"{path} has no column {missing}; a hull needs 'composition' and 'formation_energy_per_atom'.")
    identity = next((n for n in ID_NAMES if n in names), None)
    entries = Entries([], [], [])
    for row, record in enumerate(_records(path), start=1):
        value = _number(record[energy])
        if value is None:
            continue
        try:
            amounts = parse_composition(record[composition])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} row {row} has no readable composition ({record[composition]!r}).") from None
        entries.add(str(record[identity]) if identity else f"{path.stem}:{row}", amounts, value)
    if not entries.names:
        raise InputError(f"{path} holds no energies; the column {energy} is empty.")
    return entries


def _computed_entries(path: Path) -> Entries:
    """pymatgen's computed entries: total energies in eV with their corrections, made formation energies."""
    totals: list[tuple[str, dict[int, float], float]] = []
    corrected = False
    for number, (name, entry) in enumerate(JsonSource(path).entries(), start=1):
        try:
            record = json.loads(entry) if isinstance(entry, str) else entry
            amounts = parse_composition(record["composition"])
            correction = _correction(record)
            energy = (float(record["energy"]) + correction) / sum(amounts.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path} entry {number} is no computed entry with composition and energy.") from None
        if not math.isfinite(energy):
            continue
        corrected = corrected or correction != 0
        totals.append((str(record.get("entry_id") or name), amounts, energy))
    known: dict[str, float] = {}
    for _, amounts, energy in totals:
        if len(amounts) == 1:
            symbol = SYMBOLS[next(iter(amounts)) - 1]
            known[symbol] = min(energy, known.get(symbol, math.inf))
    entries = Entries([], [], [], known, corrected)
    for name, amounts, energy in totals:
        if all(SYMBOLS[z - 1] in known for z in amounts):
            elements = sum(n * known[SYMBOLS[z - 1]] for z, n in amounts.items()) / sum(amounts.values())
            entries.add(name, amounts, energy - elements)
    if not entries.names:
        raise InputError(f"{path} holds no entries whose elements it holds as well; add the elemental entries.")
    return entries


def _correction(record: Mapping[str, Any]) -> float:
    adjustments = record.get("energy_adjustments")
    if not adjustments:
        return float(record.get("correction") or 0.0)
    if "correction" in record:
        return float(record["correction"])
    atoms = [float(a["value"]) if "value" in a else float(a["adj_per_atom"]) * float(a["n_atoms"]) for a in adjustments]
    return sum(atoms)


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet or CSV file.

    Raises:
        InputError: if it cannot be read.
    """
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return next(csv.reader(file), [])
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        raise InputError(f"{path} is not a complete Parquet file; write it again or download it anew.") from None


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from csv.DictReader(file)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError):
        raise InputError(f"{path} is not a complete Parquet file; write it again or download it anew.") from None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path} is not readable as JSON; check the file.") from None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
