"""On a Ray cluster each command gives the files of this machine, though a worker and a whole node are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.evaluation.conftest import metals, results

from crystalsmith.formats import extxyz_frame

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'crystalsmith[ray]')")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores and two nodes of one each, so that all work is done on nodes that may be lost."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "crystalsmith", *map(str, words)], check=True, capture_output=True)


def run_and_kill(
    cluster: Any, progress: Callable[[], int], enough: tuple[int, int], total: int, *words: object
) -> None:
    """Run a command on the cluster; kill a worker at the first progress, and a node at the second."""
    on_ray = ("--engine", "ray", "--ray-address", cluster.address)
    process = subprocess.Popen(
        [sys.executable, "-m", "crystalsmith", *map(str, words), *on_ray],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: progress() >= enough[0], process)
    os.kill(actors()[0].pid, signal.SIGKILL)
    wait_for(lambda: progress() >= enough[1], process)
    before = progress()
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert before < total, "the run was over before its node was killed"
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 240
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < patience
        time.sleep(0.05)


def actors() -> list[psutil.Process]:
    """The processes in which Ray holds our workers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_Actor"):
            found.append(process)
    return found


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rattled(path: Path, count: int) -> Path:
    """Metals whose atoms are moved by some 0.1 angstrom."""
    rng, pool = np.random.default_rng(0), list(metals().values())
    frames = []
    for k in range(count):
        frac, cell, numbers = pool[k % 4]
        moved = frac + 0.1 * rng.standard_normal(frac.shape) @ np.linalg.inv(cell)
        frames.append(extxyz_frame(moved, cell, numbers, {"id": f"c{k}"}))
    path.write_text("".join(frames))
    return path


def test_generate(cluster: Any, untrained: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    asked = ("--num", 60, "--model", untrained, "--steps", 60, "--batch-size", 2)
    asked += ("--precision", "float32", "--device", "cpu")
    run("generate", one, *asked)
    run_and_kill(cluster, lambda: lines(many / "crystals.csv") - 1, (2, 10), 60, "generate", many, *asked)
    assert files(many) == files(one)


def test_evaluate(cluster: Any, tmp_path: Path) -> None:
    crystals = rattled(tmp_path / "crystals.extxyz", 60)
    one, many = tmp_path / "one", tmp_path / "many"
    asked = ("--potential", "tests.evaluation.slow:Slow", "--energy-scale", "pbe")
    run("evaluate", crystals, "--out", one, *asked, "--jobs", 1)
    run_and_kill(
        cluster, lambda: lines(many / "relaxed.jsonl"), (4, 16), 60, "evaluate", crystals, "--out", many, *asked
    )
    assert results(many) == results(one)


def test_prepare(cluster: Any, tmp_path: Path) -> None:
    crystals = rattled(tmp_path / "crystals.extxyz", 30_000)
    one, many = tmp_path / "one", tmp_path / "many"
    run("data", "prepare", crystals, one)
    # Nothing is written before all is read: the first worker dies as it is there, the node when both are.
    run_and_kill(cluster, lambda: len(actors()), (1, 2), 10**9, "data", "prepare", crystals, many)
    assert files(many) == files(one)
