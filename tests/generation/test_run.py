"""Laws of a run: what is on disk is always valid, and a resumed run ends as if it had never stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from crystalsmith.elements import ALLOWED, SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.formats import complete_frames
from crystalsmith.generation import folder as folder_module
from crystalsmith.generation import run
from crystalsmith.generation.describe import COLUMNS
from crystalsmith.generation.run import Options, generate
from crystalsmith.signals import Stopped, StopSignals

NUM, BATCH = 14, 4


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program may catch it."""


@pytest.fixture(scope="module")
def options(untrained) -> Options:
    return Options(model=str(untrained), num=NUM, seed=3, batch_size=BATCH, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert generate(out, options).status == "complete"
    return out


def results(out: Path) -> dict[str, bytes]:
    """Every file but the manifest, which holds times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "crystals.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def assert_valid(out: Path) -> None:
    """Whatever the moment: whole rows, whole frames, whole CIF files, a manifest that is JSON."""
    table = rows(out)
    assert [row["index"] for row in table] == [str(k) for k in range(len(table))]
    assert all(None not in row.values() for row in table)
    text = (out / "crystals.extxyz").read_text()
    assert [end for _, end in complete_frames(text)][-1:] == ([len(text)] if text else [])
    assert all(path.read_text().startswith("data_") for path in (out / "cif").glob("*.cif"))
    if (out / "manifest.json").exists():
        assert manifest(out)["status"] in ("running", "stopped", "complete")


def test_the_files_agree_with_each_other(whole):
    from ase.io import read
    from pymatgen.core import Composition, Structure

    table, frames = rows(whole), read(whole / "crystals.extxyz", ":", format="extxyz")
    assert len(table) == len(frames) == NUM
    assert tuple(table[0]) == COLUMNS
    for row, atoms in zip(table, frames, strict=True):
        assert atoms.info["id"] == row["id"]
        assert len(atoms) == int(row["num_atoms"])
        assert Composition(atoms.get_chemical_formula()).reduced_formula == row["formula"]
        assert atoms.get_volume() / len(atoms) == pytest.approx(float(row["volume_per_atom"]), rel=1e-4)
        assert {SYMBOLS[z - 1] for z in ALLOWED} >= set(atoms.get_chemical_symbols())
        if row["valid"] == "True":
            structure = Structure.from_file(whole / row["file"])
            assert structure.composition.reduced_formula == row["formula"]
            assert structure.density == pytest.approx(float(row["density"]), rel=2e-2)
            assert float(row["shortest_distance"]) >= 0.5
    counts = manifest(whole)["counts"]
    valid = sum(row["valid"] == "True" for row in table)
    assert counts == {"finished": NUM, "written": NUM, "valid": valid, "failed": 0}


def test_the_manifest_says_what_ran(whole, untrained):
    record = manifest(whole)
    assert record["status"] == "complete"
    assert record["model"]["name"] == "untrained"
    assert len(record["model"]["weights_sha256"]) == 64
    assert record["settings"]["seed"] == 3
    assert record["batches"] == [[k, min(k + BATCH, NUM), seconds] for k, _, seconds in record["batches"]]
    assert {"python", "torch", "crystalsmith", "moyopy"} <= set(record["versions"])
    assert record["sessions"][0]["crystals"] == NUM


WRITES = 3 + NUM + 3 * len(range(0, NUM, BATCH)) + 2


@pytest.mark.parametrize("writes", range(0, WRITES, 3))  # the pattern has period 7
def test_killed_at_any_write_the_files_are_valid_and_resume_completes_them(
    options, whole, tmp_path, monkeypatch, writes
):
    """The power goes before the n-th rename, a half-written temporary file left behind."""
    out, real, count = tmp_path / "out", os.replace, 0

    def fragile(source, target):
        nonlocal count
        count += 1
        if count > writes:
            text = Path(source).read_bytes()
            Path(source).with_name(".left.0123456789ab.writing").write_bytes(text[: len(text) // 2])
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", fragile)
    with pytest.raises(Killed):
        generate(out, options)
    monkeypatch.setattr(os, "replace", real)
    if writes > 2:
        assert_valid(out)
    done = manifest(out)["counts"].get("finished", 0) if writes else 0
    assert done % BATCH == 0 or done == NUM
    summary = generate(out, Options() if writes else options, resume=True)
    assert (summary.status, summary.finished) == ("complete", NUM)
    assert results(out) == results(whole)
    assert manifest(out)["sessions"][-1]["crystals"] == NUM - done


@pytest.mark.parametrize("name", ["crystals.csv", "crystals.extxyz"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.71, 0.99])
def test_a_truncated_file_is_repaired(options, whole, tmp_path, name, keep):
    out = tmp_path / "out"
    generate(out, options)
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[: int(keep * len(data))])
    generate(out, Options(), resume=True)
    assert results(out) == results(whole)


@pytest.mark.parametrize("name", ["crystals.csv", "crystals.extxyz", "cif", "trajectories"])
def test_missing_files_are_made_again(options, tmp_path, name):
    import dataclasses
    import shutil

    out = tmp_path / "out"
    generate(out, dataclasses.replace(options, trajectories=True))
    expected = results(out)
    victim = out / name
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink()
    generate(out, Options(), resume=True)
    assert results(out) == expected


def test_resuming_a_complete_run_changes_nothing(whole):
    before = results(whole)
    summary = generate(whole, Options(), resume=True)
    assert summary.status == "complete"
    assert summary.seconds_per_crystal == 0
    assert results(whole) == before


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"num": NUM + 1}, "--num"),
        ({"seed": 4}, "--seed"),
        ({"steps": 6}, "--steps"),
        ({"solver": "ancestral"}, "--solver"),
        ({"solver": "predictor_corrector,remask=1"}, "--solver"),
        ({"temperature": 0.5}, "--temperature"),
        ({"precision": "bf16"}, "--precision"),
        ({"batch_size": 5}, "--batch-size"),
        ({"num_atoms": "2-4"}, "--num-atoms"),
        ({"trajectories": True}, "--trajectories"),
    ],
)
def test_resuming_with_another_setting_names_it(whole, changed, flag):
    before = results(whole)
    with pytest.raises(InputError) as error:
        generate(whole, Options(**changed), resume=True)
    assert f"{flag} " in str(error.value)
    assert results(whole) == before


def test_resuming_with_other_weights_is_refused(options, untrained, tmp_path):
    import shutil

    from crystalsmith.checkpoints.find import load_model
    from crystalsmith.checkpoints.store import save_model

    shutil.copytree(untrained, tmp_path / "model")
    model = load_model(tmp_path / "model")
    generate(tmp_path / "out", Options(model=str(tmp_path / "model"), num=2, device="cpu"))
    next(model.network.parameters()).data.add_(1.0)
    save_model(model, tmp_path / "model")
    with pytest.raises(InputError, match="other weights"):
        generate(tmp_path / "out", Options(), resume=True)


def test_a_folder_that_holds_something_is_left_alone(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(InputError):
            generate(tmp_path / "out", options, resume=resume)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        generate(tmp_path / "file", options)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "crystalsmith-generation-1"}'])
def test_a_damaged_manifest_is_said(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        generate(tmp_path, Options(), resume=True)


def test_resume_begins_a_run_that_has_not_begun(options, whole, tmp_path):
    generate(tmp_path / "new", options, resume=True)
    assert results(tmp_path / "new") == results(whole)


def test_a_failed_crystal_is_recorded_and_not_written(options, tmp_path, monkeypatch):
    real = run.finished_batches

    def damaged(*args, **kwargs):
        for made in real(*args, **kwargs):
            made.batch.cell[1] = float("nan")
            yield made

    monkeypatch.setattr(run, "finished_batches", damaged)
    out = tmp_path / "out"
    summary = generate(out, options)
    batches = len(range(0, NUM, BATCH))
    assert (summary.failed, summary.written) == (batches, NUM - batches)
    table = rows(out)
    assert [row["index"] for row in table if not row["file"]] == [str(k) for k in range(1, NUM, BATCH)]
    assert [entry["id"] for entry in manifest(out)["failed"]] == [row["id"] for row in table if not row["file"]]
    assert "nan" not in (out / "crystals.extxyz").read_text().lower()
    assert len(list((out / "cif").iterdir())) == NUM - batches
    monkeypatch.setattr(run, "finished_batches", real)
    assert generate(out, Options(), resume=True).failed == batches


@pytest.fixture
def heard():
    """Signals are heard, also where the tests run in the background with some ignored."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, signal.default_int_handler) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_cleanly(options, whole, tmp_path, monkeypatch, signum):
    real = run.finished_batches

    def interrupted(*args, **kwargs):
        for number, made in enumerate(real(*args, **kwargs)):
            if number == 2:
                os.kill(os.getpid(), signum)
                time.sleep(1)
            yield made

    monkeypatch.setattr(run, "finished_batches", interrupted)
    out, before = tmp_path / "out", signal.getsignal(signum)
    summary = generate(out, options)
    assert (summary.status, summary.finished, summary.exit_code) == ("stopped", 2 * BATCH, 128 + signum)
    assert manifest(out)["status"] == "stopped"
    assert signal.getsignal(signum) is before
    assert_valid(out)
    monkeypatch.setattr(run, "finished_batches", real)
    generate(out, Options(), resume=True)
    assert results(out) == results(whole)


def test_a_batch_is_written_while_the_next_is_made(options, whole, tmp_path, monkeypatch):
    next_begun, waits = threading.Event(), []
    batches, commit = run.finished_batches, folder_module.OutputFolder.commit

    def told(*args, **kwargs):
        for made in batches(*args, **kwargs):
            yield made
            next_begun.set()

    def late(self, *args):
        waits.append(next_begun.wait(20))
        commit(self, *args)

    monkeypatch.setattr(run, "finished_batches", told)
    monkeypatch.setattr(folder_module.OutputFolder, "commit", late)
    generate(tmp_path / "out", options)
    assert waits == [True] * len(range(0, NUM, BATCH))
    assert results(tmp_path / "out") == results(whole)


def test_a_signal_waits_for_the_end_of_a_write():
    steps = []

    def write_then_go_on():
        with StopSignals() as stop:
            with stop.shield():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                steps.append("written")
            steps.append("never")

    with pytest.raises(Stopped):
        write_then_go_on()
    assert steps == ["written"]


def test_trajectories_lead_from_the_prior_to_the_crystal(untrained, tmp_path):
    import numpy as np
    from ase.io import read

    out = tmp_path / "out"
    generate(out, Options(model=str(untrained), num=2, steps=130, solver="ancestral", trajectories=True, device="cpu"))
    finished = read(out / "crystals.extxyz", ":", format="extxyz")
    for row, last in zip(rows(out), finished, strict=True):
        film = read(out / "trajectories" / f"{row['id']}.extxyz", ":", format="extxyz")
        assert 50 <= len(film) <= 151
        assert film[0].arrays["masked"].all()
        assert (film[0].numbers == 0).all()
        assert not film[-1].arrays["masked"].any()
        np.testing.assert_array_equal(film[-1].numbers, last.numbers)
        np.testing.assert_allclose(film[-1].positions, last.positions)
        masked = [atoms.arrays["masked"].sum() for atoms in film]
        assert masked == sorted(masked, reverse=True)
        times = [atoms.info["time"] for atoms in film]
        assert (times[0], times[-1]) == (1.0, 0.0)
        assert times == sorted(times, reverse=True)


def test_a_run_of_an_earlier_version_keeps_its_columns(whole, tmp_path):
    import shutil

    old = tmp_path / "old"
    shutil.copytree(whole, old)
    newer = ("space_group_symbol", "a", "b", "c", "alpha", "beta", "gamma")
    kept = [name for name in COLUMNS if name not in newer]
    table = rows(old)[: NUM // 2]
    with (old / "crystals.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    assert generate(old, Options(), resume=True).status == "complete"
    assert tuple(rows(old)[0]) == tuple(kept)
    assert [row["formula"] for row in rows(old)] == [row["formula"] for row in rows(whole)]
