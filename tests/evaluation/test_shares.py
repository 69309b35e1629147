"""Laws of shared relaxations: judged together they are the evaluation that was not shared; else they are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, FCC, metals, results
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.request import Request
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.formats import extxyz_frame
from crystalsmith.shards import Shard

EMT = "ase.calculators.emt:EMT"


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    """All work in this process: to start another takes seconds."""
    from crystalsmith.engine.run import Engine, run
    from crystalsmith.evaluation.potential import elastic, relaxation

    def in_this(begin, tasks, engine, arguments, time_limit):
        return run(begin, tasks, Engine(1), arguments=arguments)

    for module in (relaxation, elastic):
        monkeypatch.setattr(module, "run", in_this)


def write(path: Path, count: int, seed: int, target: bool) -> Path:
    """Rattled metals, of which every fourth is rock salt, which the potential does not know."""
    rng, pool = np.random.default_rng(seed), [*metals().values(), (CORNERS, 5.64 * FCC, np.array([11, 17]))]
    frames = []
    for k in range(count):
        frac, cell, numbers = pool[k % 5]
        moved = frac + 0.03 * rng.standard_normal(frac.shape) @ np.linalg.inv(cell)
        frames.append(extxyz_frame(moved, cell, numbers, {"id": f"c{k}"} | ({"target_density": 9.0} if target else {})))
    path.write_text("".join(frames))
    return path


@pytest.fixture
def crystals(tmp_path) -> Path:
    return write(tmp_path / "crystals.extxyz", 11, 0, False)


@pytest.fixture
def options(metal_reference) -> Options:
    return Options(reference=metal_reference, relaxation=Relaxation(EMT, "pbe"), request=Request(bulk_modulus=True))


def share(options: Options, k: int, n: int) -> Options:
    return dataclasses.replace(options, shard=Shard(k, n))


@pytest.mark.parametrize("n", [1, 3])
def test_shares_together_are_the_evaluation_that_was_not_shared(crystals, options, tmp_path, n: int) -> None:
    evaluate(crystals, tmp_path / "whole", options)
    out = tmp_path / "out"
    for k in reversed(range(n)):
        said = evaluate(crystals, out, share(options, k, n))["shard"]
        assert (said["name"], said["of"]) == (f"{k}/{n}", 11)
    evaluate(crystals, out, options)
    assert results(out) == results(tmp_path / "whole")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in out.iterdir()} == names  # nothing of the shares is left
    with pytest.raises(InputError, match="whole evaluation already"):
        evaluate(crystals, out, share(options, 0, n))


def test_the_judging_relaxes_nothing_again(crystals, options, tmp_path, monkeypatch) -> None:
    from crystalsmith.evaluation.potential import elastic, relaxation

    out = tmp_path / "out"
    for k in range(2):
        evaluate(crystals, out, share(options, k, 2))
    given = []
    for module in (relaxation, elastic):
        monkeypatch.setattr(module, "run", lambda _, tasks, *args, **more: given.extend(tasks) or iter(()))
    evaluate(crystals, out, options)
    assert given == []


def test_a_control_is_shared_as_well(options, tmp_path, monkeypatch) -> None:
    ours = write(tmp_path / "ours.extxyz", 5, 1, False)
    control = write(tmp_path / "control.extxyz", 4, 2, False)
    monkeypatch.setattr(Request, "check", lambda *_: None)  # crystals of a plain file carry no targets
    options = dataclasses.replace(options, request=Request(control=control))
    evaluate(ours, tmp_path / "whole", options)
    for k in range(3):
        evaluate(ours, tmp_path / "out", share(options, k, 3))
    evaluate(ours, tmp_path / "out", options)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    lines = [(tmp_path / name / "control" / "relaxed.jsonl").read_text().splitlines() for name in ("whole", "out")]
    assert [len(each) for each in lines] == [5, 5]
    assert [json.loads(line)["id"] for line in lines[1][1:]] == ["c0", "c1", "c2", "c3"]


def test_a_stopped_share_goes_on_and_a_finished_one_is_skipped(crystals, options, tmp_path, monkeypatch) -> None:
    from crystalsmith.evaluation.potential import relaxation

    out, place, real = tmp_path / "out", tmp_path / "out" / "shards" / "0-of-2", relaxation.append_line

    def killed(path, record):
        if (place / "relaxed.jsonl").exists() and len((place / "relaxed.jsonl").read_text().splitlines()) == 3:
            raise KeyboardInterrupt
        real(path, record)

    monkeypatch.setattr(relaxation, "append_line", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(crystals, out, share(options, 0, 2))
    monkeypatch.setattr(relaxation, "append_line", real)
    kept = (place / "relaxed.jsonl").read_text()
    assert len(kept.splitlines()) == 3
    with pytest.raises(InputError, match=r"2 of the 2 shards are not finished \(0, 1\)"):
        evaluate(crystals, out, options)
    evaluate(crystals, out, share(options, 0, 2))
    finished = (place / "relaxed.jsonl").read_text()
    assert finished.startswith(kept)
    assert len(finished.splitlines()) == 1 + len(Shard(0, 2).span(11, 1))
    evaluate(crystals, out, share(options, 0, 2))
    assert (place / "relaxed.jsonl").read_text() == finished


def test_what_is_missing_or_of_something_else_is_named(crystals, options, tmp_path) -> None:
    out = tmp_path / "out"
    evaluate(crystals, out, share(options, 0, 2))
    with pytest.raises(InputError, match=r"1 of the 2 shards .* \(1\).*: crystalsmith evaluate .* --shard 1/2"):
        evaluate(crystals, out, options)
    evaluate(crystals, out, share(options, 1, 2))
    with pytest.raises(InputError, match="--potential that made them"):
        evaluate(crystals, out, dataclasses.replace(options, relaxation=None, request=Request()))
    slower = dataclasses.replace(options, relaxation=Relaxation(EMT, "pbe", steps=7))
    for wrong in (slower, share(slower, 0, 2)):
        with pytest.raises(InputError, match=r"Shard 0/2 .* another way of relaxing"):
            evaluate(crystals, out, wrong)
    with pytest.raises(InputError, match="another input"):
        evaluate(write(tmp_path / "others.extxyz", 11, 3, False), out, options)
    shutil.rmtree(out / "shards" / "1-of-2")
    evaluate(crystals, out, share(options, 2, 3))
    with pytest.raises(InputError, match="shards of 2 and 3"):
        evaluate(crystals, out, options)
    with pytest.raises(InputError, match="add --potential"):
        evaluate(crystals, tmp_path / "new", Options(shard=Shard(0, 2)))


def test_a_damaged_record_is_one_sentence(crystals, options, tmp_path) -> None:
    out = tmp_path / "out"
    evaluate(crystals, out, share(options, 0, 1))
    file = out / "shards" / "0-of-1" / "share.json"
    record = json.loads(file.read_text())
    for key in record:
        for value in (None, 3, [], "gone"):
            damaged = {k: v for k, v in record.items() if k != key} | ({} if value == "gone" else {key: value})
            if key == "command" and value == "gone":
                damaged["command"] = 5
            file.write_text(json.dumps(damaged))
            with pytest.raises(InputError, match=r"share\.json"):
                evaluate(crystals, out, options)
    file.write_text(json.dumps(record)[:30])
    with pytest.raises(InputError, match=r"share\.json"):
        evaluate(crystals, out, options)


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_killed_judging_can_be_done_again(crystals, options, tmp_path, monkeypatch, moment: int) -> None:
    import os

    evaluate(crystals, tmp_path / "whole", options)
    out, real, count = tmp_path / "out", os.replace, 0
    for k in range(2):
        evaluate(crystals, out, share(options, k, 2))

    def fragile(source, target):
        nonlocal count
        count += 1
        if count == moment:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", fragile)
    with pytest.raises(KeyboardInterrupt):
        evaluate(crystals, out, options)
    monkeypatch.setattr(os, "replace", real)
    assert (out / "shards").is_dir()
    evaluate(crystals, out, options)
    assert results(out) == results(tmp_path / "whole")


def test_the_command_line_and_a_slurm_array(crystals, tmp_path, monkeypatch) -> None:
    asked = ["evaluate", str(crystals), "--out", str(tmp_path / "out"), "--potential", EMT, "--jobs", "1"]
    for name, value in {"ID": 1, "MIN": 0, "MAX": 1, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "This task of the SLURM array relaxes shard 1/2" in result.output
    assert "Shard 1/2 is finished: 6 of 11 crystals" in result.output
    result = CliRunner().invoke(app, [*asked, "--shard", "none"])
    assert result.exit_code == 2
    assert "--shard 0/2" in result.output
    assert CliRunner().invoke(app, [*asked, "--shard", "0/2"]).exit_code == 0
    result = CliRunner().invoke(app, [*asked, "--shard", "none"])
    assert result.exit_code == 0, result.output
    assert "11 crystals" in result.output
