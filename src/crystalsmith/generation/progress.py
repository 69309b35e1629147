"""How a run tells where it stands."""

from __future__ import annotations

import sys
from typing import Protocol

from crystalsmith.progress import Meter


class Reporter(Protocol):
    """Hears about a run as it goes."""

    def start(self, total: int, done: int) -> None:
        """A run of ``total`` crystals begins or goes on after ``done``."""
        ...

    def step(self, done: int, size: int, step: int, steps: int) -> None:
        """Step ``step`` of ``steps`` of a batch of ``size`` crystals is over; ``done`` crystals stood before it."""
        ...

    def made(self, done: int, workers: int) -> None:
        """``done`` crystals stand; ``workers`` make the others."""
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

    def made(self, done: int, workers: int) -> None: ...

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self) -> None: ...


class Shown:
    """A meter of crystals, with the step within the batch."""

    def __init__(self) -> None:
        self._meter: Meter | None = None

    def start(self, total: int, done: int) -> None:
        self._meter = Meter("generating", total, "crystals", done)

    def step(self, done: int, size: int, step: int, steps: int) -> None:
        assert self._meter is not None
        self._meter.update(done + size * step / steps, f"step {step}/{steps}", done + (size if step == steps else 0))

    def made(self, done: int, workers: int) -> None:
        assert self._meter is not None
        self._meter.update(done, f"{workers} worker{'s' if workers != 1 else ''}")

    def message(self, text: str) -> None:
        print(text, file=sys.stderr) if self._meter is None else self._meter.say(text)

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()


def reporter(enabled: bool) -> Reporter:
    """One that shows where the run stands, or one that is silent."""
    return Shown() if enabled else Silent()
