"""Limits on the time of a piece of code, and on the threads of a process."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block, processes that are started keep their numerical libraries to so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class TooSlow(Exception):
    """Something took longer than :func:`at_most` allows."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End Python code that takes longer, on every system and in every thread.

    A second thread has the interpreter raise in this one, between two of its instructions: a single long call into
    compiled code is ended when it returns. (An alarm signal does the same, but on Windows there is none, and elsewhere
    the main thread alone can take it.)

    Raises:
        TooSlow: when the time is up.
    """
    thread, lock, over, struck = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False, False

    def strike() -> None:
        nonlocal struck
        with lock:
            if not over:
                struck = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TooSlow))

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                over = True
            if struck:  # if it has not been raised by now, it must not be raised later
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
    except TooSlow:
        raise TooSlow(f"took more than {seconds:g} s") from None
