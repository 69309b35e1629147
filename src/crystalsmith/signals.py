"""Stopping cleanly: Ctrl-C, SIGTERM and a closed terminal end a run between two writes, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """The user or the scheduler asked the run to end. Not an ``Exception``, so nothing swallows it by accident."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, as shells expect."""
        return 128 + self.signum


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP raise :class:`Stopped`; inside :meth:`shield` they wait for its end.

    A signal that was ignored before (``nohup``) stays ignored.

    Args:
        names: of the signals.
    """

    def __init__(self, *names: str) -> None:
        self._names = names or ("SIGINT", "SIGTERM", "SIGHUP")
        self._shielded = False
        self._pending: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in self._names:  # Windows has no SIGHUP
                signum = getattr(signal, name, None)
                if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                    self._previous[signum] = signal.signal(signum, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold signals back until the block is done."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._pending is not None:
            raise Stopped(self._pending)

    def ignore(self) -> None:
        """Take no further signal; the run is about to end."""
        self._shielded = True

    def _received(self, signum: int, _: FrameType | None) -> None:
        self._pending = signum
        if not self._shielded:
            raise Stopped(signum)


def exit_code(signum: int | None) -> int:
    """Of a command that a signal ended; SIGUSR1, by which SLURM warns that time is nearly up, is as good as done."""
    return 0 if signum is None or signum == getattr(signal, "SIGUSR1", None) else 128 + signum


class Asked:
    """Whether a signal asked for the end, and which one."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self) -> bool:
        return self.signum is not None


@contextmanager
def stop_on_signals() -> Iterator[Asked]:
    """Within the block the first SIGTERM, SIGINT or SIGUSR1 (SLURM's warning) only makes the given function True.

    A second SIGINT interrupts at once.
    """
    asked = Asked()

    def handle(number: int, _: FrameType | None) -> None:
        if asked() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.signum = asked.signum or number

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
