"""``generate`` on a Ray cluster: the run of this machine to the byte, though a worker and a whole node are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'crystalsmith[ray]')")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")]


@pytest.fixture
def cluster() -> Iterator:
    """A head without cores and two nodes of one each, so that all work is done on nodes that may be lost."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def command(out: Path, model: Path, *more: str) -> list[str]:
    asked = ["--num", "60", "--model", str(model), "--steps", "60", "--batch-size", "2", "--precision", "float32"]
    return [sys.executable, "-m", "crystalsmith", "generate", str(out), *asked, "--device", "cpu", *more]


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def rows(out: Path) -> int:
    return (out / "crystals.csv").read_text().count("\n") - 1 if (out / "crystals.csv").exists() else 0


def wait_for(count: int, out: Path, process: subprocess.Popen) -> None:
    patience = time.monotonic() + 240
    while rows(out) < count:
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


def test_a_worker_and_a_node_are_killed_and_nothing_is_lost(cluster, untrained, tmp_path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    subprocess.run(command(one, untrained), check=True, capture_output=True)
    on_ray = command(many, untrained, "--engine", "ray", "--ray-address", cluster.address)
    process = subprocess.Popen(on_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(2, many, process)
    os.kill(actors()[0].pid, signal.SIGKILL)
    wait_for(10, many, process)
    before = rows(many)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert before < 60, "the run was over before its node was killed"
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert files(many) == files(one)
