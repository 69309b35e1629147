"""Laws of several devices: every shard is made once, whatever fails; the result is that of one device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crystalsmith.errors import InputError
from crystalsmith.generation.devices import choose_shards, parse_devices, work
from crystalsmith.generation.progress import Silent
from crystalsmith.generation.shards import Shard


class Fake:
    """A worker that ends after some looks with a given exit code."""

    def __init__(self, code: int, looks: int = 1) -> None:
        self.code, self.looks, self.stopped = code, looks, False

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 else self.code

    def terminate(self) -> None:
        self.stopped = True

    def wait(self, timeout: float | None = None) -> int:
        assert self.stopped
        return self.code


def shards(n: int) -> list[Shard]:
    return [Shard(k, n) for k in range(n)]


def made(n: int, devices: list[str], code) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """What was launched and what ended well, as (shard, device)."""
    launched, ended = [], []

    def launch(shard: Shard, device: str) -> Fake:
        worker = Fake(code(shard, device, len(launched)), looks=1 + shard.k % 3)
        launched.append((shard.k, device))
        if worker.code == 0:
            ended.append((shard.k, device))
        return worker

    work(shards(n), devices, launch, Silent(), pause=0.0)
    return launched, ended


def test_every_shard_is_made_once_and_all_devices_work() -> None:
    launched, ended = made(9, ["cuda:0", "cuda:1", "cpu"], lambda *_: 0)
    assert launched == ended
    assert sorted(k for k, _ in ended) == list(range(9))
    assert {device for _, device in ended} == {"cuda:0", "cuda:1", "cpu"}


def test_a_device_that_fails_twice_is_retired_and_the_others_finish(capsys) -> None:
    launched, ended = made(9, ["cuda:0", "cuda:1"], lambda shard, device, _: -9 if device == "cuda:0" else 0)
    assert [device for _, device in launched].count("cuda:0") == 2
    assert sorted(ended) == [(k, "cuda:1") for k in range(9)]
    told = capsys.readouterr().err
    assert "failed on cuda:0 (exit code -9)." in told
    assert "failed on cuda:0 (exit code -9); it is given nothing more" in told


def test_one_failure_costs_one_try(capsys) -> None:
    launched, ended = made(4, ["cpu"], lambda shard, device, number: 1 if number == 1 else 0)
    assert [k for k, _ in launched] == [0, 1, 2, 3, 1]
    assert sorted(k for k, _ in ended) == [0, 1, 2, 3]


def test_without_a_device_the_run_ends_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"No device is left \(cpu, cpu\), and 5 of 5 shards"):
        made(5, ["cpu", "cpu"], lambda *_: 1)


def test_what_is_refused_ends_the_run_and_stops_the_others() -> None:
    workers = []

    def launch(shard: Shard, device: str) -> Fake:
        workers.append(Fake(2, 1) if shard.k == 1 else Fake(0, 10**9))
        return workers[-1]

    with pytest.raises(InputError, match="Shard 1/3 was refused on b"):
        work(shards(3), ["a", "b"], launch, Silent(), pause=0.0)
    assert [worker.stopped for worker in workers] == [True, False]


def test_names_of_devices() -> None:
    assert parse_devices("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert parse_devices("cpu*2") == ["cpu", "cpu"]
    assert parse_devices("cuda:1*2, cpu") == ["cuda:1", "cuda:1", "cpu"]
    for wrong in ("", "gpu", "cpu*", "cpu*0", "cuda:", "cuda:0;cuda:1", "mps"):
        with pytest.raises(InputError, match="--devices"):
            parse_devices(wrong)


def test_a_run_keeps_the_shards_it_was_begun_with(tmp_path) -> None:
    assert len(choose_shards(tmp_path, 1000, 32, 2)) == 8
    assert len(choose_shards(tmp_path, 40, 32, 2)) == 2
    assert len(choose_shards(tmp_path, 1, 32, 2)) == 1
    (tmp_path / "shards" / "3-of-5").mkdir(parents=True)
    assert choose_shards(tmp_path, 1000, 32, 2) == shards(5)


def test_two_processes_make_the_run_of_one(untrained, tmp_path) -> None:
    asked = ["--num", "6", "--model", str(untrained), "--steps", "2", "--batch-size", "3", "--precision", "float32"]
    for name, more in (("one", ["--device", "cpu"]), ("two", ["--devices", "cpu*2"])):
        command = [sys.executable, "-m", "crystalsmith", "generate", str(tmp_path / name), *asked, *more]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert "6 crystals by untrained" in result.stdout


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}
