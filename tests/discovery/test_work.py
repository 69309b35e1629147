"""Workers that stay between stages, and whole processes that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest

from crystalsmith.discovery.crew import Crew
from crystalsmith.discovery.ledger import LEDGER, Folder
from crystalsmith.discovery.run import discover
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.engine import cluster
from crystalsmith.engine.processes import Processes
from crystalsmith.engine.run import Engine
from crystalsmith.engine.schedule import LOST, READY, schedule


def begin():
    """A job that tells its process, and hangs or dies if it is told to."""

    def job(task: str) -> int:
        if task == "die":
            os._exit(1)
        if task == "hang":
            time.sleep(60)
        return os.getpid()

    return job


def test_idle_workers_stay_and_broken_ones_are_replaced() -> None:
    crew = Crew(Processes(begin, (), 1))
    try:

        def stage(tasks: list[str], limit: float | None = None) -> list:
            return list(schedule(crew, tasks, ordered=True, time_limit=limit, tries=1))

        first = {end.value for end in stage(["", ""])}
        assert {end.value for end in stage(["", ""])} == first
        assert [end.status for end in stage(["die", ""])] == ["crashed", ""]
        second = stage([""])[0].value
        assert {second} != first
        assert stage(["hang"], 1.0)[0].status == "timed_out"
        third = stage([""])[0].value
        assert third != second
    finally:
        crew.close()
    with pytest.raises(ProcessLookupError):
        os.kill(third, 0)


def outcomes(folder: Path) -> dict[int, tuple]:
    """What became of each candidate, without times and without the order in which workers finished."""
    state = Folder.open(folder).state()
    return {n: (c.stage, c.dropped, c.values, [s for s, _, _ in c.history]) for n, c in state.candidates.items()}


def test_more_workers_find_the_same_and_no_more_than_is_wanted(tmp_path: Path, wish: Wish) -> None:
    discover(tmp_path / "one", wish, Limits(relaxations=6))
    discover(tmp_path / "two", wish, Limits(relaxations=6), engine=Engine(2))
    assert outcomes(tmp_path / "two") == outcomes(tmp_path / "one")
    summary = discover(tmp_path / "wanted", wish, Limits(want=1, relaxations=12), engine=Engine(2))
    assert summary.accepted == 1


class Nodes(Processes):
    """Stands for the actors of a cluster: processes of this machine, which are asked again as actors are."""

    made: ClassVar[list[tuple]] = []

    def __init__(self, begin, arguments, workers, address, gpus) -> None:
        self.made.append((workers, address))
        self.asked: list = []
        super().__init__(begin, arguments, workers or 2)

    def again(self, worker) -> list:
        self.asked.append(worker)
        return []

    def wait(self, workers, seconds):
        asked, self.asked = self.asked, []
        heard = [(w, READY if w.process.is_alive() else LOST, None) for w in asked if w in workers]
        return heard or super().wait(workers, seconds)


def test_a_cluster_finds_what_this_machine_does(tmp_path: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's interface, with processes in place of Ray's actors; a worker that is lost costs no candidate."""
    monkeypatch.setattr(cluster, "Actors", Nodes)
    monkeypatch.setenv("DEATHS", str(tmp_path / "mark"))
    limits, where = Limits(relaxations=6), Engine(0, "ray", "ray://head:10001")
    discover(tmp_path / "one", wish, limits)
    discover(tmp_path / "many", replace(wish, potential="mortal_potential:make"), limits, engine=where)
    assert (tmp_path / "mark").exists()
    assert Nodes.made[-1] == (0, "ray://head:10001")
    assert outcomes(tmp_path / "many") == outcomes(tmp_path / "one")
    assert Folder.open(tmp_path / "many").manifest["sessions"][0]["engine"] == "ray"
    # A run goes on wherever there is room.
    discover(tmp_path / "many", None, Limits(relaxations=8))
    discover(tmp_path / "one", None, Limits(relaxations=8), engine=Engine(1, "ray"))
    assert outcomes(tmp_path / "many") == outcomes(tmp_path / "one")


def test_workers_that_left_while_they_waited_take_no_task_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(Nodes(begin, (), 2, None, 0.0))
    try:

        def stage(tasks: list[str]) -> list:
            return list(schedule(crew, tasks, ordered=True, time_limit=None, tries=1))

        for end in stage(["", "", "", ""]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(end.value, signal.SIGKILL)
        time.sleep(0.5)
        assert [end.status for end in stage(["", "", ""])] == ["", "", ""]
    finally:
        crew.close()


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, wish: Wish) -> None:
    limits = Limits(relaxations=6)
    discover(tmp_path / "whole", wish, limits)
    script = tmp_path / "go.py"
    values = json.dumps({"wish": wish.to_dict(), "limits": asdict(limits)})
    script.write_text(
        "import json, sys\nfrom pathlib import Path\n"
        "from crystalsmith.discovery.run import discover\nfrom crystalsmith.discovery.wish import Limits, Wish\n"
        f"given = json.loads({values!r})\nout = Path(sys.argv[1])\n"
        "there = (out / 'manifest.json').is_file()\n"
        "wish = None if there else Wish.from_dict(given['wish'])\n"
        "discover(out, wish, Limits() if there else Limits.from_dict(given['limits']))\n"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    out, killed, code = tmp_path / "killed", 0, 1
    for grown in (1, 12, 25, 33, 10**6):  # lines of the ledger at which it is killed
        process = subprocess.Popen([sys.executable, str(script), str(out)], env=environment)
        while process.poll() is None:
            ledger = out / LEDGER
            if ledger.is_file() and ledger.read_bytes().count(b"\n") >= grown:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        code = process.wait()
        killed += code == -signal.SIGKILL
    assert code == 0
    assert killed >= 3
    assert outcomes(out) == outcomes(tmp_path / "whole")
