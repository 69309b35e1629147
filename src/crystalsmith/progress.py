"""How a long task tells where it stands: a bar on a terminal, another in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

BAR_WIDTH = 14
FIRST_LINE, EVERY_LINE = 20.0, 60.0
"""Seconds until a log without a terminal gets its first line, and between later ones."""


class Face(Protocol):
    """Where a meter is seen."""

    def show(self, share: float | None, parts: list[str]) -> None:
        """The share that is done, None where the total is unknown, and the words beside it, the dearest first."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None:
        """The task is over."""
        ...


class Meter:
    """Counts what is done and shows it with rate and time left.

    Args:
        title: one word for what is going on.
        total: how much there is to do; None where that is not known.
        unit: of what is counted.
        done: what was done before, which the rate leaves out.
        face: where it is seen; None chooses by where the program runs.
    """

    def __init__(
        self, title: str, total: int | None, unit: str = "crystals", done: float = 0, face: Face | None = None
    ) -> None:
        self.total, self.unit = total, unit
        self._first, self._began = done, time.monotonic()
        self._face = face or choose_face(title)
        self.update(done)

    def update(self, done: float, detail: str = "", whole: int | None = None) -> None:
        """``done`` of the total; ``whole`` is the count to print where ``done`` is a fraction within a batch."""
        spent, new = time.monotonic() - self._began, done - self._first
        count = int(done) if whole is None else whole
        parts = [f"{count:,} of {self.total:,} {self.unit}" if self.total else f"{count:,} {self.unit}"]
        if new > 0 and spent > 0:
            if self.total:
                parts.append(f"{clock(spent / new * max(0.0, self.total - done))} left")
            parts.append(f"{new / spent:.3g}/s" if new > spent else f"{spent / new:.2g} s each")
        if detail:
            parts.append(detail)
        self._face.show(done / self.total if self.total else None, parts)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._face.say(text)

    def close(self) -> None:
        """The task is over; a bar disappears."""
        self._face.close()


def choose_face(title: str) -> Face:
    """A bar where standard error is a terminal or the program runs in a notebook, else lines."""
    if in_notebook():
        return Notebook(title)
    return Terminal(title) if sys.stderr.isatty() else Lines(title)


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    shell = sys.modules.get("IPython")
    found = None if shell is None else shell.get_ipython()
    return type(found).__name__ == "ZMQInteractiveShell"


class Terminal:
    """A live line: title, bar, and as many of the words as the terminal is wide."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._room = max(10, console.width - len(title) - BAR_WIDTH - 3)
        self._bar = Progress(
            TextColumn(title), BarColumn(bar_width=BAR_WIDTH), TextColumn("{task.description}"), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, share: float | None, parts: list[str]) -> None:
        total = None if share is None else 1.0
        self._bar.update(self._task, total=total, completed=share or 0.0, description=fitting(parts, self._room))

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


class Lines:
    """A line on standard error every minute."""

    def __init__(self, title: str) -> None:
        self._title, self._next = title, time.monotonic() + FIRST_LINE

    def show(self, share: float | None, parts: list[str]) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_LINE
            self.say(f"{self._title}: {', '.join(parts)}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Notebook:
    """A bar in the output of a notebook's cell, which disappears in the end."""

    def __init__(self, title: str) -> None:
        from IPython.display import HTML, display

        self._title, self._html = title, HTML
        self._handle: Any = display(HTML(""), display_id=True)
        self._next = 0.0

    def show(self, share: float | None, parts: list[str]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.2
        value = "" if share is None else f' value="{share:.4f}"'
        words = html.escape(", ".join(parts))
        self._handle.update(self._html(f"{html.escape(self._title)} <progress max=1{value}></progress> {words}"))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self) -> None:
        self._handle.update(self._html(""))


@contextmanager
def metered(
    title: str, total: int | None, unit: str = "crystals", show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to tell how much more is done."""
    if not show:
        yield lambda _: None
        return
    meter, done = Meter(title, total, unit), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        meter.update(done)

    try:
        yield advance
    finally:
        meter.close()


def fitting(parts: list[str], room: int) -> str:
    """As many of the words, joined by commas, as there is room for; the first always."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 2 + len(part) > room:
            break
        text += f", {part}"
    return text[:room]


def clock(seconds: float) -> str:
    """Seconds as ``0:42``, ``12:05`` or ``3:07:00``."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
