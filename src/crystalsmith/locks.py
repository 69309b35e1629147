"""The lock of a folder: one process at a time writes into it, and the second is refused by name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.files import is_unfinished, make_folder, real_folder, refused, restore_folder, stem_of, sweep

LOCK = ".lock"
"""The name of the lock in a folder."""

_FAR = 2**30
"""Where in the file the lock lies: Windows keeps others from reading what is locked, and they shall read the rest."""


@contextmanager
def locked(folder: Path, command: str, beside: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder within the block, so that one process at a time writes into it.

    The system lets go of the lock when its process ends, however it ends: a dead one's is taken over. Where a disk has
    no locks, the number of the process that stands in the file decides.

    Args:
        folder: made if it is missing, and removed again if the block leaves it empty.
        command: what holds it, for the sentence that the second one gets.
        beside: lock by a file beside the folder, for commands that replace it as a whole.
        wait: seconds to wait for another process to let go of it.

    Raises:
        InputError: if another process holds it, or the disk does not take the file.
    """
    folder = real_folder(folder)
    made = [] if beside else [p for p in (folder, *folder.parents) if not p.exists()]
    place = folder.with_name(f"{stem_of(folder)[:-1]}{LOCK}") if beside else folder / LOCK
    file = _lock(place, folder, time.monotonic() + wait)
    try:
        record = {"pid": os.getpid(), "host": _host(), "command": command, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with refused(place):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, json.dumps(record).encode())
        sweep(folder, LOCK)
        restore_folder(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()  # while it is held: who waits for this file sees that it is no longer the one by that name
        os.close(file)
        if sys.platform == "win32":  # which removes no open file
            with contextlib.suppress(OSError):
                place.unlink()
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds no more than its lock and what killed runs had not finished."""
    return all(is_unfinished(item) or item.name == LOCK for item in folder.iterdir())


def _lock(place: Path, folder: Path, until: float) -> int:
    while True:
        make_folder(place.parent)
        try:
            with refused(place):
                file = _open(place)
        except _Gone:
            continue  # the one before has just removed the folder that it had made and left empty
        if not _take(file):
            holder = _holder(file)
            os.close(file)
            if time.monotonic() < until:
                time.sleep(0.5)
                continue
            raise InputError(
                f"{folder} is being written by {_name(holder)}; wait until it has ended, or end it and go on from "
                "what it has written."
            )
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(place)):
                return file
        os.close(file)  # the one before has just removed it


class _Gone(Exception):
    """The folder of a lock is no longer there."""


def _open(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except FileNotFoundError:
        raise _Gone from None


def _take(file: int) -> bool:
    """Lock an open file; False if another has done so."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, _FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        holder = _holder(file)
        return holder.get("host") != _host() or not _alive(holder.get("pid"))
    return True


def _holder(file: int) -> dict[str, Any]:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        found = json.loads(os.read(file, 4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    if not isinstance(holder.get("pid"), int):
        return "another process"
    where = "" if holder.get("host") == _host() else f" on {holder.get('host')}"
    return f"process {holder['pid']}{where} ({holder.get('command')}, since {holder.get('since')})"


def _host() -> str:
    return platform.node()


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    import psutil

    return bool(psutil.pid_exists(pid))
