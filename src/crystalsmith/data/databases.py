"""ASE databases in their SQLite form."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.extxyz import row_of_atoms
from crystalsmith.data.rows import Refused, Row, RowError, parse_each
from crystalsmith.errors import InputError

LISTING_SECONDS = 60.0
"""Time that SQLite may take to list the rows; a view can be written so that it never ends."""

MAX_CELL = 64 * 2**20
"""Bytes of one value of the database."""


@dataclass(frozen=True)
class DatabaseRows:
    """Some rows of an ASE SQLite database, read in the worker."""

    first: int
    path: Path
    ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the rows; see :class:`crystalsmith.data.rows.Chunk`."""
        from ase.db import connect

        database = connect(self.path, type="db", append=True)
        items = ((self.first + k, f"{self.path.stem}:{row}", row) for k, row in enumerate(self.ids))

        def parse(number: int, name: str, row_number: int) -> Row:
            row = database.get(id=row_number)
            if row.natoms > MAX_SITES:
                raise RowError("too_many_atoms", f"{row.natoms} atoms (at most {MAX_SITES} are read)")
            return row_of_atoms(number, name, row.toatoms(), row.key_value_pairs)

        return parse_each(items, parse)


class DatabaseSource:
    """An ASE database in its SQLite form (``.db``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        until = time.monotonic() + LISTING_SECONDS
        try:
            # Opened read-only by SQLite itself; ASE would create or upgrade the tables of a file that has none.
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
                connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
                kind = connection.execute("SELECT type FROM sqlite_master WHERE name = 'systems'").fetchone()
                if kind is not None and kind[0] != "table":
                    raise InputError(
                        f"{path} has a {kind[0]} in the place of its table of crystals; write it with ase.db."
                    )
                self._ids = [row[0] for row in connection.execute("SELECT id FROM systems ORDER BY id")]
        except sqlite3.Error as error:
            reason = " ".join(str(error).split())[:120]
            message = f"{path} is not an ASE database in SQLite form ({reason}); write it with ase.db."
            raise InputError(message) from error
        self.num_rows: int | None = len(self._ids)

    def chunks(self, size: int) -> Iterator[DatabaseRows]:
        """``size`` rows at a time."""
        for k in range(0, len(self._ids), size):
            yield DatabaseRows(k + 1, self.path, self._ids[k : k + size])
