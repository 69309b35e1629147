"""Crystals in files of their own: a folder or zip of CIFs, extended XYZ, pymatgen JSON, an ASE database."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np

from crystalsmith.data.cif import MAX_SITES, MAX_TEXT, crystal_from_cif
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
    labels_of,
    parse_each,
    row_id,
    split_name,
)
from crystalsmith.errors import InputError

PER_ATOM = frozenset(("forces", "charges", "magmoms", "energies", "stresses", "dipoles", "free_energies"))
"""Results of ASE's calculators with one value for each atom, which are no labels of a crystal."""


@dataclass(frozen=True)
class CifFiles:
    """Some CIF files of a folder or of a zip archive, read and parsed in the worker."""

    first: int
    source: Path
    names: Sequence[str]
    zipped: bool

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the files; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, row_id(_stem(name), name), name) for k, name in enumerate(self.names))
        if not self.zipped:
            return parse_each(items, lambda n, i, name: self._row(n, i, _read_file(self.source / name)))
        archive = zipfile.ZipFile(self.source)
        return parse_each(items, lambda n, i, name: self._row(n, i, _read_member(archive, name)))

    @staticmethod
    def _row(number: int, name: str, content: bytes) -> Row:
        return Row(number, name, *crystal_from_cif(content.decode("utf-8", "replace")), {}, None)


def _stem(name: str) -> str:
    return name[: -len(".cif")] if name.lower().endswith(".cif") else name


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_TEXT:
        raise RowError("too_large", f"the file is larger than {MAX_TEXT // 2**20} MB")
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_TEXT:
        raise RowError("too_large", f"the file unpacks to more than {MAX_TEXT // 2**20} MB")
    with archive.open(name) as member:
        # The size in the directory may be a lie; reading stops one byte after the limit.
        content = member.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise RowError("too_large", f"the file unpacks to more than {MAX_TEXT // 2**20} MB")
    return content


class CifFolderSource:
    """All CIF files below a folder, in order of their names."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self._names = path, sorted(names)
        self.num_rows: int | None = len(self._names)

    def chunks(self, size: int) -> Iterator[CifFiles]:
        """``size`` files at a time."""
        for k in range(0, len(self._names), size):
            yield CifFiles(k + 1, self.path, self._names[k : k + size], zipped=False)


class CifZipSource:
    """All CIF files in a zip archive; nothing is ever unpacked to disk."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{path} is not a complete zip archive; pack it or download it anew.") from error
        for info in infos:
            if _escapes(info.filename):
                raise InputError(
                    f"{path} holds a file named '{info.filename[:80]}' that points outside the archive; "
                    "pack it anew with plain relative names."
                )
            if info.flag_bits & 0x1:
                raise InputError(f"{path} is encrypted; unpack it and give the folder.")
        self.path = path
        names = (info.filename for info in infos)
        self._names = sorted(name for name in names if name.lower().endswith(".cif") and not _hidden(name))
        if not self._names:
            raise InputError(f"{path} holds no .cif files; a zip archive is read as a folder of CIFs.")
        self.num_rows: int | None = len(self._names)

    def chunks(self, size: int) -> Iterator[CifFiles]:
        """``size`` files at a time."""
        for k in range(0, len(self._names), size):
            yield CifFiles(k + 1, self.path, self._names[k : k + size], zipped=True)


def _escapes(name: str) -> bool:
    plain = name.replace("\\", "/")
    return plain.startswith("/") or plain[1:2] == ":" or ".." in PurePosixPath(plain).parts


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


@dataclass(frozen=True)
class Frames:
    """Some frames of an extended XYZ file as text; those with too many atoms come without it."""

    first: int
    texts: Sequence[str | int]
    origin: str

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the frames; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, f"{self.origin}:{self.first + k}", text) for k, text in enumerate(self.texts))
        return parse_each(items, self._row)

    @staticmethod
    def _row(number: int, name: str, text: str | int) -> Row:
        from ase.io.extxyz import read_xyz

        if isinstance(text, int):
            raise RowError("too_many_atoms", f"{text} atoms in one frame (at most {MAX_SITES} are read)")
        atoms = next(iter(read_xyz(io.StringIO(text), index=slice(0, 1))))
        return _row_of_atoms(number, name, atoms, atoms.info)


def _row_of_atoms(number: int, name: str, atoms: Any, values: Mapping[str, Any]) -> Row:
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    coords = fractional(atoms.positions, cell)
    lowered = {str(k).lower(): v for k, v in values.items()}
    found = next((lowered[k] for k in ID_NAMES if lowered.get(k) not in (None, "")), None)
    split = next((split_name(lowered[k]) for k in SPLIT_NAMES if k in lowered), None)
    # ASE takes some keys of a file (energy, magmom, dipole, stress) for results of a calculator.
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    labels, odd = labels_of({k: v for k, v in results.items() if k not in PER_ATOM} | dict(values))
    return Row(number, row_id(found, name), *crystal(coords, cell, atoms.numbers), labels, split, odd)


class ExtxyzSource:
    """An extended XYZ file, split into frames here and parsed by ASE in the workers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows: int | None = None
        with path.open("rb") as file:
            head = file.read(4096)
        if not _is_count(head.split(b"\n", 1)[0].decode("utf-8", "replace")):
            what = "is empty" if not head.strip() else "does not begin with a number of atoms"
            raise InputError(f"{path} {what}; give an extended XYZ file with a Lattice in each comment line.")

    def chunks(self, size: int) -> Iterator[Frames]:
        """``size`` frames at a time.

        Raises:
            InputError: where a frame does not begin with its number of atoms, as after a broken one.
        """
        first, held = 1, list[str | int]()
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for frame in self._frames(file):
                held.append(frame)
                if len(held) == size:
                    yield Frames(first, held, self.path.stem)
                    first, held = first + size, []
        if held:
            yield Frames(first, held, self.path.stem)

    def _frames(self, file: TextIO) -> Iterator[str | int]:
        line_number = 0
        for line in file:
            line_number += 1
            if not line.strip():
                continue
            if not _is_count(line):
                raise InputError(
                    f"{self.path} line {line_number} should be a number of atoms but is '{line.strip()[:40]}'; "
                    "mend or cut the file there."
                )
            atoms = int(line)
            line_number += atoms + 1
            if atoms > MAX_SITES:
                if sum(1 for _ in islice(file, atoms + 1)) <= atoms:
                    raise InputError(f"{self.path} ends before the {atoms} atoms announced in its last frame.")
                yield atoms
            else:
                yield line + "".join(file.readline() for _ in range(atoms + 1))


def _is_count(line: str) -> bool:
    text = line.strip()
    return text.isascii() and text.isdigit() and len(text) < 12


@dataclass(frozen=True)
class JsonEntries:
    """Some structures or computed entries of a pymatgen JSON file, still as plain dictionaries."""

    first: int
    entries: Sequence[tuple[str, Any]]

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the entries; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, name, entry) for k, (name, entry) in enumerate(self.entries))
        return parse_each(items, _row_of_entry)


def _row_of_entry(number: int, name: str, entry: Any) -> Row:
    """A structure dictionary, or one that holds it under ``structure`` with its labels beside it or in ``data``."""
    if isinstance(entry, str):
        entry = json.loads(entry)
    if not isinstance(entry, dict):
        raise RowError("unreadable", f"a {type(entry).__name__} instead of a structure")
    structure = entry if "sites" in entry else entry.get("structure", entry.get("atoms"))
    if isinstance(structure, str):
        structure = json.loads(structure)
    if not isinstance(structure, dict) or "lattice" not in structure or "sites" not in structure:
        raise RowError("unreadable", "no 'structure' with 'lattice' and 'sites'")
    values: dict[str, Any] = {}
    if structure is not entry:
        data = entry.get("data")
        values = {k: v for k, v in entry.items() if k not in ("structure", "data", "energy", "correction")}
        values.update(data if isinstance(data, dict) else {})
    found = next((values[k] for k in ID_NAMES if values.get(k) not in (None, "")), None)
    split = next((split_name(values[k]) for k in SPLIT_NAMES if k in values), None)
    labels, odd = labels_of(values)
    return Row(number, row_id(found, name), *_crystal_of_dict(structure), labels, split, odd)


def _crystal_of_dict(structure: Mapping[str, Any]) -> Crystal:
    """The crystal of pymatgen's plain form. Read here, because its own decoder imports whatever a file names."""
    cell = structure["lattice"]["matrix"]
    sites = structure["sites"]
    if len(sites) > MAX_SITES:
        raise RowError("too_many_atoms", f"{len(sites)} atoms (at most {MAX_SITES} are read)")
    coords, numbers = [], []
    for site in sites:
        species = site["species"]
        if len(species) != 1 or abs(float(species[0].get("occu", 1.0)) - 1.0) > 1e-6:
            raise RowError("disordered", "a site holds several elements or vacancies")
        numbers.append(element(species[0]["element"]))
        coords.append(site["abc"] if "abc" in site else fractional(site["xyz"], cell)[0])
    return crystal(coords, cell, numbers)


class JsonSource:
    """A JSON file (``.json``, also ``.gz``, ``.bz2``, ``.xz``): structures or entries in a list or by name.

    The file is held in memory as a whole. One structure alone, ``{"entries": [...]}`` and one JSON object per line
    (``.jsonl``, streamed) are understood as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows: int | None = None
        self._lines = any(s in (".jsonl", ".ndjson") for s in path.suffixes)
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; give pymatgen structures or computed entries as JSON.")

    def _open(self) -> TextIO:
        opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(self.path.suffix.lower(), open)
        return opener(self.path, "rt", encoding="utf-8")

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Name and content of each entry, not yet parsed (JSON text where each line is one)."""
        try:
            with self._open() as file:
                if self._lines:
                    for k, line in enumerate(line for line in file if line.strip()):
                        yield f"{self.path.stem}:{k + 1}", line
                    return
                loaded = json.load(file)
        except (ValueError, EOFError, OSError, RecursionError, lzma.LZMAError) as error:
            raise InputError(f"{self.path} is not complete JSON text; write or download it anew.") from error
        if isinstance(loaded, dict) and isinstance(loaded.get("entries"), (list, dict)):
            loaded = loaded["entries"]
        if isinstance(loaded, dict) and ("sites" in loaded or "structure" in loaded):
            loaded = [loaded]
        if isinstance(loaded, dict):
            yield from ((row_id(name, ""), entry) for name, entry in loaded.items())
        elif isinstance(loaded, list):
            yield from ((f"{self.path.stem}:{k + 1}", entry) for k, entry in enumerate(loaded))
        else:
            raise InputError(
                f"{self.path} holds no list or dictionary of pymatgen structures; write them with as_dict."
            )

    def chunks(self, size: int) -> Iterator[JsonEntries]:
        """``size`` entries at a time."""
        first, held = 1, list[tuple[str, Any]]()
        for entry in self.entries():
            held.append(entry)
            if len(held) == size:
                yield JsonEntries(first, held)
                first, held = first + size, []
        if held:
            yield JsonEntries(first, held)


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
            return _row_of_atoms(number, name, row.toatoms(), row.key_value_pairs)

        return parse_each(items, parse)


class DatabaseSource:
    """An ASE database in its SQLite form (``.db``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Opened read-only by SQLite itself; ASE would create or upgrade the tables of a file that has none.
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                self._ids = [row[0] for row in connection.execute("SELECT id FROM systems ORDER BY id")]
        except sqlite3.Error as error:
            message = f"{path} is not an ASE database in SQLite form ({error}); write it with ase.db."
            raise InputError(message) from error
        self.num_rows: int | None = len(self._ids)

    def chunks(self, size: int) -> Iterator[DatabaseRows]:
        """``size`` rows at a time."""
        for k in range(0, len(self._ids), size):
            yield DatabaseRows(k + 1, self.path, self._ids[k : k + size])
