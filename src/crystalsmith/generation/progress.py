"""How a run tells where it stands."""

from __future__ import annotations

import sys
from typing import Any, Protocol


class Reporter(Protocol):
    """Hears about a run as it goes."""

    def start(self, total: int, done: int) -> None:
        """A run of ``total`` crystals begins or goes on after ``done``."""
        ...

    def step(self, done: int, size: int, step: int, steps: int) -> None:
        """Step ``step`` of ``steps`` of a batch of ``size`` crystals is over; ``done`` crystals stood before it."""
        ...

    def message(self, text: str) -> None:
        """Something the user should know."""
        ...

    def close(self) -> None:
        """The run is over or was stopped."""
        ...


class Silent:
    """Says nothing, except messages on stderr."""

    def start(self, total: int, done: int) -> None: ...

    def step(self, done: int, size: int, step: int, steps: int) -> None: ...

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self) -> None: ...


class Bar:
    """A progress bar on stderr: crystals done, the step within the batch, rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("generating"),
            BarColumn(),
            TextColumn("{task.fields[crystals]} of {task.total:.0f} crystals"),
            TextColumn("[dim]{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None

    def start(self, total: int, done: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task("", total=total, completed=done, crystals=done, detail="")

    def step(self, done: int, size: int, step: int, steps: int) -> None:
        speed = self._bar.tasks[0].speed
        rate = "" if not speed else f", {speed:.2f} crystals/s" if speed > 1 else f", {1 / speed:.1f} s per crystal"
        self._bar.update(
            self._task,
            completed=done + size * step / steps,
            crystals=done + (size if step == steps else 0),
            detail=f"step {step}/{steps} of {size}{rate}",
        )

    def message(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


def reporter(enabled: bool) -> Reporter:
    """A bar where stderr is a terminal, otherwise silence."""
    return Bar() if enabled and sys.stderr.isatty() else Silent()
