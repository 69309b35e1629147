"""JSON files of crystals in the shapes of pymatgen, OPTIMADE, matbench, JARVIS, ASE and data frames."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crystalsmith.data.json_shapes import looks_like_crystal, rows_of_entry
from crystalsmith.data.json_stream import MAX_VALUE, WRAPPERS, pieces
from crystalsmith.data.opening import open_text
from crystalsmith.data.rows import Refused, Row, parse_each, row_id
from crystalsmith.errors import InputError

Entry = tuple[str, Any]
"""A name and what stands under it."""


@dataclass(frozen=True)
class JsonEntries:
    """Some entries of a JSON file, still as plain dictionaries."""

    first: int
    entries: Sequence[Entry]
    disorder: str = "refuse"

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the entries; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, name, entry) for k, (name, entry) in enumerate(self.entries))
        return parse_each(items, partial(rows_of_entry, disorder=self.disorder))


class JsonSource:
    """A JSON file (``.json``, also ``.gz``, ``.bz2``, ``.xz``), read entry by entry.

    Lists and objects of structures or computed entries by name, one structure alone, what OPTIMADE and other interfaces
    wrap in ``{"data": [...]}``, data frames in every orientation of pandas, ASE's JSON database, and one object per
    line (``.jsonl``) are understood.
    """

    def __init__(self, path: Path, disorder: str = "refuse") -> None:
        self.path, self.disorder = path, disorder
        self.num_rows: int | None = None
        self._lines = any(s.lower() in (".jsonl", ".ndjson") for s in path.suffixes)
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; give structures or computed entries as JSON.")

    def entries(self) -> Iterator[Entry]:
        """Name and content of each entry, not yet parsed (JSON text where each line is one).

        Raises:
            InputError: if the file is no complete JSON, or of another shape.
        """
        try:
            with open_text(self.path) as file:
                if not self._lines:
                    yield from self._entries(pieces(file))
                    return
                number = 0
                while line := file.readline(MAX_VALUE):
                    if line.strip():
                        number += 1
                        yield f"{self.path.stem}:{number}", line
        except InputError:
            raise
        except (ValueError, EOFError, OSError, RecursionError, zlib.error, lzma.LZMAError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:120]
            raise InputError(f"{self.path} is not complete JSON text ({reason}); write or download it anew.") from error

    def _entries(self, found: Iterator[tuple[str, str, Any]]) -> Iterator[Entry]:
        """Entries as they come; what can be understood only as a whole is held until the end."""
        stem, count, lists = self.path.stem, 0, False
        rest: dict[str, Any] = {}
        held: list[Any] = []
        for kind, key, value in found:
            lists |= kind == "list" or (kind == "item" and not key)
            if kind == "item" and key and isinstance(value, list):
                # A row of a data frame written as {"columns", "index", "data"}, in any order of the three.
                names = rest.get("columns")
                if not isinstance(names, list):
                    held.append(value)
                    continue
                yield self._row(rest, names, value, count)
                count += 1
            elif kind == "item":
                count += 1
                yield f"{stem}:{count}", value
            elif kind == "key" and key not in ("structure", "atoms", "attributes") and looks_like_crystal(value):
                count += 1
                lists |= key in WRAPPERS  # one crystal where interfaces have their list
                yield row_id(key, f"{stem}:{count}"), value
            elif kind == "key":
                rest[key] = value
        names = rest.get("columns")
        for value in held:
            yield self._row(rest, names, value, count) if isinstance(names, list) else (f"{stem}:{count + 1}", value)
            count += 1
        if not count and not lists:
            yield from self._whole(rest)
        elif not lists:
            # Among named crystals, an object that is none must not vanish.
            yield from ((row_id(key, stem), value) for key, value in rest.items() if isinstance(value, Mapping))

    def _row(self, rest: Mapping[str, Any], names: list[Any], value: list[Any], k: int) -> Entry:
        index = rest.get("index")
        name = index[k] if isinstance(index, list) and k < len(index) and isinstance(index[k], str) else None
        return row_id(name, f"{self.path.stem}:{k + 1}"), dict(zip(map(str, names), value, strict=False))

    def _whole(self, rest: dict[str, Any]) -> Iterator[Entry]:
        """A top object that is no list of crystals by name: one crystal, or columns of a data frame."""
        if looks_like_crystal(rest):
            yield f"{self.path.stem}:1", rest
            return
        for key in WRAPPERS:
            if isinstance(rest.get(key), Mapping):
                yield from ((row_id(name, ""), value) for name, value in rest[key].items())
                return
        columns = {key: value for key, value in rest.items() if isinstance(value, (Mapping, list))}
        if columns and len(columns) == len(rest):
            yield from self._columns(columns)
            return
        keys = ", ".join(str(key)[:20] for key in list(rest)[:6])
        raise InputError(
            f"{self.path} holds no crystals in a shape that is known (its keys are {keys or 'none'}); give a list or "
            "an object of structures, as pymatgen's as_dict, OPTIMADE, JARVIS, ASE or pandas write them."
        )

    def _columns(self, columns: dict[str, Any]) -> Iterator[Entry]:
        """``{"structure": {"0": ...}, "gap": {"0": ...}}`` or ``{"structure": [...], "gap": [...]}``, row by row."""
        shapes = {tuple(v) if isinstance(v, Mapping) else tuple(map(str, range(len(v)))) for v in columns.values()}
        if len(shapes) != 1:
            raise InputError(f"{self.path} holds columns of different length; write the table anew.")
        for k, index in enumerate(next(iter(shapes))):
            row = {key: v[index] if isinstance(v, Mapping) else v[k] for key, v in columns.items()}
            yield row_id(None if index == str(k) else index, f"{self.path.stem}:{k + 1}"), row

    def chunks(self, size: int) -> Iterator[JsonEntries]:
        """``size`` entries at a time."""
        first, held = 1, list[Entry]()
        for entry in self.entries():
            held.append(entry)
            if len(held) == size:
                yield JsonEntries(first, held, self.disorder)
                first, held = first + size, []
        if held:
            yield JsonEntries(first, held, self.disorder)
