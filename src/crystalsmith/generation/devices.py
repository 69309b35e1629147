"""One run on several devices of this machine: a process on each makes one shard after another.

A shard is the unit of work because it is written, resumed and merged by itself: a process that dies, or a device that
is lost, costs its shard a second try and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from crystalsmith.errors import InputError
from crystalsmith.generation.folder import is_occupied
from crystalsmith.generation.making import number_of
from crystalsmith.generation.merge import merge
from crystalsmith.generation.progress import Reporter
from crystalsmith.generation.run import DEFAULT_NUM, Options, Summary
from crystalsmith.generation.shards import BATCH_SIZE, FOLDER, Shard
from crystalsmith.signals import Stopped, StopSignals

SHARDS_PER_DEVICE = 4
"""More of them wait less for the last one; each costs the start of a process."""

FAILURES = 2
"""Failures after which a device is given nothing more."""

REFUSED = 2
"""Exit code of a command that was asked for something impossible."""


class Worker(Protocol):
    """A process, as far as it matters here."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to stop; it keeps what it has."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        ...


Launch = Callable[[Shard, str], Worker]


def parse_devices(text: str) -> list[str]:
    """The devices that ``cuda:0,cuda:1`` or ``cpu*2`` names, one for each process.

    Raises:
        InputError: if it names none.
    """
    devices: list[str] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(cpu|cuda(?::\d+)?)\s*(?:\*\s*(\d{1,3}))?\s*", part)
        if not found or found[2] == "0":
            raise InputError(f"--devices {text!r} is no list of devices; write for example cuda:0,cuda:1 or cpu*2.")
        devices += [found[1]] * int(found[2] or 1)
    return devices


def choose_shards(out: Path, num: int, batch_size: int, devices: int) -> list[Shard]:
    """The shards of a run: as many as it was begun with, or some for each device."""
    begun = sorted((out / FOLDER).glob("*-of-*")) if (out / FOLDER).is_dir() else []
    numbers = {int(found[1]) for path in begun if (found := re.fullmatch(r"\d+-of-(\d+)", path.name))}
    n = min(numbers) if numbers else max(1, min(-(-num // batch_size), SHARDS_PER_DEVICE * devices))
    return [Shard(k, n) for k in range(n)]


def work(
    shards: Sequence[Shard],
    devices: Sequence[str],
    launch: Launch,
    reporter: Reporter,
    watch: Callable[[], None] = lambda: None,
    pause: float = 0.2,
) -> None:
    """Make all shards.

    Args:
        shards: to be made.
        devices: one for each process; equal names are different processes.
        launch: starts a shard on a device.
        reporter: hears of what failed.
        watch: called again and again.
        pause: seconds between looks at the processes.

    Raises:
        InputError: if a process was refused what it asked for, or no device is left.
    """
    waiting, running = deque(shards), dict[int, tuple[Shard, Worker]]()
    failures: Counter[int] = Counter()
    try:
        while waiting or running:
            for place, device in enumerate(devices):
                if waiting and place not in running and failures[place] < FAILURES:
                    shard = waiting.popleft()
                    running[place] = shard, launch(shard, device)
            if not running:
                raise InputError(
                    f"No device is left ({', '.join(devices)}), and {len(waiting)} of {len(shards)} shards are not "
                    "finished; mend the devices and type the same line again, what is finished is kept."
                )
            watch()
            time.sleep(pause)
            for place, (shard, worker) in list(running.items()):
                code = worker.poll()
                if code is None:
                    continue
                del running[place]
                if code == REFUSED:
                    raise InputError(_last_line(worker) or f"Shard {shard} was refused on {devices[place]}.")
                if code == 0:
                    continue
                failures[place] += 1
                waiting.append(shard)
                retired = "; it is given nothing more" if failures[place] >= FAILURES else ""
                last = _last_line(worker)
                reporter.message(
                    f"Shard {shard} failed on {devices[place]} (exit code {code}){retired}.{' ' if last else ''}{last}"
                )
    finally:
        for _, worker in running.values():
            worker.terminate()
        for _, worker in running.values():
            try:
                worker.wait(60.0)
            except subprocess.TimeoutExpired:
                getattr(worker, "kill", worker.terminate)()


def _last_line(worker: Worker) -> str:
    """What a process said last."""
    log = getattr(worker, "log", None)
    if log is None or not log.is_file():
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("crystalsmith: ") if lines else ""


def generate_on(
    devices: Sequence[str], out: Path, options: Options, command: Sequence[str], reporter: Reporter
) -> Summary:
    """A run on several devices, whose shards are merged at its end; where it was stopped, it goes on.

    Args:
        devices: see :func:`parse_devices`.
        out: the folder of the run.
        options: what is asked for, as in ``command``.
        command: the words of the command line after ``crystalsmith``, without shard and devices.
        reporter: hears about the progress.

    Raises:
        InputError: see :func:`work`.
    """
    began = time.perf_counter()
    if is_occupied(out) and not (out / FOLDER).is_dir():
        raise InputError(f"The folder {out} is not empty; choose another one.")
    num = number_of(options.steering, options.num, DEFAULT_NUM)
    shards = choose_shards(out, num, options.batch_size or BATCH_SIZE, len(devices))
    processors = os.cpu_count() or 1
    launch = partial(Process, command, out, max(1, processors // max(1, list(devices).count("cpu"))))
    before = finished_crystals(out, shards)
    reporter.start(num, before)
    signum = None
    with StopSignals():
        try:
            work(shards, devices, launch, reporter, lambda: reporter.step(finished_crystals(out, shards), 0, 0, 1))
        except Stopped as stopped:
            signum = stopped.signum
        finally:
            reporter.close()
    seconds = round(time.perf_counter() - began, 3)
    if signum is not None:
        done = finished_crystals(out, shards)
        return Summary(str(out), "", "stopped", num, done, done, 0, 0, seconds, 0.0, 128 + signum)
    manifest = merge(out)
    counts, made = manifest["counts"], max(1, num - before)
    name = str(manifest["model"]["name"])
    return Summary(str(out), name, "complete", num, **counts, seconds=seconds, seconds_per_crystal=seconds / made)


class Process:
    """``crystalsmith generate --shard k/n --device d`` in a process of its own; its words go to a file.

    Args:
        command: the command line without shard and device.
        out: the folder of the run.
        threads: of a process on the CPU.
    """

    def __init__(self, command: Sequence[str], out: Path, threads: int, shard: Shard, device: str) -> None:
        self.log = out / FOLDER / f"{shard.k}-of-{shard.n}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if device == "cpu":
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        words = [sys.executable, "-m", "crystalsmith", *command, "--shard", str(shard), "--device", device]
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def poll(self) -> int | None:
        """See :class:`Worker`."""
        return self._process.poll()

    def terminate(self) -> None:
        """See :class:`Worker`."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once; what it has written stays valid."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """See :class:`Worker`."""
        return self._process.wait(timeout)


def finished_crystals(out: Path, shards: Sequence[Shard]) -> int:
    """How many crystals the shards of a run hold so far."""
    total = 0
    for shard in shards:
        try:
            manifest = json.loads((shard.folder(out) / "manifest.json").read_text(encoding="utf-8"))
            total += int(manifest["counts"].get("finished", 0))
        except (OSError, ValueError, KeyError):  # not begun, or just being replaced
            continue
    return total
