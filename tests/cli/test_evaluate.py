"""The commands ``evaluate`` and ``reference`` from the shell's side."""

from __future__ import annotations

import json

from tests.evaluation.conftest import write_cifs, write_hull
from typer.testing import CliRunner

from crystalsmith.cli.main import app

RUNNER = CliRunner()


def test_reference_and_evaluation_end_to_end(tmp_path) -> None:
    cifs, hull = write_cifs(tmp_path / "cifs", ["nacl", "kcl"]), write_hull(tmp_path / "hull.csv")
    build = ["reference", "build", str(cifs), str(tmp_path / "ref"), "--hull", str(hull), "--corrections", "none"]
    built = RUNNER.invoke(app, [*build, "--jobs", "1"])
    assert built.exit_code == 0, built.output
    assert "2 structures" in built.output
    assert "2 structures" in RUNNER.invoke(app, ["reference", "info", str(tmp_path / "ref")]).output
    again = RUNNER.invoke(app, [*build, "--jobs", "1"])
    assert again.exit_code == 2
    assert "--overwrite" in again.output

    made = write_cifs(tmp_path / "made", ["nacl", "cscl"])
    judged = RUNNER.invoke(app, ["evaluate", str(made), "--reference", str(tmp_path / "ref"), "--jobs", "1", "--json"])
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["metrics"]["novel"]["count"] == 1
    assert (made / "evaluation" / "crystals.csv").exists()
    side_by_side = ["report", str(made / "evaluation"), str(made / "evaluation"), "--out", str(tmp_path / "two.html")]
    assert RUNNER.invoke(app, side_by_side).exit_code == 0
    assert "novel" in (tmp_path / "two.html").read_text()


def test_bad_input_is_a_sentence_and_exit_code_2(tmp_path) -> None:
    result = RUNNER.invoke(app, ["evaluate", str(tmp_path / "none.cif")])
    assert result.exit_code == 2
    assert "There is no file" in result.output
    result = RUNNER.invoke(app, ["evaluate", str(tmp_path), "--reference", str(tmp_path)])
    assert result.exit_code == 2
    assert "reference build" in result.output
    result = RUNNER.invoke(app, ["evaluate", str(tmp_path), "--batch-relax", "4"])
    assert result.exit_code == 2
    assert "add --potential" in result.output
    result = RUNNER.invoke(app, ["evaluate", str(tmp_path), "--relax", "--device", "cuda:99"])
    assert result.exit_code == 2
    assert "not on this machine" in result.output
