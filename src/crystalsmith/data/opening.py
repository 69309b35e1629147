"""Opening what users hand in: ordinary files only, unpacked with a limit, text in any encoding."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO

from crystalsmith.data.rows import RowError
from crystalsmith.errors import InputError, brief

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings of compressed files, and what opens them."""

DAMAGED = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""What reading a compressed file raises where it is damaged."""

_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


def problem(path: Path) -> str:
    """Why a path is no file that can be read; empty where it is one (a link to one is)."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return "is a link that leads nowhere"
        return f"cannot be opened ({error.strerror})"
    kinds = (
        (stat.S_ISFIFO, "is a pipe"),
        (stat.S_ISCHR, "is a device"),
        (stat.S_ISBLK, "is a device"),
        (stat.S_ISSOCK, "is a socket"),
        (stat.S_ISDIR, "is a folder"),
    )
    return next((f"{word}, not a file" for test, word in kinds if test(mode)), "")


def check_file(path: Path) -> None:
    """Refuse pipes, devices and links to them, which could be read for ever.

    Raises:
        InputError: if the path is no ordinary file.
    """
    found = problem(path)
    if found:
        raise InputError(f"{path} {found}; give a file with crystals.")


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its beginning: by its mark, UTF-16 if every other byte is zero, UTF-8, or cp1252."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    # Text of mostly Latin letters in UTF-16 without a mark has a zero in every other byte.
    pairs = len(head) // 2
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if pairs >= 4 and head[offset::2].count(0) > 0.4 * pairs and head[1 - offset :: 2].count(0) < 0.05 * pairs:
            return name
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character cut in two by the end of the sample
            return "cp1252"
    return "utf-8"


def text_of(content: bytes) -> str:
    """Bytes as text; what its encoding does not know stands in names only and is replaced."""
    return content.decode(encoding_of(content), "replace")


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A text file, also compressed, in the encoding it has.

    Raises:
        InputError: if it is no ordinary file.
    """
    check_file(path)
    opener = COMPRESSED.get(path.suffix.lower(), open)
    with opener(path, "rb") as file:
        encoding = encoding_of(file.read(65536))
    if encoding == "utf-8":
        encoding = "utf-8-sig"
    return opener(path, "rt", encoding=encoding, errors="replace", newline=newline)


def read_limited(path: Path, limit: int) -> bytes:
    """A whole file, unpacked where its name says so.

    Raises:
        RowError: if it is no ordinary file, damaged, or larger than ``limit`` bytes unpacked.
    """
    found = problem(path)
    if found:
        raise RowError("unreadable", f"the file {found}")
    if path.stat().st_size > limit:
        raise too_large(limit)
    with path.open("rb") as file:
        return unpacked(file, path.suffix, limit)


def unpacked(file: BinaryIO | IO[bytes], suffix: str, limit: int) -> bytes:
    """What a stream holds, unpacked by the ending of its name; one byte over the limit is read and no more.

    Raises:
        RowError: as :func:`read_limited`.
    """
    opener = COMPRESSED.get(suffix.lower())
    try:
        content = (opener(file, "rb") if opener else file).read(limit + 1)
    except DAMAGED as error:
        raise RowError("unreadable", f"the file is damaged ({brief(error, 80)})") from None
    if len(content) > limit:
        raise too_large(limit)
    return content


def too_large(limit: int) -> RowError:
    """The refusal of a file larger than a limit in bytes."""
    size = f"{limit // 2**20} MB" if limit >= 2**20 else f"{limit} bytes"
    return RowError("too_large", f"the file is larger than {size} unpacked")
