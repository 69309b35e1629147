"""The one place that writes: files and folders that are whole at every moment, files that grow by lines, hashes.

A file or folder is made under a temporary name beside its own and takes that in one rename; whatever ends the program
on the way leaves the earlier one as it was. Temporary names are new and random and are opened as new files only, so a
link that lies in their place is never followed. What the disk refuses ends in one :class:`InputError`.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError

TEMPORARY = ".writing"
"""How the names of unfinished files and folders end."""

_OLD = ".old"
"""How the name of a folder ends while its successor takes its place, where the system cannot exchange the two."""

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{12}\.(writing|old)")

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.EACCES: "this user may not write there; choose another place",
    errno.EPERM: "this user may not write there; choose another place",
    errno.EFBIG: "it would grow beyond the limit on file sizes; raise the limit (ulimit -f)",
    errno.ELOOP: "a link lies in its place; remove it",
    errno.EEXIST: "something else lies in its place; remove it",
    errno.ENOTDIR: "a part of its path is a file; choose another place",
    errno.EISDIR: "a folder lies in its place; remove it",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    **({errno.EDQUOT: "the quota is used up; free some space"} if hasattr(errno, "EDQUOT") else {}),
}


def refusal(path: Path | str, error: BaseException) -> InputError:
    """The sentence for a file that the disk did not take."""
    number = getattr(error, "errno", None)
    if number is None:  # a library that writes by itself tells the number in its text only
        number = next((n for n in _MENDS if os.strerror(n) in str(error)), None)
    mend = _MENDS.get(number or 0) or f"{getattr(error, 'strerror', None) or error}; mend that"
    return InputError(f"{path} cannot be written: {mend} and run again; nothing that was there is lost.")


@contextmanager
def refused(path: Path | str) -> Iterator[None]:
    """Within the block, what the disk does not take ends in one sentence about ``path``.

    Raises:
        InputError: in place of an ``OSError``, or the error of safetensors for the same.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        if isinstance(named, str) and TEMPORARY not in named and not named.startswith(str(path)):
            raise  # of another file, which the block reads
        raise refusal(path, error) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise refusal(path, error) from None


# ---- files


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary file that takes the name ``path`` when the block ends well, and vanishes when it does not.

    Args:
        path: in a folder that exists.
        durable: wait until the disk has it.

    Raises:
        InputError: if the disk does not take it.
    """
    temporary = _beside(path)
    with refused(path):
        try:
            temporary.open("xb").close()  # never through a link
            mode = temporary.stat().st_mode
            yield temporary
            os.chmod(temporary, stat.S_IMODE(mode))  # safetensors makes files that only their owner can read
            if durable:
                _sync(temporary)
            _rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file as a whole by a text, as it is (UTF-8).

    Raises:
        InputError: if the disk does not take it.
    """
    with replacing(path, durable) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def append_text(path: Path, text: str, durable: bool = False) -> None:
    """Add to the end of a file; where the disk does not take all of it, nothing is added.

    Args:
        durable: wait until the disk has it.

    Raises:
        InputError: if the disk does not take it.
    """
    with refused(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        rest = memoryview(text.encode("utf-8"))
        try:
            while len(rest):
                rest = rest[file.write(rest) :]
            if durable:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a JSON record as a line of its own, after a line that a killed run cut short as well.

    Raises:
        InputError: if the disk does not take it.
    """
    append_text(path, ("" if _ends_line(path) else "\n") + json.dumps(record) + "\n")


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file; a last one that a killed run cut short is dropped from the file as well.

    Raises:
        InputError: if the file cannot be mended.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        replace_text(path, whole)
    return whole.splitlines()


def _ends_line(path: Path) -> bool:
    """Whether a file is empty, missing or ends with a whole line."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return True


# ---- folders


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        InputError: if that cannot be.
    """
    try:
        with refused(path):
            path.mkdir(parents=True, exist_ok=True)
    except InputError as error:
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                raise InputError(f"The folder {path} cannot be made: {part} is a file; choose another place.") from None
        raise error


@contextmanager
def replacing_folder(path: Path, keep: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    The earlier folder is exchanged for the new one in one step where the system can do that (Linux, macOS), in two
    renames elsewhere, and removed afterwards. What a kill between the two renames left is put right by the next call.

    Args:
        path: the folder; it need not exist.
        keep: whether a file of the earlier folder, by its path below it, stays where the new one has none like it.

    Raises:
        InputError: if the disk does not take it.
    """
    path = real_folder(path)
    with refused(path):
        make_folder(path.parent)
        restore_folder(path)
        temporary = _beside(path)
        try:
            temporary.mkdir()
            yield temporary
            if path.is_dir():
                _take_over(path, temporary, keep)
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    _sync(file)
            _exchange(temporary, path)
        finally:
            # After the exchange this is the earlier folder.
            shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put back a folder that a kill found between two renames."""
    if path.exists():
        return
    for old in _left_beside(path, _OLD):
        with contextlib.suppress(OSError):
            os.rename(old, path)
            return


def sweep(folder: Path, lock: str) -> None:
    """Remove what killed runs left unfinished in a folder and beside it.

    Args:
        folder: its lock is held.
        lock: name of the file in folders below that tells that they are runs of their own; these are left alone.
    """
    found = [*_left_beside(folder, TEMPORARY), *(_left_beside(folder, _OLD) if folder.exists() else ())]
    for place, folders, files in os.walk(folder):
        names = {*folders, *files}
        found += [Path(place) / name for name in names if _UNFINISHED.fullmatch(name)]
        folders[:] = [n for n in folders if n not in found and not (Path(place) / n / lock).exists()]
    for item in found:
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                item.unlink()


def is_unfinished(item: Path) -> bool:
    """Whether something in a folder is what a killed run had not finished."""
    return _UNFINISHED.fullmatch(item.name) is not None


def _left_beside(path: Path, ending: str) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(stem_of(path))}{'[0-9a-f]' * 12}{ending}"))


def _exchange(new: Path, path: Path) -> None:
    """Let ``new`` take the place of ``path``; the earlier folder, if any, lies under the name of ``new`` afterwards."""
    if not path.exists():
        os.rename(new, path)
    elif not _swap(new, path):
        old = new.with_name(new.name.removesuffix(TEMPORARY) + _OLD)
        os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(old, path)
            raise
        os.rename(old, new)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or disk cannot."""
    import ctypes

    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":  # renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)
            return bool(library.renameat2(-100, names[0], -100, names[1], 2) == 0)
        if sys.platform == "darwin":  # renamex_np(one, other, RENAME_SWAP)
            return bool(library.renamex_np(names[0], names[1], 2) == 0)
    except (AttributeError, OSError, TypeError):
        pass
    return False


def _take_over(old: Path, new: Path, keep: Callable[[Path], bool]) -> None:
    """Give ``new`` what only ``old`` holds, without copying where the disk has hard links."""
    for item in sorted(old.rglob("*")):
        name = item.relative_to(old)
        target = new / name
        if (item.is_dir() and not item.is_symlink()) or any(map(is_unfinished, name.parents)) or is_unfinished(item):
            continue
        if target.exists() or not keep(name):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(item, target)


def link_or_copy(source: Path, target: Path) -> None:
    """A file under a second name, without a copy where the disk has hard links.

    Raises:
        InputError: if the disk does not take it.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        with replacing(target, durable=False) as temporary:
            shutil.copyfile(source, temporary)


def join_files(sources: Sequence[Path], target: Path, headed: bool) -> None:
    """One file of files one after another; of the later ones without their first line, if they are headed.

    Raises:
        InputError: if the disk does not take it.
    """
    with replacing(target) as temporary, temporary.open("wb") as joined:
        for number, source in enumerate(sources):
            with source.open("rb") as file:
                if headed and number:
                    file.readline()
                shutil.copyfileobj(file, joined)


# ---- hashes


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder that of the names and contents of its files, ordered by name."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    files = [(item.relative_to(path), item) for item in path.rglob("*") if item.is_file()]
    for name, item in sorted(files, key=lambda pair: pair[0].parts):  # the same order and names on every system
        digest.update(name.as_posix().encode() + b"\0")
        with item.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


# ---- names


def real_folder(path: Path) -> Path:
    """A folder by its own name: where a link leads to one, that is replaced, not the link."""
    return Path(os.path.realpath(path))


def stem_of(path: Path) -> str:
    """How the names of what belongs to a file or folder for a while begin; short enough for the longest name."""
    name = path.name
    if len(name) > 48:
        name = f"{name[:32]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f".{name}."


def _beside(path: Path) -> Path:
    return path.with_name(f"{stem_of(path)}{secrets.token_hex(6)}{TEMPORARY}")


def _sync(path: Path) -> None:
    with path.open("rb+") as file, contextlib.suppress(OSError):
        os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    for pause in (0.01, 0.05, 0.2, 0.5, None):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            # Windows: someone reads the file at this moment.
            if sys.platform != "win32" or pause is None:
                raise
            time.sleep(pause)
