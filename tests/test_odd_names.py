"""Names that mean something to a program on the way come out as they went in."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from crystalsmith.data.readers import open_source
from crystalsmith.evaluation.report.results import csv_text
from crystalsmith.formats import extxyz_frame
from crystalsmith.tables import plain_cell, safe_cell

IDS = ["a b", "=1+1", 'q"q', "a=b", "x,y", "1e5", "007", "T", "1 2 3", "[1]", "back\\slash", "plain", "id=3", "é"]


def test_odd_ids_survive_extended_xyz(tmp_path) -> None:
    frames = [extxyz_frame(np.zeros((1, 3)), 4 * np.eye(3), np.array([11]), {"id": name}) for name in IDS]
    (tmp_path / "a.extxyz").write_text("".join(frames), encoding="utf-8")
    rows = [row for chunk in open_source(tmp_path / "a.extxyz").chunks(99) for row in chunk.rows()]
    assert [row.id for row in rows] == IDS


@pytest.mark.parametrize("text", ["=1+1", "+1", "@SUM(A1)", "\tx", "'=x", "plain", "-1.5", ""])
def test_no_cell_is_a_formula(text) -> None:
    assert not str(safe_cell(text)).startswith(("=", "+", "@", "\t"))
    assert safe_cell(safe_cell(text)) == safe_cell(text)
    assert plain_cell(safe_cell(text)) == (text if text != "'=x" else "=x")
    assert next(csv.reader(io.StringIO(csv_text([(text, 1.5)])))) == [safe_cell(text), "1.5"]
