"""Worker processes for jobs that may hang or die: each job ends in a result, a time-out or a crash, never the run."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any

from crystalsmith.engine.work import one_thread
from crystalsmith.errors import InputError

TIMED_OUT, CRASHED = "timed_out", "crashed"

MAX_DEATHS = 3
"""Workers that may die before their first job, one after another; then something is wrong with all of them."""

Job = Callable[[Any], Any]


def supervised(
    start: Callable[..., Job], arguments: tuple[Any, ...], tasks: Sequence[Any], jobs: int, time_limit: float
) -> Iterator[tuple[int, str, Any]]:
    """Run a job for each task, in processes that are replaced when a job takes too long or kills its process.

    Args:
        start: called with ``arguments`` once in each process; returns the job, a function of one task.
        tasks: what the jobs get.
        jobs: processes.
        time_limit: seconds for one job.

    Yields:
        As they finish: task number, status (empty, ``timed_out`` or ``crashed``) and result.

    Raises:
        InputError: what ``start`` raises in a process, or if processes die before they begin.
    """
    waiting = deque(range(len(tasks)))
    workers = [_Worker.start(start, arguments) for _ in range(min(jobs, len(tasks)))]
    deaths = 0
    try:
        while waiting or any(w.task is not None for w in workers):
            for worker in _ready(workers, time_limit):
                status, result = worker.receive()
                if status == "refused":
                    raise InputError(result)
                if status in (TIMED_OUT, CRASHED):
                    deaths = deaths + 1 if not worker.begun else 0
                    if deaths >= MAX_DEATHS:
                        raise InputError(
                            "The worker processes end before they begin; the machine may be short of memory (use fewer "
                            "--jobs), or a script calls this outside 'if __name__ == \"__main__\":'."
                        )
                task, worker.task = worker.task, None
                if task is not None:
                    yield task, status, result
                if status in (TIMED_OUT, CRASHED):
                    worker.stop(at_once=True)
                    workers[workers.index(worker)] = worker = _Worker.start(start, arguments)
                elif waiting:
                    worker.send(waiting.popleft(), tasks)
    finally:
        for worker in workers:
            worker.stop()


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Any
    task: int | None = None
    since: float = field(default_factory=time.monotonic)
    begun: bool = False

    @staticmethod
    def start(start: Callable[..., Job], arguments: tuple[Any, ...]) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, start, arguments), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def send(self, task: int, tasks: Sequence[Any]) -> None:
        self.task, self.since = task, time.monotonic()
        with contextlib.suppress(OSError):  # if it has died, the next look at the pipe tells
            self.pipe.send(tasks[task])

    def receive(self) -> tuple[str, Any]:
        if not self.pipe.poll():
            return TIMED_OUT, None
        try:
            status, result = self.pipe.recv()
        except (EOFError, OSError):
            return CRASHED, None
        self.begun = True
        return status, result

    def stop(self, at_once: bool = False) -> None:
        self.pipe.close()
        if self.task is None and not at_once:
            self.process.join(2.0)  # an idle one ends by itself, and tidies up, when its pipe is closed
        self.process.kill()
        self.process.join()


def _ready(workers: Sequence[_Worker], time_limit: float) -> list[_Worker]:
    """The workers that have something to say, or whose time is up."""
    heard = connection.wait([w.pipe for w in workers], timeout=0.2)
    now = time.monotonic()
    return [w for w in workers if w.pipe in heard or (w.task is not None and now - w.since > time_limit)]


def _serve(pipe: Any, start: Callable[..., Job], arguments: tuple[Any, ...]) -> None:
    one_thread()
    try:
        job = start(*arguments)
    except InputError as error:
        pipe.send(("refused", str(error)))
        return
    pipe.send(("", None))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        pipe.send(("", job(task)))
