"""The report is one page that fetches nothing and holds what the files hold, whatever the crystals are called."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, write_cifs

from crystalsmith.evaluation.report.page import _place, comparison
from crystalsmith.evaluation.report.phases import diagram
from crystalsmith.evaluation.run import Options, evaluate


def payload(text: str):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def own_part(text: str) -> str:
    """The page without the viewer library."""
    return text[: text.index("/*! For license")] + text[text.rindex("</script>\n<script>") :]


def test_the_page_holds_every_crystal_and_fetches_nothing(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl"])
    (cifs / "broken.cif").write_text("data_broken\n_cell_length_a ?\n")
    evaluate(cifs, tmp_path / "out", Options(reference=reference_folder))
    text = (tmp_path / "out" / "report.html").read_text()
    data = payload(text)
    assert [row[0] for row in data["rows"]] == ["000-nacl", "001-cscl", "broken"]
    assert data["before"][2] is None
    cell = np.reshape(data["before"][1]["cell"], (3, 3))
    assert np.isclose(abs(np.linalg.det(cell)), 4.12**3, rtol=1e-4)
    assert sum(e["share"] > 0 for e in data["elements"]) == 3
    assert "@@" not in own_part(text)
    assert not re.findall(r'(?:src|href)="https?:', own_part(text))
    assert "default-src 'none'" in text
    assert len(text) < 700_000


def test_a_hostile_name_stays_text(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    frac, cell, numbers = CRYSTALS["mgo"]
    frame = extxyz_frame(frac, cell, np.array(numbers), {"id": '"</script><b>@@CSS@@"'})
    (tmp_path / "a.extxyz").write_text(frame)
    evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options())
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("</script>") == 3
    assert payload(text)["rows"][0][0] == '"</script><b>@@CSS@@"'


def test_runs_stand_side_by_side(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl"])
    with_reference = evaluate(cifs, tmp_path / "a", Options(reference=reference_folder))
    without = evaluate(cifs, tmp_path / "b", Options())
    data = payload(comparison([with_reference, without], ["a", "b"]))
    novel = next(row for row in data["headline"] if row[0] == "novel")
    assert novel[1].startswith("50 %")
    assert novel[2] == ""
    assert data["rows"] is None


def test_no_two_elements_share_a_place() -> None:
    places = [_place(z) for z in range(1, 101)]
    assert len(set(places)) == 100
    known = {1: (1, 1), 2: (18, 1), 5: (13, 2), 26: (8, 4), 57: (3, 9), 72: (4, 6), 86: (18, 6), 92: (6, 10)}
    assert {z: places[z - 1] for z in known} == known


def test_every_line_says_its_group_once(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl"])
    data = payload(comparison([evaluate(cifs, tmp_path / "a", Options(reference=reference_folder))], ["a"]))
    assert len(data["headline"]) == len(data["groups"]) == len(data["meanings"])
    labels = [row[0] for row in data["headline"]]
    assert len(set(labels)) == len(labels)
    changes = [a for a, b in zip(data["groups"], ["", *data["groups"]], strict=False) if a != b]
    assert len(set(changes)) == len(changes)
    assert "plausible" in labels


def test_the_hull_is_drawn_between_what_is_stable() -> None:
    """A-B with compounds at 1/4 (on the hull), 1/2 (deepest) and 3/4 (above it); A-B-C with one in the middle."""
    from crystalsmith.evaluation.reference.hull import Hull

    two = Hull.from_entries([{3: 1}, {8: 1}, {3: 3, 8: 1}, {3: 1, 8: 1}, {3: 1, 8: 3}], [0.0, 0.0, -0.6, -1.0, -0.3])
    drawn = diagram((3, 8), two, str)
    assert drawn["elements"] == ["Li", "O"]
    names = [row[-1] for row in drawn["entries"]]
    lines = {frozenset(names[k] for k in edge) for edge in drawn["edges"]}
    assert lines == {frozenset(pair) for pair in (("0", "2"), ("2", "3"), ("3", "1"))}
    assert next(row for row in drawn["entries"] if row[-1] == "4")[-2] == pytest.approx(0.2)

    three = Hull.from_entries([{3: 1}, {8: 1}, {26: 1}, {3: 1, 8: 1, 26: 1}], [0.0, 0.0, 0.0, -1.0])
    drawn = diagram((3, 8, 26), three, str)
    names = [row[-1] for row in drawn["entries"]]
    lines = {frozenset(names[k] for k in edge) for edge in drawn["edges"]}
    expected = (("0", "1"), ("1", "2"), ("0", "2"), ("0", "3"), ("1", "3"), ("2", "3"))
    assert lines == {frozenset(pair) for pair in expected}
    flat = Hull.from_entries([{3: 1}, {8: 1}, {26: 1}], [0.0, 0.0, 0.0])
    assert len(diagram((3, 8, 26), flat, str)["edges"]) == 3


def test_a_submission_holds_so_many_crystals_and_what_they_cost(tmp_path, reference_folder) -> None:
    import zipfile

    from crystalsmith.errors import InputError
    from crystalsmith.evaluation.report.submission import write_submission

    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl", "mgo"])
    (cifs / "broken.cif").write_text("data_broken\n_cell_length_a ?\n")
    metrics = evaluate(cifs, tmp_path / "out", Options(reference=reference_folder))
    told = write_submission(tmp_path / "out", metrics, tmp_path / "send", "given", 2)
    assert (told["crystals"], told["requested"], told["state"]) == (2, 4, "as given, not relaxed here")
    with zipfile.ZipFile(tmp_path / "send" / "crystals.zip") as archive:
        assert archive.namelist() == ["000-nacl.cif", "001-cscl.cif"]
        assert b"not relaxed" in archive.read("000-nacl.cif")
    assert json.loads((tmp_path / "send" / "disclosure.json").read_text())["training_data"].startswith("to be told")
    with pytest.raises(InputError, match="needs 2500 crystals"):
        write_submission(tmp_path / "out", metrics, tmp_path / "send", "given")
    with pytest.raises(InputError, match="no relaxed crystals"):
        write_submission(tmp_path / "out", metrics, tmp_path / "send", "relaxed", 2)
