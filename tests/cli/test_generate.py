"""The commands generate and models: what they print, how they end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from crystalsmith.cli.main import app

PROGRAM = [sys.executable, "-m", "crystalsmith"]


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_generate_tells_what_it_did(untrained, tmp_path):
    result = invoke("generate", tmp_path / "out", "--model", untrained, "--num", 3, "--device", "cpu")
    assert result.exit_code == 0
    assert result.output.startswith("3 crystals by untrained in ")
    assert "valid" in result.output
    with (tmp_path / "out" / "crystals.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    again = invoke("generate", tmp_path / "out", "--resume")
    assert again.exit_code == 0
    assert "was complete already" in again.output


def test_json_is_one_object(untrained, tmp_path):
    result = invoke("generate", tmp_path / "out", "--model", untrained, "--num", 2, "--num-atoms", 4, "--json")
    summary = json.loads(result.stdout)
    assert summary["status"] == "complete"
    assert (summary["requested"], summary["finished"], summary["written"]) == (2, 2, 2)
    assert summary["out"] == str(tmp_path / "out")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "no-such-model"],
        ["--num", "0"],
        ["--num-atoms", "plenty"],
        ["--num-atoms", "9-2"],
        ["--steps", "0"],
        ["--solver", "magic"],
        ["--batch-size", "some"],
        ["--batch-size", "0"],
        ["--device", "abacus"],
        ["--precision", "fp4"],
        ["--seed", "-1"],
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(untrained, tmp_path, arguments):
    base = [] if "--model" in arguments else ["--model", untrained]
    result = invoke("generate", tmp_path / "out", *base, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("crystalsmith: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_refused_before_the_model_is_read(tmp_path):
    (tmp_path / "mine").write_text("")
    result = invoke("generate", tmp_path, "--model", "no-such-model")
    assert result.exit_code == 2
    assert "not empty" in result.stderr


def test_errors_of_use_end_with_code_2():
    assert invoke("generate").exit_code == 2
    assert invoke("generate", "x", "--no-such-option").exit_code == 2
    assert invoke("conjure").exit_code == 2


def test_debug_lets_the_traceback_through(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTALSMITH_DEBUG", "1")
    result = invoke("generate", tmp_path / "out", "--model", "no-such-model")
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_real_process_that_is_stopped_can_be_resumed(untrained, tmp_path, signum):
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["--model", untrained, "--num", 12, "--batch-size", 2, "--steps", 30, "--solver", "ancestral"]
    command = [*PROGRAM, "generate", str(out), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob("cif/*.cif")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    printed, complaints = process.communicate(timeout=60)
    if signum != signal.SIGKILL:
        assert process.returncode == 128 + signum
        assert "--resume" in printed
        assert "Traceback" not in complaints
    assert len((out / "crystals.csv").read_text().splitlines()) < 13
    finished = invoke("generate", out, "--resume", "--json")
    assert json.loads(finished.stdout)["finished"] == 12
    invoke("generate", whole, *arguments)
    for name in ("crystals.csv", "crystals.extxyz"):
        rows, expected = (out / name).read_text().splitlines(), (whole / name).read_text().splitlines()
        assert len(rows) == len(expected)


def test_models_are_listed_and_shown(untrained):
    listed = json.loads(invoke("models", "list", "--json").stdout)["models"]
    assert invoke("models", "list").exit_code == 0
    shown = json.loads(invoke("models", "show", untrained, "--json").stdout)
    assert shown["name"] == "untrained"
    assert shown["parameters"] > 1000
    assert shown["conditions"] == []
    assert len(shown["elements"]) == 76
    for item in listed:
        assert invoke("models", "show", item["name"]).exit_code == 0
    person = invoke("models", "show", untrained)
    assert "A model for tests" in person.stdout
    assert invoke("models", "show", "no-such-model").exit_code == 2
