"""A list of compositions to predict structures for, and where it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.data.delimited import Delimited, find_column, value_of
from crystalsmith.data.rows import row_id
from crystalsmith.data.tables import CIF_NAMES
from crystalsmith.elements import symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.num_atoms import Histogram, whole_number
from crystalsmith.generation.rules import parse_formula, parse_formula_units

ID_COLUMNS = ("id", "material_id", "name")
FORMULA_COLUMNS = ("formula", "composition", "formula_pretty", "pretty_formula")
SIZE_COLUMNS = ("num_atoms", "nsites", "natoms", "n_atoms")
MAX_COMPOSITIONS = 1_000_000


@dataclass(frozen=True)
class Compositions:
    """C compositions, taken in turn (:func:`generation.plans.compositions.composed`).

    Attributes:
        ids: unique names; a score finds the true structure by them.
        formulas: one formula unit each.
        units: of each, the formula units per cell that its samples take in turn; empty while they are open.
    """

    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    units: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, places: Sequence[int]) -> Compositions:
        """Some of them, in the order given."""
        ids, formulas, units = self.ids, self.formulas, self.units
        return Compositions(
            tuple(ids[k] for k in places), tuple(formulas[k] for k in places), tuple(units[k] for k in places)
        )

    def histogram(self) -> Histogram:
        """Number of atoms -> share of the cells asked for."""
        sizes: dict[int, float] = {}
        for formula, units in zip(self.formulas, self.units, strict=True):
            for unit in units:
                n = unit * sum(count for _, count in formula_counts(formula))
                sizes[n] = sizes.get(n, 0.0) + 1.0 / (len(units) * len(self))
        return dict(sorted(sizes.items()))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Compositions:
        """The compositions that ``dataclasses.asdict`` and JSON made plain."""
        units = tuple(tuple(int(u) for u in some) for some in values["units"])
        return Compositions(tuple(values["ids"]), tuple(values["formulas"]), units)


@lru_cache(maxsize=65536)
def formula_counts(formula: str) -> tuple[tuple[int, int], ...]:
    """Atomic number and count of each element of a formula unit, by number."""
    return tuple(sorted(parse_formula(formula).items()))


def make_compositions(
    source: str | Path | Sequence[str] | None,
    elements: Sequence[int],
    *,
    split: str | None = None,
    limit: int | None = None,
    disorder: str = "refuse",
) -> Compositions | None:
    """Checked compositions, or None where nothing is asked for.

    Args:
        source: a CSV table with a column ``formula``; a prepared data set; structures of any format that ``evaluate``
            reads; or formulas, as a list or ``NaCl,MgO``.
        elements: atomic numbers that the model knows.
        split: of the prepared data set, ``test`` if not said.
        limit: only so many of them, evenly spaced over the list.
        disorder: what becomes of structures with partly occupied sites.

    Raises:
        InputError: if the list cannot be read, is empty, or asks for what the model does not know.
    """
    if source is None:
        for name, value in (("split", split), ("limit", limit)):
            if value is not None:
                raise InputError(f"--{name} chooses among compositions; give --compositions FILE too.")
        return None
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}; give 1 at least.")
    found = _read(source, split, disorder)
    if not len(found):
        raise InputError(f"{source} holds no composition; give a table with a column 'formula' and at least one row.")
    if limit is not None and limit < len(found):
        chosen = np.linspace(0, len(found) - 1, limit).round().astype(int).tolist()
        found = found.select(chosen)
    known = set(elements)
    for name, formula in zip(found.ids, found.formulas, strict=True):
        if outside := [z for z, _ in formula_counts(formula) if z not in known]:
            raise InputError(f"--compositions, {name}: the model does not know {symbol(outside[0])}; leave it out.")
    return found


def _read(source: str | Path | Sequence[str], split: str | None, disorder: str) -> Compositions:
    from crystalsmith.data.dataset import FORMAT, CrystalDataset
    from crystalsmith.evaluation.structures import read_manifest, read_samples

    if not isinstance(source, str | Path):
        return _unique([(text, text, ()) for text in source])
    if formulas := _written_out(str(source)):
        return _unique([(text, text, ()) for text in formulas])
    path = Path(source)
    if (read_manifest(path) or {}).get("format") == FORMAT:
        dataset = CrystalDataset.open(path)
        rows = dataset.rows(split or "test")
        names = [str(name.decode() if isinstance(name, bytes) else name) for name in dataset.ids[rows]]
        numbers = [dataset.atomic_numbers[dataset.offsets[row] : dataset.offsets[row + 1]] for row in rows]
        return _unique([(name, *_formula(z)) for name, z in zip(names, numbers, strict=True)])
    if split is not None:
        raise InputError(f"--split chooses rows of a prepared data set, and {path} is none; leave it out.")
    if path.suffix.lower() == ".csv" and (table := _table(path)) is not None:
        return _unique(table)
    return _unique([(s.id, *_formula(s.numbers)) for s in read_samples(path, disorder=disorder) if not s.failure])


def _written_out(text: str) -> list[str]:
    """The formulas of ``NaCl,MgO``; none if a file has that name or a part is no formula."""
    parts = [part.strip() for part in text.split(",")]
    try:
        for part in parts:
            parse_formula(part)
    except InputError:
        return []
    return [] if Path(text).exists() else parts


def _formula(numbers: Any) -> tuple[str, tuple[int, ...]]:
    """Reduced formula and formula units of a cell."""
    elements, counts = np.unique(numbers, return_counts=True)
    units = int(np.gcd.reduce(counts))
    return "".join(f"{symbol(int(z))}{n // units}" for z, n in zip(elements, counts, strict=True)), (units,)


def _table(path: Path) -> list[tuple[str, str, tuple[int, ...]]] | None:
    """Rows of a CSV file with a column of formulas; None where there is no such column."""
    table = Delimited.open(path)
    column = find_column(table.header, FORMULA_COLUMNS)
    if column is None or find_column(table.header, CIF_NAMES):
        return None
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for line, record in enumerate(table.records(), start=2):
        row = {name.lower(): value.strip() for name, value in record.items()}
        formula = record[column].strip()
        if not any(row.values()):
            continue
        if len(found) >= MAX_COMPOSITIONS:
            raise InputError(f"{path} has more than {MAX_COMPOSITIONS:,} rows; split it into several files.")
        try:
            found.append((row_id(value_of(row, ID_COLUMNS), formula), formula, _units(row, formula)))
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
    return found


def _units(row: Mapping[str, str], formula: str) -> tuple[int, ...]:
    """Formula units per cell: as the row says, or by its number of atoms; open (empty) if neither is there."""
    size = sum(count for _, count in formula_counts(formula))
    units = parse_formula_units(row["formula_units"]) if row.get("formula_units") else None
    written = value_of(row, SIZE_COLUMNS)
    if written is None:
        return units or ()
    atoms = whole_number(written)
    if atoms is None or atoms < 1 or atoms % size or units not in (None, (atoms // size,)):
        raise InputError(f"{formula} with {size} atoms per formula unit does not make a cell of {written[:20]} atoms.")
    return (atoms // size,)


def _unique(entries: Sequence[tuple[str, str, tuple[int, ...]]]) -> Compositions:
    seen: dict[str, int] = {}
    names = []
    for name, formula, _ in entries:
        formula_counts(formula)
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return Compositions(tuple(names), tuple(e[1] for e in entries), tuple(e[2] for e in entries))
