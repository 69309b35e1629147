"""Laws of batches made elsewhere: the run is that of one process to the byte, whatever fails on the way."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from crystalsmith.checkpoints.find import load_model
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.generation import sampler, workers
from crystalsmith.generation.device import parse_devices
from crystalsmith.generation.making import make_request
from crystalsmith.generation.run import Options, generate
from crystalsmith.shards import Shard


@pytest.fixture(scope="module")
def options(untrained) -> Options:
    return Options(
        model=str(untrained),
        num=11,
        seed=5,
        steps=2,
        solver="ancestral",
        batch_size=3,
        precision="float32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def one(options, tmp_path_factory) -> dict[str, bytes]:
    """The files of the run of this process."""
    out = tmp_path_factory.mktemp("one") / "out"
    generate(out, options)
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def on(options: Options, *devices: str) -> Options:
    return dataclasses.replace(options, engine=Engine(devices=devices))


class Fragile(workers.Worker):
    """On a device called ``cpu:0`` every batch fails, as after an error of a card."""

    def __init__(self, work, device) -> None:
        super().__init__(work, "cpu")
        if device == "cpu:0":
            self.maker = None


class DiesOnce(workers.Worker):
    """The first worker to get crystal 3 is killed."""

    def __call__(self, plans):
        mark = Path(os.environ["MARK"])
        if plans[0].index == 3 and not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(plans)


def test_two_processes_make_the_run_of_one(options, one, tmp_path) -> None:
    summary = generate(tmp_path / "out", on(options, "cpu", "cpu"))
    assert files(tmp_path / "out") == one
    assert (summary.finished, summary.status) == (11, "complete")


def test_films_and_shards_too(options, tmp_path) -> None:
    filmed = dataclasses.replace(options, num=4, trajectories=True, shard=Shard(0, 2))
    generate(tmp_path / "one", filmed)
    generate(tmp_path / "two", on(filmed, "cpu", "cpu"))
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert any("trajectories" in name for name in files(tmp_path / "two"))


def test_a_device_that_fails_twice_is_retired_and_the_other_finishes(
    options, one, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(workers, "Worker", Fragile)
    generate(tmp_path / "out", on(options, "cpu:0", "cpu"))
    assert files(tmp_path / "out") == one
    told = capsys.readouterr().err
    assert told.count("A worker on cpu:0 was lost") == 2
    assert told.count("A worker on cpu:0 was lost; it is given nothing more: AttributeError") == 1


def test_without_a_device_the_run_ends_in_a_sentence_and_can_go_on(options, one, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(workers, "Worker", Fragile)
        with pytest.raises(InputError, match=r"No device is left of cpu:0 \(AttributeError"):
            generate(tmp_path / "out", on(options, "cpu:0"))
    generate(tmp_path / "out", on(options, "cpu", "cpu"), resume=True)
    assert files(tmp_path / "out") == one


def test_a_worker_that_is_killed_loses_nothing(options, one, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(workers, "Worker", DiesOnce)
    generate(tmp_path / "out", on(options, "cpu", "cpu"))
    assert (tmp_path / "mark").exists()
    assert files(tmp_path / "out") == one
    assert capsys.readouterr().err.count("was lost") == 1


def test_out_of_memory_halves_the_batch_of_that_worker(options, untrained, tmp_path, monkeypatch) -> None:
    real = sampler.sample_batch

    def short(model, sampling, plans, *args, **kwargs):
        if len(plans) > 2:
            raise MemoryError
        return real(model, sampling, plans, *args, **kwargs)

    monkeypatch.setattr(sampler, "sample_batch", short)
    request = make_request(load_model(untrained), num=8, seed=5, solver="ancestral", steps=2, precision="float32")
    worker = workers.Worker(workers.Work(workers.files_of(untrained), request, range(8), 4, False, False, True), "cpu")
    first = worker(request.plans(range(4)))
    assert (first.stop, first.batch_size, len(first.crystals)) == (4, 2, 4)
    assert first.messages == ("cpu: Out of memory: going on with 2 crystals at a time.",)
    again = worker(request.plans(range(4, 8)))
    assert [item.row["index"] for item in again.crystals] == [4, 5, 6, 7]
    assert again.messages == ()


def test_an_error_that_no_other_worker_would_mend_comes_back_as_its_sentence() -> None:
    work = object.__new__(workers.Worker)
    work.maker = type("Maker", (), {"make": lambda self, plans: refuse()})()
    assert work([]) == "Memory does not suffice."


def refuse():
    raise InputError("Memory does not suffice.")


def test_names_of_devices() -> None:
    assert parse_devices("cuda:0,cuda:1") == ("cuda:0", "cuda:1")
    assert parse_devices("cpu*2") == ("cpu", "cpu")
    assert parse_devices("cuda:1*2, cpu") == ("cuda:1", "cuda:1", "cpu")
    for wrong in ("", "gpu", "cpu*", "cpu*0", "cuda:", "cuda:0;cuda:1", "mps"):
        with pytest.raises(InputError, match="--devices"):
            parse_devices(wrong)
    with pytest.raises(InputError, match="Devices are those of this machine"):
        Engine(kind="ray", devices=("cpu",))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")
@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("terminate", 143), ("c", 130)])
def test_workers_end_with_the_run_and_it_goes_on(untrained, tmp_path, how: str, code: int) -> None:
    """Killed, terminated, or interrupted with its whole group."""
    asked = ["--num", "400", "--model", str(untrained), "--steps", "20", "--batch-size", "2", "--precision", "float32"]
    words = [sys.executable, "-m", "crystalsmith", "generate", str(tmp_path / "out"), *asked, "--devices", "cpu*2"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    table = tmp_path / "out" / "crystals.csv"
    patience = time.monotonic() + 120
    while not (table.exists() and table.read_text().count("\n") > 4) and time.monotonic() < patience:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT) if how == "c" else getattr(process, how)()
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    rows = table.read_text().count("\n") - 1
    assert 4 <= rows < 400
    assert rows % 2 == 0
