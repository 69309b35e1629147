"""Workers that stay between stages: a potential is loaded once by each, not once a stage of every round."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from crystalsmith.engine.schedule import Event, LastingBackend


class Crew:
    """A backend whose idle workers wait for the next schedule instead of being ended; :meth:`close` ends them.

    Args:
        backend: starts, feeds and ends the workers.
    """

    def __init__(self, backend: LastingBackend) -> None:
        self.backend, self.deaths = backend, backend.deaths
        self._waiting: list[Hashable] = []
        self._back: list[Event] = []

    def capacity(self) -> int:
        """How many workers there may be."""
        return self.backend.capacity()

    def start(self) -> Hashable:
        """A worker that waits, or a new one."""
        if not self._waiting:
            return self.backend.start()
        worker = self._waiting.pop()
        self._back += self.backend.again(worker)
        return worker

    def send(self, worker: Hashable, task: Any) -> None:
        """Give a task to a worker."""
        self.backend.send(worker, task)

    def wait(self, workers: Sequence[Hashable], seconds: float) -> list[Event]:
        """What is heard; first of those that waited."""
        ready, self._back = self._back, []
        return ready or self.backend.wait(workers, seconds)

    def stop(self, worker: Hashable, at_once: bool) -> None:
        """Keep an idle worker; end one that is at work, hangs or is lost."""
        if unheard := [event for event in self._back if event[0] == worker]:  # it has waited: it is idle
            self._back.remove(unheard[0])
            at_once = False
        if at_once:
            self.backend.stop(worker, at_once)
        else:
            self._waiting.append(worker)

    def now(self) -> float:
        """Seconds."""
        return self.backend.now()

    def close(self) -> None:
        """End the workers that wait."""
        while self._waiting:
            self.backend.stop(self._waiting.pop(), at_once=False)
