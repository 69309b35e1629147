"""``run``: a job for many tasks, in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from crystalsmith.engine.processes import FAILURES, Job, Processes, attempt
from crystalsmith.engine.schedule import LastingBackend, Outcome, outcome_of, schedule
from crystalsmith.errors import InputError

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Where jobs run.

    Attributes:
        workers: processes, or actors on the cluster; 0 for as many as a cluster has room for.
        kind: ``local`` or ``ray``.
        address: of the Ray cluster; None for the one that ``RAY_ADDRESS`` names, or one of this machine alone.
        gpus: GPUs that an actor takes of its node; may be a share. None for one where the cluster has any.
        devices: of this machine, a process on each instead of ``workers``; ``begin`` is given its own after the
            arguments.
    """

    workers: int = 1
    kind: str = "local"
    address: str | None = None
    gpus: float | None = 0.0
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise InputError(f"There is no engine '{self.kind}'; choose {' or '.join(ENGINES)}.")
        if self.devices and self.is_ray:
            raise InputError("Devices are those of this machine; on a Ray cluster each worker gets one of its node.")

    @property
    def is_ray(self) -> bool:
        """Whether jobs run on a cluster."""
        return self.kind == "ray"

    def at_most(self, workers: int) -> Engine:
        """The same with no more workers than there is work for; on this machine, where starting one takes seconds."""
        return self if self.is_ray else replace(self, workers=max(1, min(self.workers, workers)))


def run(
    begin: Callable[..., Job],
    tasks: Iterable[Any],
    engine: Engine,
    *,
    arguments: tuple[Any, ...] = (),
    ordered: bool = False,
    time_limit: float | None = None,
    tries: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Do a job for each task; every task ends in a result, a time-out or a crash, and never ends the run.

    Args:
        begin: called with ``arguments`` once in each worker; returns the job, a function of one task, which may hold a
            potential or a model. It and the arguments travel to the workers, so it is a function of a module. See
            :func:`plainly` for a job that holds nothing.
        tasks: what the job gets, drawn as workers come free.
        engine: where.
        ordered: outcomes in the order of the tasks; else as they come.
        time_limit: seconds for one task, after which its worker is replaced.
        tries: how often a task is given out when workers are lost with it. On a cluster at least twice, on devices
            until none is left.
        tell: hears of devices that are lost.

    Raises:
        InputError: what ``begin`` raises, or if workers cannot be started.
    """
    if engine.workers <= 1 and time_limit is None and not engine.is_ray and not engine.devices:
        return _here(begin(*arguments), tasks)
    backend, least = workers_of(begin, arguments, engine, tell)
    return schedule(backend, tasks, ordered=ordered, time_limit=time_limit, tries=max(least, tries))


def workers_of(
    begin: Callable[..., Job], arguments: tuple[Any, ...], engine: Engine, tell: Callable[[str], None] = lambda _: None
) -> tuple[LastingBackend, int]:
    """The workers of an engine, and how often a task must be given out at least; arguments as in :func:`run`.

    Raises:
        InputError: if there can be none.
    """
    if engine.is_ray:
        from crystalsmith.engine.cluster import Actors

        return Actors(begin, arguments, engine.workers, engine.address, engine.gpus), 2
    if engine.devices:
        return Processes(begin, arguments, 0, engine.devices, tell), FAILURES * len(engine.devices)
    return Processes(begin, arguments, max(1, engine.workers)), 1


def _here(job: Job, tasks: Iterable[Any]) -> Iterator[Outcome]:
    for number, task in enumerate(tasks):
        what, value = attempt(job, task)
        yield outcome_of(number, what, value)


def plainly(function: Callable[[Any], Any]) -> Callable[[], Job]:
    """``begin`` for a job that holds nothing between tasks."""
    return partial(_itself, function)


def _itself(function: Callable[[Any], Any]) -> Job:
    return function


def in_order(function: Callable[[Any], Any], tasks: Iterable[Any], engine: Engine) -> Iterator[Any]:
    """The results of a function in the order of the tasks, where a run cannot go on without any of them.

    Raises:
        InputError: if the function raises one, or the workers of a task are lost twice (as for want of memory).
        RuntimeError: if the function raises anything else.
    """
    for outcome in run(partial(_telling, function), tasks, engine, ordered=True, tries=2):
        if outcome.raised:
            raise RuntimeError(outcome.detail)
        if outcome.status:
            raise InputError(
                f"A worker process was lost twice with the same work ({outcome.detail}); free some memory, or use one "
                "job."
            )
        sentence, value = outcome.value
        if sentence is not None:
            raise InputError(sentence)
        yield value


def _telling(function: Callable[[Any], Any]) -> Job:
    return partial(_tell, function)


def _tell(function: Callable[[Any], Any], task: Any) -> tuple[str | None, Any]:
    """The sentence of an :class:`InputError`, or the result."""
    try:
        return None, function(task)
    except InputError as error:
        return str(error), None
