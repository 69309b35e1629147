"""Crystals in files of their own: CIF and POSCAR, in a folder, in a zip archive, or one alone."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from crystalsmith.data.cif.blocks import MAX_FILE
from crystalsmith.data.cif.read import rows_of_cif
from crystalsmith.data.opening import COMPRESSED, read_limited, text_of, too_large, unpacked
from crystalsmith.data.poscar import MAX_TEXT as MAX_POSCAR
from crystalsmith.data.poscar import crystal_of_poscar
from crystalsmith.data.rows import Refused, Row, parse_each, row_id
from crystalsmith.errors import InputError

MAX_MEMBERS = 2_000_000
"""Files in one archive."""

MAX_UNPACKED = 2**36
"""Bytes that all files of an archive may have together (64 GB)."""

_POSCAR = re.compile(r"(poscar|contcar)([._-].*)?|.*\.(vasp|poscar|contcar)", re.IGNORECASE)
_OTHER = re.compile(r".*\.(cif|mcif|xml|json|txt|md|py|csv|png|xyz|extxyz|in|out|pdf|html|ya?ml)", re.IGNORECASE)


def kind_of(name: str) -> str:
    """``cif``, ``poscar`` or empty text, by the name of a file."""
    base = PurePosixPath(name.replace("\\", "/")).name
    stem, ending = os.path.splitext(base)
    if ending.lower() in COMPRESSED:
        base, (stem, ending) = stem, os.path.splitext(stem)
    if ending.lower() in (".cif", ".mcif"):
        return "cif"
    return "poscar" if _POSCAR.fullmatch(base) and not _OTHER.fullmatch(base) else ""


def id_of(name: str) -> str:
    """The id of the crystal in a file: its name without the endings that say the format."""
    while True:
        stem, ending = os.path.splitext(name)
        if ending.lower() not in (*COMPRESSED, ".cif", ".mcif", ".vasp") or not PurePosixPath(stem).name:
            return name
        name = stem


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that were not read.

    Attributes:
        what: their kind, for a person.
        count: how many.
        example: the first of them.
    """

    what: str
    count: int
    example: str


def sorted_out(names: Sequence[str]) -> tuple[list[str], list[LeftOut]]:
    """The names of structure files in order, and what is left out, by kind."""
    taken: list[str] = []
    left: dict[str, list[str]] = {}
    for name in sorted(names):
        ending = os.path.splitext(name)[1].lower()
        if _hidden(name):
            left.setdefault("hidden", []).append(name)
        elif kind_of(name):
            taken.append(name)
        elif ending in (".zip", ".tar", ".tgz", ".7z", ".rar") or name.lower().endswith(
            (".tar.gz", ".tar.bz2", ".tar.xz")
        ):
            left.setdefault("archives inside", []).append(name)
        else:
            left.setdefault("neither CIF nor POSCAR", []).append(name)
    return taken, [LeftOut(what, len(found), found[0][:120]) for what, found in left.items()]


@dataclass(frozen=True)
class StructureFiles:
    """Some structure files of a folder or of a zip archive, read and parsed in the worker."""

    first: int
    source: Path
    names: Sequence[str]
    zipped: bool
    disorder: str
    elements_matter: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the files; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, row_id(id_of(name), name), name) for k, name in enumerate(self.names))
        return parse_each(items, self._rows)

    def _rows(self, number: int, name: str, file: str) -> list[Row | Refused]:
        kind = kind_of(file)
        limit = MAX_FILE if kind == "cif" else MAX_POSCAR
        content = _member(self.source, file, limit) if self.zipped else read_limited(self.source / file, limit)
        text = text_of(content)
        if kind == "cif":
            return rows_of_cif(number, name, text, self.disorder)
        crystal, notes = crystal_of_poscar(text, self.elements_matter)
        return [Row(number, name, *crystal, {}, None, notes=notes)]


def _member(source: Path, name: str, limit: int) -> bytes:
    about = source.stat()
    archive = _archive(source, about.st_mtime_ns, about.st_size)
    if archive.getinfo(name).file_size > limit:
        raise too_large(limit)
    with archive.open(name) as member:
        # The size in the directory may be a lie; reading stops one byte after the limit.
        return unpacked(member, os.path.splitext(name)[1], limit)


@lru_cache(maxsize=1)
def _archive(source: Path, modified: int, size: int) -> zipfile.ZipFile:
    """The archive, its directory read once in each process."""
    return zipfile.ZipFile(source)


class FolderSource:
    """All structure files below a folder, in order of their names; or one file by itself."""

    def __init__(self, path: Path, names: Sequence[str], disorder: str = "refuse", links: Sequence[str] = ()) -> None:
        self.path, self.disorder, self._elements_matter = path, disorder, True
        self._names, self.files_left_out = sorted_out(names)
        if links:
            self.files_left_out.append(LeftOut("links to folders", len(links), min(links)[:120]))
        self.num_rows: int | None = len(self._names)

    @classmethod
    def of_file(cls, path: Path, disorder: str, elements_matter: bool) -> FolderSource:
        """One file by itself."""
        source = cls(path.parent, (), disorder)
        source._elements_matter = elements_matter
        source._names, source.num_rows, source.path = [path.name], 1, path
        return source

    def chunks(self, size: int) -> Iterator[StructureFiles]:
        """``size`` files at a time."""
        folder = self.path if self.path.is_dir() else self.path.parent
        for k in range(0, len(self._names), size):
            yield StructureFiles(k + 1, folder, self._names[k : k + size], False, self.disorder, self._elements_matter)


def walk(path: Path) -> tuple[list[str], list[str]]:
    """Names of all files below a folder, relative to it, and of the links to folders, which are not followed."""
    files, links = [], []
    for folder, folders, names in os.walk(path):
        inside = os.path.relpath(folder, path)
        links += [os.path.normpath(os.path.join(inside, f)) for f in folders if os.path.islink(os.path.join(folder, f))]
        files += [os.path.normpath(os.path.join(inside, name)) for name in names]
    return files, links


class ZipSource:
    """All structure files in a zip archive; nothing is ever unpacked to disk."""

    def __init__(self, path: Path, disorder: str = "refuse") -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path} is not a complete zip archive; pack it or download it anew.") from error
        if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_UNPACKED:
            raise InputError(f"{path} unpacks to more than can be read ({len(infos)} files); give it in parts.")
        for info in infos:
            if _escapes(info.filename):
                raise InputError(
                    f"{path} holds a file named '{info.filename[:80]}' that points outside the archive; "
                    "pack it anew with plain relative names."
                )
            if info.flag_bits & 0x1:
                raise InputError(f"{path} is encrypted; unpack it and give the folder.")
        self.path, self.disorder = path, disorder
        links = [info.filename for info in infos if stat.S_ISLNK(info.external_attr >> 16)]
        others = [info.filename for info in infos if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)]
        self._names, self.files_left_out = sorted_out(others)
        if links:
            self.files_left_out.append(LeftOut("links", len(links), min(links)[:120]))
        if not self._names:
            raise InputError(
                f"{path} holds neither CIF nor POSCAR files{said(self.files_left_out)}; "
                "a zip archive is read as a folder of crystals."
            )
        self.num_rows: int | None = len(self._names)

    def chunks(self, size: int) -> Iterator[StructureFiles]:
        """``size`` files at a time."""
        for k in range(0, len(self._names), size):
            yield StructureFiles(k + 1, self.path, self._names[k : k + size], True, self.disorder)


def said(left_out: Sequence[LeftOut]) -> str:
    """What was left out as part of a sentence: `` (2 hidden, such as ._a.cif)``."""
    if not left_out:
        return ""
    return " (" + "; ".join(f"{one.count} {one.what}, such as {one.example}" for one in left_out) + ")"


def _escapes(name: str) -> bool:
    plain = name.replace("\\", "/")
    return plain.startswith("/") or plain[1:2] == ":" or ".." in PurePosixPath(plain).parts


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name.replace("\\", "/")).parts)
