"""Many small jobs over worker processes, and a limit on time."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from crystalsmith.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """The results of a function in the order of the items, by ``jobs`` processes of one thread each.

    Raises:
        InputError: if a worker dies (as for want of memory).
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    try:
        # Fresh processes: forking one that has used Arrow or torch threads can hang.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "A worker process ended unexpectedly: the machine may be short of memory, or a script calls this outside "
            "'if __name__ == \"__main__\":'; mend that or use one job."
        ) from None


def one_thread() -> None:
    """Keep the numerical libraries of this process, and those it starts, to one thread."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


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
