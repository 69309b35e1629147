"""Which reader takes an input: decided by the ending of its name, and by what a folder holds."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from crystalsmith.data.files import CifFolderSource, CifZipSource, DatabaseSource, ExtxyzSource, JsonSource
from crystalsmith.data.rows import Chunk
from crystalsmith.data.tables import CsvSource, ParquetSource
from crystalsmith.errors import InputError

FORMATS = (
    "a Parquet or CSV file, a folder with train/val/test files, a folder or zip of CIFs, extended XYZ (.extxyz, .xyz), "
    "pymatgen JSON (.json, .jsonl, also .gz) or an ASE database (.db)"
)


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

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The chunks of each part in turn."""
        before = 0
        for part in self.parts:
            read = 0
            for chunk in part.chunks(size):
                read += len(chunk)
                yield dataclasses.replace(chunk, first=chunk.first + before)
            before += read


def open_source(path: Path | str) -> Source:
    """The reader for an input.

    Raises:
        InputError: if there is no such input, or none of the readers knows its kind.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file or folder {path}; give {FORMATS}.")
    if path.is_dir():
        return _open_folder(path)
    suffixes = [s.lower() for s in path.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in (".gz", ".bz2", ".xz") and len(suffixes) > 1 and suffixes[-2] in (".json", ".jsonl"):
        return JsonSource(path)
    readers: dict[str, Callable[[Path], Source]] = {
        ".parquet": ParquetSource,
        ".pq": ParquetSource,
        ".csv": CsvSource,
        ".zip": CifZipSource,
        ".extxyz": ExtxyzSource,
        ".xyz": ExtxyzSource,
        ".json": JsonSource,
        ".jsonl": JsonSource,
        ".ndjson": JsonSource,
        ".db": DatabaseSource,
        ".cif": lambda p: CifFolderSource(p.parent, [p.name]),
    }
    if last not in readers:
        raise InputError(f"{path} has an ending that no reader knows; give {FORMATS}.")
    return readers[last](path)


def _open_folder(path: Path) -> Source:
    if (path / "manifest.json").exists():
        raise InputError(f"{path} is a prepared data set already; give the original data, or train on it as it is.")
    parts: list[Source] = []
    for split in ("train", "val", "test"):
        if (path / f"{split}.csv").exists():
            parts.append(CsvSource(path / f"{split}.csv", split))
        elif (path / f"{split}.parquet").exists():
            parts.append(ParquetSource(path / f"{split}.parquet", split))
    if parts:
        return Sources(path, parts)
    names = [
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, files in os.walk(path)
        for name in files
        if name.lower().endswith(".cif")
    ]
    if not names:
        raise InputError(f"{path} holds neither .cif files nor train/val/test.csv; give {FORMATS}.")
    return CifFolderSource(path, names)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder in order of their names."""
    digest = hashlib.sha256()
    if path.is_file():
        _feed(digest, path)
        return digest.hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        _feed(digest, file)
    return digest.hexdigest()


def _feed(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
