"""Workers that are processes of this machine.

Why not a library: loky cannot end one worker that hangs, pebble can but is under the LGPL and keeps its workers when
the parent is killed, and both start a task by name, without a place for what a worker holds between tasks (a potential,
a model). What is left for us to write is this file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.reduction import ForkingPickler
from typing import Any

from crystalsmith.engine.limits import threads
from crystalsmith.engine.schedule import DONE, FAILED, LOST, READY, REFUSED, Event
from crystalsmith.errors import InputError

Job = Callable[[Any], Any]

FAILURES = 2
"""Workers that a device may lose; then it is given nothing more."""


class Broken(Exception):
    """Raised by a job: its worker is not fit for another task, as after an error of its device; another may be."""


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Any
    place: int
    idle: bool = False


class Processes:
    """Fresh processes of one thread each: forking one that has used Arrow or torch threads can hang.

    They end when this process ends, however it ends, and leave Ctrl-C to it.

    Args:
        begin: called with ``arguments`` once in each process; returns the job, a function of one task.
        workers: most processes.
        devices: one for each process instead, given to ``begin`` after the arguments; equal names are different
            processes, which share the threads of this machine. A device that loses :data:`FAILURES` workers gets none
            again.
        tell: hears of devices that lose workers.
    """

    def __init__(
        self,
        begin: Callable[..., Job],
        arguments: tuple[Any, ...],
        workers: int,
        devices: Sequence[str] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.begin, self.arguments, self.devices, self.tell = begin, arguments, tuple(devices), tell
        self.places = len(devices) or workers
        self.threads = max(1, (os.cpu_count() or 1) // self.places) if devices else 1
        self.deaths = FAILURES * self.places + 1 if devices else 3
        self._taken: set[int] = set()
        self._failures: Counter[int] = Counter()
        self._reason = ""
        # A process that needs nothing of the user's script does not run it again, so that no script needs a guard.
        self._needs_script = b"__main__" in bytes(ForkingPickler.dumps((begin, arguments)))

    def capacity(self) -> int:
        """How many processes there may be.

        Raises:
            InputError: if no device is left.
        """
        left = sum(1 for place in range(self.places) if self._usable(place))
        if not left:
            raise InputError(
                f"No device is left of {', '.join(self.devices)} ({self._reason}); what is finished is kept, go on "
                "when they are mended."
            )
        return left

    def _usable(self, place: int) -> bool:
        return not self.devices or self._failures[place] < FAILURES

    def _lost(self, worker: _Worker, reason: str) -> Event:
        if self.devices:
            self._failures[worker.place] += 1
            self._reason = reason
            retired = "" if self._usable(worker.place) else "; it is given nothing more"
            self.tell(f"A worker on {self.devices[worker.place]} was lost{retired}: {reason}")
        return worker, LOST, reason

    def start(self) -> Hashable:
        """A new process."""
        place = next(p for p in range(self.places) if p not in self._taken and self._usable(p))
        self._taken.add(place)
        arguments = (*self.arguments, self.devices[place]) if self.devices else self.arguments
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        alone = threading.current_thread() is threading.main_thread()
        process = context.Process(target=_serve, args=(theirs, alone, self.begin, arguments), daemon=True)
        script = contextlib.nullcontext() if self._needs_script else _script_hidden()
        with _interrupts_held(), threads(self.threads), script:
            process.start()
        theirs.close()
        return _Worker(process, ours, place)

    def again(self, worker: Any) -> list[Event]:
        """Take up a process that waited: it is ready."""
        return [(worker, READY, None)]

    def send(self, worker: Any, task: Any) -> None:
        """Give a task to a process."""
        worker.idle = False
        with contextlib.suppress(OSError):  # if it has died, the next look at the pipe tells
            worker.pipe.send(task)

    def wait(self, workers: Sequence[Any], seconds: float) -> list[Event]:
        """What the processes say."""
        by_pipe = {w.pipe: w for w in workers}
        events: list[Event] = []
        for pipe in connection.wait(list(by_pipe), timeout=seconds):
            worker = by_pipe[pipe]
            try:
                what, value = worker.pipe.recv()
            except (EOFError, OSError):
                what, value = LOST, "the process ended; the machine may be short of memory"
            worker.idle = what in (READY, DONE, FAILED)
            events.append(self._lost(worker, value) if what == LOST else (worker, what, value))
        return events

    def stop(self, worker: Any, at_once: bool) -> None:
        """End a process; an idle one ends by itself, and tidies up, when its pipe is closed."""
        worker.pipe.close()
        self._taken.discard(worker.place)
        if worker.idle and not at_once:
            worker.process.join(2.0)
        worker.process.kill()
        worker.process.join()

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()


def attempt(job: Job, task: Any) -> tuple[str, Any]:
    """What became of a task, and the result of the job or what it raised, in words."""
    try:
        return DONE, job(task)
    except Broken as error:
        return LOST, str(error)
    except Exception as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return FAILED, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def _serve(pipe: Any, from_main: bool, begin: Callable[..., Job], arguments: tuple[Any, ...]) -> None:
    _end_with_parent(from_main)
    try:
        job = begin(*arguments)
    except InputError as error:
        pipe.send((REFUSED, str(error)))
        return
    except Exception as error:  # of the device, say
        pipe.send((LOST, f"{type(error).__name__}: {error}"))
        return
    pipe.send((READY, None))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        answer = attempt(job, task)
        try:
            pipe.send(answer)
        except OSError:
            return


def _end_with_parent(from_main: bool) -> None:
    """Let this process end with the one that started it; an interrupt from the keyboard is that one's to answer.

    Args:
        from_main: the main thread started it. (Linux sends the signal when the thread ends that did.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux" and from_main:
        # The thread above cannot run while compiled code holds the interpreter; the system can.
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent.pid:
            os._exit(1)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Let the main module look like that of a prompt, which a new process has no file to run again of."""
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold interrupts back while a process starts: it inherits that until it knows how to ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
