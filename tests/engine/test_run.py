"""A task ends in a result, a time-out or a crash, and never ends the run; workers end with what started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from crystalsmith.engine.run import Engine, in_order, plainly, run
from crystalsmith.errors import InputError


def double(task):
    return 2 * task


def misbehave():
    def job(task):
        if task == "hang":
            time.sleep(60)
        if task == "die":
            os._exit(9)
        if task == "raise":
            raise KeyError("no such thing")
        return task * 2

    return job


def slow_first(task):
    time.sleep(1.0 if task == 0 else 0.0)
    return task


def refuse():
    raise InputError("There is no such potential.")


def perish():
    os._exit(3)


def die_once(mark, task):
    if task == 1 and not mark.exists():
        mark.write_text("")
        os._exit(9)
    return task


def environment(_):
    return os.environ["OMP_NUM_THREADS"]


def choosy(task):
    if task == 3:
        raise InputError("The third is not readable.")
    return task


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_those_of_the_function(workers) -> None:
    assert list(in_order(double, range(30), Engine(workers))) == [2 * k for k in range(30)]
    found = {end.number: end.value for end in run(plainly(double), range(30), Engine(workers))}
    assert found == {k: 2 * k for k in range(30)}


def test_tasks_that_hang_die_or_raise_cost_only_themselves() -> None:
    tasks = ["a", "die", "hang", "raise", "b"]
    ends = {end.number: end for end in run(misbehave, tasks, Engine(2), time_limit=3.0)}
    assert [ends[k].status for k in range(5)] == ["", "crashed", "timed_out", "crashed", ""]
    assert [ends[k].value for k in range(5)] == ["aa", None, None, None, "bb"]
    assert "KeyError" in ends[3].detail
    assert [ends[k].raised for k in range(5)] == [False, False, False, True, False]


def test_order_holds_though_a_later_task_is_done_first() -> None:
    assert [end.value for end in run(plainly(slow_first), range(6), Engine(2), ordered=True)] == list(range(6))


@pytest.mark.parametrize("ordered", [True, False])
def test_tasks_are_drawn_as_they_are_needed(ordered) -> None:
    """A million tasks take the memory of a few."""
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for k in range(10**6):
            drawn += 1
            yield k

    for taken, _ in enumerate(run(plainly(double), source(), Engine(2), ordered=ordered), start=1):
        assert drawn - taken <= 8
        if taken == 40:
            break


def test_a_task_whose_worker_is_lost_gets_a_second_try(tmp_path) -> None:
    assert list(in_order(partial(die_once, tmp_path / "mark"), range(4), Engine(2))) == [0, 1, 2, 3]


def test_what_cannot_begin_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no such potential"):
        list(run(refuse, range(3), Engine(2)))
    with pytest.raises(InputError, match="end before they begin"):
        list(run(perish, range(3), Engine(2)))
    with pytest.raises(InputError, match="third is not readable"):
        list(in_order(choosy, range(5), Engine(2)))
    with pytest.raises(InputError, match="local or ray"):
        Engine(2, "dask")


def test_workers_have_one_thread_whatever_this_process_has(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(in_order(environment, range(3), Engine(2))) == ["1"] * 3
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_run_that_is_left_ends_its_workers() -> None:
    before = set(psutil.Process().children())
    for _ in run(plainly(slow_first), range(1, 100), Engine(2)):
        assert len(set(psutil.Process().children()) - before) >= 1
        break
    time.sleep(0.5)
    assert [
        c for c in set(psutil.Process().children()) - before if "resource_tracker" not in " ".join(c.cmdline())
    ] == []


SCRIPT = """
import sys, threading, time
from crystalsmith.engine.run import Engine, plainly, run
def wait(task):
    import os
    print(os.getpid(), flush=True)
    time.sleep(60)
def work():
    try:
        list(run(plainly(wait), range(2), Engine(2)))
    except KeyboardInterrupt:
        sys.exit(130)
if __name__ == "__main__":
    thread = threading.Thread(target=work, daemon=True)
    if sys.argv[1] == "thread":
        thread.start()
        thread.join()
    else:
        work()
"""


BARE = """
print("once")
from operator import neg
from crystalsmith.engine.run import Engine, in_order
print(list(in_order(neg, range(3), Engine(2))), __file__[-9:])
"""


def test_a_script_without_a_guard_uses_processes_and_runs_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BARE)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("once\n[0, -1, -2] script.py\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")
@pytest.mark.parametrize(("place", "how"), [("main", "kill"), ("thread", "kill"), ("main", "terminate"), ("main", "c")])
def test_workers_end_with_their_parent(tmp_path: Path, place: str, how: str) -> None:
    """Killed, terminated, or interrupted with the whole group as a terminal does; nobody prints a traceback."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(script), place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    if how == "c":
        os.killpg(parent.pid, 2)
    else:
        getattr(parent, how)()
    _, said = parent.communicate(timeout=30)
    assert said == ""
    assert parent.returncode == {"kill": -9, "terminate": -15, "c": 130}[how]
    patience = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    assert [pid for pid in workers if psutil.pid_exists(pid)] == []
    assert threading.active_count() < 20
