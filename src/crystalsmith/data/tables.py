"""Tables of crystals: Parquet with one list column per array, and CSV or Parquet with a column of CIF text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.data.cif import crystal_from_cif
from crystalsmith.data.delimited import Delimited
from crystalsmith.data.rows import (
    ID_NAMES,
    SPLIT_NAMES,
    Crystal,
    Refused,
    Row,
    RowError,
    crystal,
    element,
    fractional,
    is_label,
    labels_of,
    parse_each,
    row_id,
    split_name,
)
from crystalsmith.errors import InputError

CELL_NAMES = ("lattice", "cell", "lattice_vectors", "lattice_matrix")
FRACTIONAL_NAMES = ("frac", "frac_coords", "fractional_coordinates", "scaled_positions")
CARTESIAN_NAMES = ("cartesian_site_positions", "positions", "cart_coords")
SPECIES_NAMES = ("Z", "atomic_numbers", "numbers", "species", "species_at_sites", "atom_types")
CIF_NAMES = ("cif", "cif_string", "cif.conv")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; empty text where there is none.

    Either ``cif`` or the three array columns are set.
    """

    id: str
    split: str
    cif: str
    cell: str
    frac: str
    cart: str
    species: str
    labels: tuple[str, ...]


def choose_columns(names: Sequence[str], where: str) -> Columns:
    """Find the columns of a crystal table by their names.

    Raises:
        InputError: if the crystals themselves are not in it, naming the columns that would be needed.
    """
    lowered = {name.strip().lower(): name for name in reversed(names)}

    def first(candidates: Sequence[str]) -> str:
        return next((lowered[c.lower()] for c in candidates if c.lower() in lowered), "")

    columns = Columns(
        id=first(ID_NAMES),
        split=first(SPLIT_NAMES),
        cif=first(CIF_NAMES),
        cell=first(CELL_NAMES),
        frac=first(FRACTIONAL_NAMES),
        cart=first(CARTESIAN_NAMES),
        species=first(SPECIES_NAMES),
        labels=(),
    )
    if not columns.cif:
        needed = {"lattice": columns.cell, "frac": columns.frac or columns.cart, "Z": columns.species}
        missing = [name for name, column in needed.items() if not column]
        if missing:
            raise InputError(
                f"{where} has no column {' or '.join(missing)}: give crystals as a 'cif' column or as 'lattice' "
                "(9 numbers), 'frac' (3n) and 'Z' (n)."
            )
    used = {columns.id, columns.split, columns.cif, columns.cell, columns.frac, columns.cart, columns.species}
    labels = tuple(name for name in names if name not in used and is_label(name))
    return Columns(**{**columns.__dict__, "labels": labels})


@dataclass(frozen=True)
class TableChunk:
    """Some rows of a table as columns of Python values (Arrow for Parquet, lists for CSV)."""

    first: int
    length: int
    columns: Columns
    values: Any
    split: str | None
    origin: str

    def __len__(self) -> int:
        return self.length

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the rows; see :class:`crystalsmith.data.rows.Chunk`."""
        values = self.values if isinstance(self.values, dict) else self.values.to_pydict()
        names = values[self.columns.id] if self.columns.id else [None] * self.length
        items = ((self.first + k, row_id(names[k], f"{self.origin}:{self.first + k}"), k) for k in range(self.length))

        def parse(number: int, name: str, k: int) -> Row:
            record = {column: cells[k] for column, cells in values.items()}
            split = self.split or split_name(record.get(self.columns.split) if self.columns.split else None)
            labels, odd = labels_of({column: record[column] for column in self.columns.labels})
            return Row(number, name, *_crystal_of(record, self.columns), labels, split, odd)

        return parse_each(items, parse)


def _crystal_of(record: Mapping[str, Any], columns: Columns) -> Crystal:
    if columns.cif:
        text = record[columns.cif]
        if not text:
            raise RowError("missing_value", f"column '{columns.cif}' is empty")
        return crystal_from_cif(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    coordinates = columns.frac or columns.cart
    for column in (columns.cell, coordinates, columns.species):
        if record[column] is None:
            raise RowError("missing_value", f"column '{column}' is empty")
    cell = np.asarray(record[columns.cell], dtype=np.float64)
    species = [element(s) if isinstance(s, str) else s for s in record[columns.species]]
    coords = record[coordinates] if columns.frac else fractional(record[coordinates], cell)
    return crystal(coords, cell, species)


class ParquetSource:
    """A Parquet file, read a thousand rows at a time."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            reason = "is empty" if path.stat().st_size == 0 else "is not a complete Parquet file"
            raise InputError(f"{path} {reason}; write it again or download it anew.") from error
        self.path, self.split = path, split
        schema = self._file.schema_arrow
        self.columns = choose_columns(schema.names, str(path))
        types = {n: schema.field(n).type for n in self.columns.labels}
        self.left_out = {n: f"it holds {kind}, no numbers or words" for n, kind in types.items() if not _is_label(kind)}
        labels = tuple(n for n in self.columns.labels if n not in self.left_out)
        self.columns = Columns(**{**self.columns.__dict__, "labels": labels})
        self.num_rows: int | None = self._file.metadata.num_rows

    def chunks(self, size: int) -> Iterator[TableChunk]:
        """The rows in order, ``size`` at a time; only the columns in use are read."""
        import pyarrow as pa

        c = self.columns
        arrays = [c.cif] if c.cif else [c.cell, c.frac or c.cart, c.species]
        wanted = [name for name in (c.id, c.split, *arrays, *c.labels) if name]
        first = 1
        try:
            for batch in self._file.iter_batches(batch_size=size, columns=wanted, use_threads=False):
                yield TableChunk(first, batch.num_rows, c, batch, self.split, self.path.stem)
                first += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged after row {first - 1}; download it anew.") from error


def _is_label(arrow_type: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    tests = (types.is_floating, types.is_integer, types.is_decimal, types.is_boolean, types.is_string)
    return any(test(arrow_type) for test in (*tests, types.is_large_string, types.is_null))


class CsvSource:
    """A CSV file with a ``cif`` column, streamed; delimiter and encoding are found out."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        self.path, self.split = path, split
        self.num_rows: int | None = None
        self._table = Delimited.open(path)
        self.columns = choose_columns(self._table.header, str(path))
        if not self.columns.cif:
            raise InputError(f"{path} has no column 'cif'; crystals in a CSV file are given as CIF text.")

    def chunks(self, size: int) -> Iterator[TableChunk]:
        """The rows in order, ``size`` at a time; only the columns in use are kept."""
        c = self.columns
        used = {c.id, c.split, c.cif, *c.labels} - {""}
        wanted = {name: k for k, name in enumerate(self._table.header) if name in used}
        first, held = 1, list[list[str]]()
        for row in self._table.rows():
            held.append(row)
            if len(held) == size:
                yield self._chunk(first, held, wanted)
                first, held = first + size, []
        if held:
            yield self._chunk(first, held, wanted)

    def _chunk(self, first: int, rows: list[list[str]], wanted: dict[str, int]) -> TableChunk:
        # A row cut short lacks its last fields; the ones it lacks read as empty, which costs the row and no more.
        values = {name: [row[k] if k < len(row) else "" for row in rows] for name, k in wanted.items()}
        return TableChunk(first, len(rows), self.columns, values, self.split, self.path.stem)
