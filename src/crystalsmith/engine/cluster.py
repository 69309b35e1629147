"""Workers that are actors of a Ray cluster: each holds its potential or model, and any node may leave or join."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from crystalsmith.engine.processes import Job, attempt
from crystalsmith.engine.schedule import LOST, READY, REFUSED, Event
from crystalsmith.errors import InputError

LOOK = 5.0
"""Seconds between looks at how large the cluster is."""


@dataclass(eq=False)
class _Worker:
    actor: Any
    pending: Any


class Actors:
    """Actors of one core each, and of a share of a GPU where that is asked for.

    Args:
        begin: called with ``arguments`` once in each actor; returns the job, a function of one task.
        workers: most actors; 0 for as many as the cluster has room for.
        address: of the cluster; None for the one that ``RAY_ADDRESS`` names, or one of this machine alone.
        gpus: GPUs of an actor; None for one where the cluster has any.

    Raises:
        InputError: if Ray is not installed, or there is no such cluster.
    """

    deaths = 100

    def __init__(
        self,
        begin: Callable[..., Job],
        arguments: tuple[Any, ...],
        workers: int,
        address: str | None,
        gpus: float | None,
    ) -> None:
        self.ray = connect(address)
        if gpus is None:
            gpus = 1.0 if self.ray.cluster_resources().get("GPU", 0.0) >= 1.0 else 0.0
        self.begin, self.workers, self.gpus = begin, workers, gpus
        self.arguments = self.ray.put(arguments)  # once into the cluster, not once for each actor
        self._looked, self._room = -LOOK, 0
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # An actor that is lost is replaced by us: only we know which task it had.
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "runtime_env": {"env_vars": threads}}
        self._kind = self.ray.remote(**options)(_Actor)

    def capacity(self) -> int:
        """How many actors the nodes that are there now have room for, within what was asked for."""
        if self.now() - self._looked >= LOOK:
            self._looked = self.now()
            have = self.ray.cluster_resources()
            room = have.get("CPU", 1.0)
            if self.gpus:
                room = min(room, have.get("GPU", 0.0) / self.gpus)
            self._room = max(1, int(room))
        return min(self.workers, self._room) if self.workers else self._room

    def start(self) -> Hashable:
        """A new actor; it begins when a node has room for it."""
        actor = self._kind.remote(self.begin, self.arguments)
        return _Worker(actor, actor.begun.remote())

    def again(self, worker: Any) -> list[Event]:
        """Ask an actor that waited whether it is still there: its node may have left meanwhile."""
        worker.pending = worker.actor.begun.remote()
        return []

    def send(self, worker: Any, task: Any) -> None:
        """Give a task to an actor."""
        worker.pending = worker.actor.work.remote(task)

    def wait(self, workers: Sequence[Any], seconds: float) -> list[Event]:
        """What the actors say."""
        by_ref = {w.pending: w for w in workers}
        if not by_ref:
            time.sleep(seconds)
            return []
        ready, _ = self.ray.wait(list(by_ref), num_returns=1, timeout=seconds)
        if ready:  # and what else is there by now
            ready, _ = self.ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        events: list[Event] = []
        for ref in ready:
            worker = by_ref[ref]
            try:
                what, value = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                events.append((worker, LOST, f"the worker or its node was lost ({type(error).__name__})"))
                continue
            events.append((worker, what, value))
        return events

    def stop(self, worker: Any, at_once: bool) -> None:
        """End an actor."""
        with contextlib.suppress(Exception):  # it, its node or the whole cluster may be gone
            self.ray.kill(worker.actor, no_restart=True)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()


class _Actor:
    """What lives on a node: the job, begun once."""

    def __init__(self, begin: Callable[..., Job], arguments: tuple[Any, ...]) -> None:
        self.job: Job | None = None
        self.refusal = ""
        try:
            self.job = begin(*arguments)
        except InputError as error:
            self.refusal = str(error)

    def begun(self) -> tuple[str, Any]:
        """Whether it can work."""
        return (REFUSED, self.refusal) if self.job is None else (READY, None)

    def work(self, task: Any) -> tuple[str, Any]:
        """One task."""
        assert self.job is not None
        return attempt(self.job, task)


def connect(address: str | None) -> Any:
    """Ray, connected to a cluster.

    Raises:
        InputError: if it is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave the GPUs of an actor without any alone
    try:
        import ray
    except ImportError:
        raise InputError("The engine ray needs Ray; install it with: pip install 'crystalsmith[ray]'.") from None
    if ray.is_initialized():
        return ray
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except Exception as error:  # Ray has several kinds for one meaning
        sentence = " ".join(str(error).split())[:200]
        raise InputError(
            f"There is no Ray cluster at {address or 'the default address'} ({sentence}); start one with 'ray start "
            "--head' and give its address, or leave --ray-address out for one of this machine alone."
        ) from None
    return ray
