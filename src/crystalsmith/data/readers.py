"""Which reader takes an input: decided by the ending of its name, and by what a folder holds."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from crystalsmith.data.cif.read import DISORDER
from crystalsmith.data.databases import DatabaseSource
from crystalsmith.data.extxyz import ExtxyzSource
from crystalsmith.data.folders import FolderSource, LeftOut, ZipSource, kind_of, said, sorted_out, walk
from crystalsmith.data.json_files import JsonSource
from crystalsmith.data.opening import COMPRESSED, check_file
from crystalsmith.data.rows import Chunk, Note, Refused
from crystalsmith.data.tables import CsvSource, ParquetSource
from crystalsmith.errors import InputError

FORMATS = (
    "a CIF or POSCAR, a folder or zip of these, a Parquet or CSV file, a folder with train/val/test files, "
    "extended XYZ (.extxyz, .xyz), JSON of structures (.json, .jsonl) or an ASE database (.db)"
)

_PACKED = (".json", ".jsonl", ".ndjson", ".xyz", ".extxyz")
"""Endings of files that are read compressed as well, beside CIF and POSCAR."""


class Source(Protocol):
    """An input that can be read in chunks; ``num_rows`` is None where counting would mean reading all of it."""

    path: Path
    num_rows: int | None

    def chunks(self, size: int) -> Iterator[Any]: ...


class Sources:
    """Several inputs one after another, their rows numbered through."""

    def __init__(self, path: Path, parts: Sequence[Source]) -> None:
        self.path, self.parts = path, parts
        counts = [part.num_rows for part in parts]
        self.num_rows: int | None = None if None in counts else sum(c or 0 for c in counts)
        self.files_left_out: list[LeftOut] = [one for part in parts for one in getattr(part, "files_left_out", [])]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The chunks of each part in turn."""
        before = 0
        for part in self.parts:
            read = 0
            for chunk in part.chunks(size):
                read += len(chunk)
                yield dataclasses.replace(chunk, first=chunk.first + before)
            before += read


MOST_UNREADABLE = 5000
"""Rows at the head of a file without a single readable one, after which it is taken for something else: a few bytes,
compressed, may stand for billions of them."""

NOTHING = frozenset(("unreadable", "missing_value", "no_structure", "no_atoms", "no_lattice", "bad_shape", "too_large"))
"""Reasons of rows that hold no crystal at all."""


class _Readable:
    """A file of many rows, given up where none of the first :data:`MOST_UNREADABLE` can be read."""

    def __init__(self, source: Source) -> None:
        self.source, self.path, self.num_rows = source, source.path, source.num_rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["source"], name)

    def chunks(self, size: int) -> Iterator[Any]:
        readable, unreadable = False, 0
        for chunk in self.source.chunks(size):
            for row in () if readable else chunk.rows():
                if not isinstance(row, Refused) or row.reason not in NOTHING:
                    readable = True
                    break
                unreadable += 1
                if unreadable == MOST_UNREADABLE:
                    raise InputError(
                        f"None of the first {MOST_UNREADABLE:,} rows of {self.path} holds a crystal ({row.id}: "
                        f"{row.detail}); give a file of crystals."
                    )
            yield chunk


def open_source(path: Path | str, disorder: str = "refuse", elements_matter: bool = True) -> Source:
    """The reader for an input; the one door through which every command reads crystals.

    Args:
        path: file or folder.
        disorder: what becomes of partly occupied sites, one of :data:`crystalsmith.data.cif.read.DISORDER`.
        elements_matter: refuse a POSCAR that names no elements; else its kinds are numbered.

    Raises:
        InputError: if there is no such input, or none of the readers knows its kind.
    """
    path = Path(path)
    if disorder not in DISORDER:
        raise InputError(f"Partly occupied sites: {' or '.join(DISORDER)}, not {disorder!r}.")
    if not path.exists() and not path.is_symlink():
        raise InputError(f"There is no file or folder {path}; give {FORMATS}.")
    if path.is_dir():
        return _open_folder(path, disorder)
    check_file(path)
    if kind_of(path.name):
        return FolderSource.of_file(path, disorder, elements_matter)
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in COMPRESSED
    last = (suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1]) if suffixes else ""
    readers: dict[str, Callable[[Path], Source]] = {
        ".parquet": lambda p: ParquetSource(p, disorder=disorder),
        ".pq": lambda p: ParquetSource(p, disorder=disorder),
        ".csv": lambda p: CsvSource(p, disorder=disorder),
        ".tsv": lambda p: CsvSource(p, disorder=disorder),
        ".zip": lambda p: ZipSource(p, disorder),
        ".extxyz": ExtxyzSource,
        ".xyz": ExtxyzSource,
        ".json": lambda p: JsonSource(p, disorder),
        ".jsonl": lambda p: JsonSource(p, disorder),
        ".ndjson": lambda p: JsonSource(p, disorder),
        ".db": DatabaseSource,
    }
    if last not in readers or (packed and last not in _PACKED):
        raise InputError(f"{path} has an ending that no reader knows; give {FORMATS}.")
    return _Readable(readers[last](path))


def _open_folder(path: Path, disorder: str) -> Source:
    if (path / "manifest.json").exists():
        raise InputError(f"{path} is a prepared data set already; give the original data, or train on it as it is.")
    parts: list[Source] = []
    for split in ("train", "val", "test"):
        if (path / f"{split}.csv").exists():
            parts.append(CsvSource(path / f"{split}.csv", split, disorder))
        elif (path / f"{split}.parquet").exists():
            parts.append(ParquetSource(path / f"{split}.parquet", split, disorder))
    if parts:
        return Sources(path, parts)
    names, links = walk(path)
    taken, left_out = sorted_out(names)
    if not taken:
        raise InputError(
            f"{path} holds neither CIF nor POSCAR files nor train/val/test.csv{said(left_out)}; give {FORMATS}."
        )
    return FolderSource(path, names, disorder, links)


class Heard:
    """What a command that only reads has to say about its input: notes on crystals, and files that were not read."""

    def __init__(self, source: Source) -> None:
        self._source, self._noted = source, dict[str, list[str]]()

    def add(self, name: str, notes: Iterable[Note]) -> None:
        """Take the notes of one crystal."""
        for word, detail in notes:
            self._noted.setdefault(word, []).append(f"{name}: {detail}")

    @property
    def counts(self) -> dict[str, int]:
        """How many notes of each kind."""
        return {word: len(details) for word, details in self._noted.items()}

    def tell(self) -> None:
        """One line for each kind of note on the error stream."""
        path = self._source.path
        for word, details in self._noted.items():
            print(f"{path}: {word.replace('_', ' ')} in {len(details)} crystals ({details[0]}).", file=sys.stderr)
        for left in getattr(self._source, "files_left_out", []):
            print(f"{path}: {left.count} files were not read: {left.what}, such as {left.example}.", file=sys.stderr)
