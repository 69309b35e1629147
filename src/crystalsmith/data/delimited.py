"""Tables as text, however saved: commas, semicolons or tabs, UTF-8, UTF-16 or Latin-1, headers in any case."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.data.opening import check_file, encoding_of
from crystalsmith.errors import InputError

DELIMITERS = (",", ";", "\t", "|")
MAX_FIELD = 64 * 2**20
"""Characters of the longest field read; a CIF of 10,000 atoms has one."""

HEAD = 65536
"""Bytes by which the delimiter is decided."""


@dataclass(frozen=True)
class Delimited:
    """A table of text: how it is written, and its columns.

    Attributes:
        path: of the file.
        encoding, delimiter: as decided by its beginning.
        header: names of the columns as written, blanks around them removed.
    """

    path: Path
    encoding: str
    delimiter: str
    header: tuple[str, ...]

    @staticmethod
    def open(path: Path) -> Delimited:
        """Decide how a table is written.

        Raises:
            InputError: if there is no such file, it is empty, or no text.
        """
        if path.exists():
            check_file(path)
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give a CSV file.") from None
        if not head.strip():
            raise InputError(f"{path} is empty; give a CSV file with a line of column names.")
        encoding = encoding_of(head)
        text = head.decode(encoding, "ignore")
        if "\0" in text:
            raise InputError(f"{path} holds binary data, not CSV text; check the file.")
        delimiter = _delimiter(text)
        table = Delimited(path, encoding, delimiter, ())
        header = next(table.lines(), [])
        return Delimited(path, encoding, delimiter, tuple(name.strip() for name in header))

    def lines(self) -> Iterator[list[str]]:
        """All rows, that of the header included, streamed.

        Raises:
            InputError: where the file cannot be read as a table.
        """
        csv.field_size_limit(MAX_FIELD)
        try:
            with self.path.open(encoding=self.encoding, errors="replace", newline="") as file:
                # A character of no text (NUL) would end the reader; it is no part of a table.
                yield from csv.reader((line.replace("\0", "") for line in file), delimiter=self.delimiter)
        except csv.Error as error:
            raise InputError(f"{self.path} is not readable as CSV ({error}); check its quoting.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}); check the file.") from None

    def rows(self) -> Iterator[list[str]]:
        """The rows below the header; blank lines are left out."""
        lines = self.lines()
        next(lines, None)
        return (row for row in lines if row)

    def records(self) -> Iterator[dict[str, str]]:
        """The rows as dictionaries by column; a row cut short has empty cells at its end."""
        for row in self.rows():
            yield {name: row[k] if k < len(row) else "" for k, name in enumerate(self.header)}


def find_column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted columns that there is, in any case of letters; as it is written."""
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(str(name).strip().lower(), name)
    return next((lowered[name.lower()] for name in wanted if name.lower() in lowered), None)


def value_of(record: Mapping[str, Any], wanted: Sequence[str]) -> Any:
    """The first of the wanted values of a record that is not empty, by column in any case of letters; None if none."""
    lowered = {str(name).strip().lower(): value for name, value in record.items()}
    return next((lowered[n.lower()] for n in wanted if lowered.get(n.lower()) not in (None, "")), None)


def _delimiter(text: str) -> str:
    """The delimiter that splits the header into most columns; the comma where none does."""
    found = {}
    for delimiter in DELIMITERS:
        try:
            found[delimiter] = len(next(csv.reader(io.StringIO(text), delimiter=delimiter), []))
        except csv.Error:
            found[delimiter] = 0
    return max(DELIMITERS, key=lambda d: found[d])
