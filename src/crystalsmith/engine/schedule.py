"""Who does which task, and what becomes of it: one scheduler for workers of every kind.

Workers are processes of this machine (:mod:`.processes`), actors on a cluster (:mod:`.cluster`), or the imaginary ones
of ``benchmarks/scaling.py``; a :class:`Backend` starts and stops them, carries tasks to them and hears from them. A
worker has one task at a time; tasks are drawn as they are needed, so that neither tasks nor results pile up.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from crystalsmith.errors import InputError

TIMED_OUT, CRASHED = "timed_out", "crashed"

READY, DONE, FAILED, REFUSED, LOST = "ready", "done", "failed", "refused", "lost"
"""What is heard of a worker: it has begun; its task has a result; its task raised; it cannot begin; it is gone."""

AHEAD = 4
"""Tasks for each worker that may be finished or on their way beyond the first one that is still awaited in order."""

PATIENCE = 0.5
"""Seconds between looks at the clock while nothing is heard."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        number: of the task, counted from 0.
        status: empty, ``timed_out`` or ``crashed``.
        value: the result; None where there is none.
        detail: why there is none.
        raised: the job raised, so that trying again is no use.
        workers: how many there were when it ended.
    """

    number: int
    status: str = ""
    value: Any = None
    detail: str = ""
    raised: bool = False
    workers: int = 1


Event = tuple[Hashable, str, Any]
"""A worker, what is heard of it, and the result or the reason."""


class Backend(Protocol):
    """Workers of one kind.

    Attributes:
        deaths: workers that may die one after another before they begin; then something is wrong with all of them.
    """

    deaths: int

    def capacity(self) -> int:
        """How many workers there may be now.

        Raises:
            InputError: if there can be none any more.
        """
        ...

    def start(self) -> Hashable:
        """A new worker; ``READY`` or ``REFUSED`` is heard of it later."""
        ...

    def send(self, worker: Hashable, task: Any) -> None:
        """Give a task to a worker that has none."""
        ...

    def wait(self, workers: Sequence[Hashable], seconds: float) -> list[Event]:
        """What is heard of workers, as soon as there is something, or nothing after some time."""
        ...

    def stop(self, worker: Hashable, at_once: bool) -> None:
        """End a worker, in the middle of its task if need be."""
        ...

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""
        ...


class LastingBackend(Backend, Protocol):
    """Workers that may wait between one schedule and the next."""

    def again(self, worker: Hashable) -> list[Event]:
        """Take up a worker that waited: what is heard of it at once; else ``READY`` or its loss is heard later."""
        ...


def outcome_of(number: int, what: str, value: Any) -> Outcome:
    """The outcome of a task that is ``DONE`` or ``FAILED``."""
    return Outcome(number, "", value) if what == DONE else Outcome(number, CRASHED, None, str(value), raised=True)


@dataclass
class _Task:
    number: int
    what: Any
    tries: int = 0


def schedule(
    backend: Backend, tasks: Iterable[Any], *, ordered: bool, time_limit: float | None, tries: int
) -> Iterator[Outcome]:
    """Have every task done.

    Args:
        ordered: outcomes in the order of the tasks; else as they come.
        time_limit: seconds for one task; a worker that takes longer is replaced.
        tries: how often a task is given to a worker when the one before was lost with it.

    Raises:
        InputError: what a worker says that cannot begin, or if workers die before they begin.
    """
    return _Schedule(backend, iter(tasks), ordered, time_limit, tries).outcomes()


class _Schedule:
    def __init__(
        self, backend: Backend, source: Iterator[Any], ordered: bool, time_limit: float | None, tries: int
    ) -> None:
        self.backend, self.source, self.ordered = backend, source, ordered
        self.time_limit, self.tries = time_limit, tries
        self.upcoming: deque[_Task] = deque()
        self.drawn = self.awaited = self.died = 0
        self.exhausted = False
        self.starting: set[Hashable] = set()
        self.idle: deque[Hashable] = deque()
        self.busy: dict[Hashable, _Task] = {}
        self.deadlines: list[tuple[float, int, Hashable]] = []
        self.finished: dict[int, Outcome] = {}

    def outcomes(self) -> Iterator[Outcome]:
        try:
            while True:
                self._give()
                if not self.busy and not self.upcoming and self.exhausted:
                    return
                for event in self._hear():
                    outcome = self._took(*event)
                    if outcome is not None:
                        outcome = replace(outcome, workers=len(self.busy) + len(self.idle))
                        # Workers wait for tasks while the caller has the outcome, so they get theirs first.
                        self._give()
                        yield from self._in_turn(outcome)
        finally:
            for worker in [*self.busy, *self.starting]:
                self.backend.stop(worker, at_once=True)
            for worker in self.idle:
                self.backend.stop(worker, at_once=False)

    # ---- tasks go out

    def _give(self) -> None:
        """Tasks to idle workers, and workers for the tasks beyond them."""
        while self.idle and self._draw(1):
            worker, task = self.idle.popleft(), self.upcoming.popleft()
            task.tries += 1
            self.busy[worker] = task
            if self.time_limit is not None:
                heapq.heappush(self.deadlines, (self.backend.now() + self.time_limit, id(task), worker))
            self.backend.send(worker, task.what)
        room = self.backend.capacity() - len(self.busy) - len(self.idle) - len(self.starting)
        while room > 0 and self._draw(len(self.starting) + 1):
            self.starting.add(self.backend.start())
            room -= 1

    def _draw(self, count: int) -> bool:
        """Whether so many tasks wait here, after drawing what is missing."""
        while len(self.upcoming) < count and not self.exhausted:
            if self.ordered and self.drawn - self.awaited >= AHEAD * max(1, self.backend.capacity()):
                return False
            try:
                self.upcoming.append(_Task(self.drawn, next(self.source)))
            except StopIteration:
                self.exhausted = True
                break
            self.drawn += 1
        return len(self.upcoming) >= count

    # ---- outcomes come back

    def _hear(self) -> list[Event]:
        left = self.deadlines[0][0] - self.backend.now() if self.deadlines else PATIENCE
        events = self.backend.wait([*self.busy, *self.starting], max(0.0, min(PATIENCE, left)))
        heard = {worker for worker, _, _ in events}
        now = self.backend.now()
        while self.deadlines and self.deadlines[0][0] <= now:
            _, task, worker = heapq.heappop(self.deadlines)
            if worker in self.busy and id(self.busy[worker]) == task and worker not in heard:
                events.append((worker, TIMED_OUT, f"more than {self.time_limit:g} s"))
        return events

    def _took(self, worker: Hashable, what: str, value: Any) -> Outcome | None:
        """Note what was heard of a worker; the outcome of its task, if it has one now."""
        if what == REFUSED:
            raise InputError(value)
        if what == READY:
            self.starting.discard(worker)
            self.idle.append(worker)
            self.died = 0
            return None
        task = self.busy.pop(worker, None)
        if what in (DONE, FAILED):
            self.idle.append(worker)
            assert task is not None
            return outcome_of(task.number, what, value)
        self.backend.stop(worker, at_once=True)
        if worker in self.starting:
            self.starting.discard(worker)
            self.died += 1
            if self.died >= self.backend.deaths:
                raise InputError(
                    "The worker processes end before they begin; the machine may be short of memory (use fewer "
                    "--jobs), or a script hands workers a function of its own outside 'if __name__ == \"__main__\":'."
                )
        if task is None:
            return None
        if what == TIMED_OUT:
            return Outcome(task.number, TIMED_OUT, None, str(value))
        if task.tries < self.tries:
            self.upcoming.appendleft(task)
            return None
        return Outcome(task.number, CRASHED, None, str(value))

    def _in_turn(self, outcome: Outcome) -> Iterator[Outcome]:
        if not self.ordered:
            yield outcome
            return
        self.finished[outcome.number] = outcome
        while self.awaited in self.finished:
            self.awaited += 1
            yield self.finished.pop(self.awaited - 1)
