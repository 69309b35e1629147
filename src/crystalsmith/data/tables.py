"""Tables of crystals: Parquet with one list column per array, and CSV or Parquet with a column of CIF text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.data.cif.read import rows_of_cif
from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.delimited import Delimited
from crystalsmith.data.json_shapes import rows_of_entry
from crystalsmith.data.opening import check_file, text_of
from crystalsmith.data.rows import (
    CARTESIAN_NAMES,
    CELL_NAMES,
    CIF_NAMES,
    FRACTIONAL_NAMES,
    ID_NAMES,
    SPECIES_NAMES,
    SPLIT_NAMES,
    STRUCTURE_NAMES,
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

MAX_VALUES = 10**8
"""Numbers in one column of one row group of a Parquet file."""
MAX_COLUMN = 2**32
"""Bytes of one column of one row group of a Parquet file, unpacked."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; empty text where there is none.

    Either ``cif``, ``structure`` or the three array columns are set.
    """

    id: str
    split: str
    cif: str
    cell: str
    frac: str
    cart: str
    species: str
    structure: str
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
        structure=first(STRUCTURE_NAMES),
        labels=(),
    )
    if not columns.cif and not columns.structure:
        needed = {"lattice": columns.cell, "frac": columns.frac or columns.cart, "Z": columns.species}
        missing = [name for name, column in needed.items() if not column]
        if missing:
            raise InputError(
                f"{where} has no column {' or '.join(missing)}: give crystals as a 'cif' column, as a "
                "'structure' column of JSON, or as 'lattice' (9 numbers), 'frac' (3n) and 'Z' (n)."
            )
    used = {columns.id, columns.split, columns.cif, columns.cell, columns.frac, columns.cart, columns.species}
    used.add(columns.structure)
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
    disorder: str = "refuse"

    def __len__(self) -> int:
        return self.length

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the rows; see :class:`crystalsmith.data.rows.Chunk`."""
        values = self.values if isinstance(self.values, dict) else _columns_of(self.values)
        names = values[self.columns.id] if self.columns.id else [None] * self.length
        items = ((self.first + k, row_id(names[k], f"{self.origin}:{self.first + k}"), k) for k in range(self.length))

        def parse(number: int, name: str, k: int) -> Row | list[Row | Refused]:
            record = {column: _plain(cells[k]) for column, cells in values.items()}
            split = self.split or split_name(record.get(self.columns.split) if self.columns.split else None)
            labels, odd = labels_of({column: record[column] for column in self.columns.labels})
            text = record[self.columns.cif or self.columns.structure] if self._whole else None
            if self._whole and not text:
                raise RowError("missing_value", f"column '{self.columns.cif or self.columns.structure}' is empty")
            if self._whole and not self.columns.cif:
                return [
                    replace(row, id=name, labels=labels, split=split, odd=odd) if isinstance(row, Row) else row
                    for row in rows_of_entry(number, name, {"structure": text}, self.disorder)
                ]
            if text is not None:
                cif = text_of(text) if isinstance(text, bytes) else str(text)
                return rows_of_cif(number, name, cif, self.disorder, labels, split, odd)
            return Row(number, name, *_crystal_of(record, self.columns), labels, split, odd)

        return parse_each(items, parse)

    @property
    def _whole(self) -> bool:
        """Whether a crystal stands in one cell, as CIF or JSON."""
        return bool(self.columns.cif or self.columns.structure)


def _columns_of(batch: Any) -> dict[str, Any]:
    """Columns of an Arrow batch; text stays in Arrow, where what occurs often stands once."""
    import pyarrow as pa

    return {
        name: column if pa.types.is_dictionary(column.type) else column.to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _plain(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value


def _crystal_of(record: Mapping[str, Any], columns: Columns) -> Crystal:
    coordinates = columns.frac or columns.cart
    for column in (columns.cell, coordinates, columns.species):
        if record[column] is None:
            raise RowError("missing_value", f"column '{column}' is empty")
    cell = np.asarray(record[columns.cell], dtype=np.float64)
    if len(record[columns.species]) > MAX_SITES:
        raise RowError("too_many_atoms", f"{len(record[columns.species])} atoms (at most {MAX_SITES} are read)")
    species = [element(s) if isinstance(s, str) else s for s in record[columns.species]]
    coords = record[coordinates] if columns.frac else fractional(record[coordinates], cell)
    return crystal(coords, cell, species)


class ParquetSource:
    """A Parquet file, read a thousand rows at a time."""

    def __init__(self, path: Path, split: str | None = None, disorder: str = "refuse") -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        check_file(path)
        self.disorder = disorder
        try:
            written = pq.read_schema(path, memory_map=True)
            # Equal texts stand once in the file and, read so, once in memory.
            texts = [f.name for f in written if f.name.strip().lower() in _TEXTS and _is_text(f.type)]
            self._file = pq.ParquetFile(path, pre_buffer=False, memory_map=True, read_dictionary=texts)
            _check_size(self._file.metadata, path)
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
        whole = c.cif or c.structure
        arrays = [whole] if whole else [c.cell, c.frac or c.cart, c.species]
        wanted = [name for name in (c.id, c.split, *arrays, *c.labels) if name]
        first = 1
        try:
            for batch in self._file.iter_batches(batch_size=size, columns=wanted, use_threads=False):
                yield TableChunk(first, batch.num_rows, c, batch, self.split, self.path.stem, self.disorder)
                first += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is damaged after row {first - 1}; download it anew.") from error


def _check_size(metadata: Any, path: Path) -> None:
    """Refuse a file whose few bytes stand for more numbers than crystals have (equal ones are stored once).

    Raises:
        InputError: with the name of the column.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            few = 3 * MAX_SITES * max(group.num_rows, 1)
            if column.num_values > min(few, MAX_VALUES) or column.total_uncompressed_size > MAX_COLUMN:
                name = column.path_in_schema[:40]
                raise InputError(
                    f"{path} holds {column.num_values:,} values in column '{name}' of one row group; "
                    f"write it anew with fewer rows to a group and at most {MAX_SITES} atoms to a crystal."
                )


_TEXTS = frozenset((*CIF_NAMES, *STRUCTURE_NAMES))


def _is_text(arrow_type: Any) -> bool:
    import pyarrow.types as types

    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(arrow_type) for test in tests)


def _is_label(arrow_type: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    tests = (types.is_floating, types.is_integer, types.is_decimal, types.is_boolean, types.is_string)
    return any(test(arrow_type) for test in (*tests, types.is_large_string, types.is_null))


class CsvSource:
    """A CSV file with a ``cif`` column (or ``structure``, of JSON), streamed; delimiter and encoding are found out."""

    def __init__(self, path: Path, split: str | None = None, disorder: str = "refuse") -> None:
        check_file(path)
        self.path, self.split, self.disorder = path, split, disorder
        self.num_rows: int | None = None
        self._table = Delimited.open(path)
        self.columns = choose_columns(self._table.header, str(path))
        if not self.columns.cif and not self.columns.structure:
            raise InputError(f"{path} has no column 'cif'; crystals in a CSV file are given as CIF text.")

    def chunks(self, size: int) -> Iterator[TableChunk]:
        """The rows in order, ``size`` at a time; only the columns in use are kept."""
        c = self.columns
        used = {c.id, c.split, c.cif or c.structure, *c.labels} - {""}
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
        return TableChunk(first, len(rows), self.columns, values, self.split, self.path.stem, self.disorder)
