"""On a Ray cluster of two nodes the results are those of this machine, and a worker that is lost costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest

from crystalsmith.engine.run import Engine, in_order, run
from crystalsmith.errors import InputError

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'crystalsmith[ray]')")
pytestmark = pytest.mark.slow


def cube(task):
    return task**3


def die_once(mark, task):
    if task == 3 and not mark.exists():
        mark.write_text("")
        os._exit(9)
    return task


def kill_itself(task):
    os._exit(9)


def misbehave():
    def job(task):
        if task == "die":
            os._exit(9)
        if task == "raise":
            raise KeyError("no such thing")
        return task * 2

    return job


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_results_are_those_of_this_machine(address, tmp_path) -> None:
    engine = Engine(0, "ray", address)
    assert list(in_order(cube, range(20), engine)) == list(in_order(cube, range(20), Engine(1)))
    mark = tmp_path / "mark"
    assert list(in_order(partial(die_once, mark), range(8), engine)) == list(range(8))
    assert mark.exists()
    ends = {end.number: end for end in run(misbehave, ["a", "raise", "b"], engine)}
    assert [(ends[k].status, ends[k].value) for k in range(3)] == [("", "aa"), ("crashed", None), ("", "bb")]


def test_a_task_that_loses_every_worker_is_named_and_the_others_are_done(address) -> None:
    """A task that kills its process (as for want of memory) may not keep the run from its end."""
    ends = {end.number: end for end in run(misbehave, ["a", "die", "b", "c"], Engine(0, "ray", address))}
    assert [(ends[k].status, ends[k].value) for k in range(4)] == [
        ("", "aa"),
        ("crashed", None),
        ("", "bb"),
        ("", "cc"),
    ]
    assert "worker or its node was lost" in ends[1].detail
    assert not ends[1].raised
    with pytest.raises(InputError, match="lost twice with the same work"):
        list(in_order(kill_itself, range(3), Engine(0, "ray", address)))
