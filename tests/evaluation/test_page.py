"""The report is one page that fetches nothing and holds what the files hold, whatever the crystals are called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, write_cifs

from crystalsmith.evaluation.report.page import _place, compact, comparison
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


def script(place: str, name: str) -> str:
    from importlib import resources

    return (resources.files(place) / "assets" / name).read_text(encoding="utf-8")


def by_node(program: str) -> str:
    """What a program in JavaScript prints."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    return subprocess.run(["node", "-"], input=program, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("place", "name"), [("crystalsmith.evaluation.report", "report.js"), ("crystalsmith.discovery", "discover.js")]
)
def test_the_scripts_of_a_page_are_one_program(place: str, name: str) -> None:
    together = script("crystalsmith.evaluation.report", "common.js") + script(place, name)
    assert by_node(f"new Function({json.dumps(together)}); console.log('read')").strip() == "read"


FCC = 2.82 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
R3 = np.array([[1.4, 0.8, 4.7], [-1.4, 0.8, 4.7], [0.0, -1.6165808, 4.7]])


@pytest.mark.parametrize(
    ("cell", "frac", "numbers", "times"),
    [
        (FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17], 4),
        (FCC @ np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), [[0.9, 0.9, 0.9], [0.4, 0.4, 0.4]], [11, 17], 4),
        (np.array([[-1.5, 1.5, 1.5], [1.5, -1.5, 1.5], [1.5, 1.5, -1.5]]), [[0, 0, 0]], [26], 2),
        (R3, [[0, 0, 0], [0.5, 0.5, 0.5], [0.26, 0.26, 0.26], [0.74, 0.74, 0.74]], [3, 27, 8, 8], 3),
    ],
)
def test_the_conventional_cell_of_the_viewer_is_the_same_crystal(cell, frac, numbers, times) -> None:
    """So many times the volume and atoms, and every atom stands where the given cell has one of its kind."""
    given = compact((np.array(frac, float), cell, np.array(numbers)))
    assert "steps" in given
    common = script("crystalsmith.evaluation.report", "common.js")
    parts = common[common.index("function cartesian") :]
    found = json.loads(
        by_node(f"const $ = null;{parts}\nconsole.log(JSON.stringify(conventional({json.dumps(given)})))")
    )
    whole = np.reshape(found["cell"], (3, 3))
    assert np.isclose(np.linalg.det(whole), times * np.linalg.det(cell), rtol=1e-4)
    assert sorted(found["z"]) == sorted(numbers * times)
    places = np.reshape(found["frac"], (-1, 3))
    back = places @ whole @ np.linalg.inv(cell)
    for z, place in zip(found["z"], back, strict=True):
        offsets = place - np.array(frac)[np.array(numbers) == z]
        assert np.abs(offsets - np.round(offsets)).max(-1).min() < 1e-3
    apart = places[:, None] - places[None]
    assert (np.linalg.norm((apart - np.round(apart)) @ whole, axis=-1) + 9 * np.eye(len(places))).min() > 1.0


def test_a_cell_that_is_conventional_has_no_other() -> None:
    assert "steps" not in compact((np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.12 * np.eye(3), np.array([55, 17])))


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("with_energies", [False, True])
def test_a_browser_shows_every_crystal(tmp_path, reference_folder, with_energies) -> None:
    """The page as a browser made it: a row for each crystal and, where it draws in 3D, what the colours mean."""
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl"])
    evaluate(cifs, tmp_path / "out", Options(reference=reference_folder if with_energies else None))
    page = tmp_path / "out" / "report.html"
    line = [BROWSER, "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    line += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    text = done.stdout[: done.stdout.index('<script type="application/json"')]
    assert len(re.findall(r'<tr data-i="\d"', text)) == 2, done.stderr
    if "draws no 3D pictures" not in text:
        assert re.findall(r"</i>([A-Z][a-z]?)</span>", text) == ["Na", "Cl"]
        assert "α, β, γ" in text
