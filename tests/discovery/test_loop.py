"""Whole runs with a quick potential: budgets, resumption after a kill at any place, extension, the files."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from crystalsmith.discovery.ledger import LEDGER, Folder
from crystalsmith.discovery.run import discover
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.errors import InputError


def told(folder: Path) -> list[dict]:
    """The ledger without what differs between two runs of the same thing: times."""
    lines = []
    for text in (folder / LEDGER).read_text().splitlines():
        line = json.loads(text)
        line.pop("at"), line.pop("seconds")
        lines.append(line)
    return lines


@pytest.fixture
def finished(tmp_path: Path, wish: Wish, limits: Limits) -> Path:
    discover(tmp_path / "run", wish, limits)
    return tmp_path / "run"


def test_a_run_keeps_its_budget_and_its_promises(finished: Path, wish: Wish, alloys: Path) -> None:
    state = Folder.open(finished).state()
    assert state.relaxations == 7
    assert state.accepted
    from crystalsmith.discovery.screening import Candidate, known_as
    from crystalsmith.evaluation.matching import group
    from crystalsmith.evaluation.reference.known import Reference

    reference = Reference.open(alloys)
    found = [Candidate(c.name, c.relaxed) for c in state.accepted]
    assert group(found) == list(range(len(found)))
    for candidate, matched in zip(state.accepted, found, strict=True):
        assert candidate.values["energy_above_hull"] <= 0.5
        assert not known_as(matched, reference)
        assert [s for s, _, _ in candidate.history] == [
            "proposed",
            "screened",
            "estimated",
            "relaxed",
            "judged",
            "accepted",
        ]


def test_what_is_written_agrees(finished: Path) -> None:
    from ase.db import connect

    state = Folder.open(finished).state()
    rows = list(csv.DictReader((finished / "candidates.csv").open()))
    assert len(rows) == len(state.candidates)
    best = [r["id"] for r in rows if r["verdict"] == "accepted"]
    assert best
    assert [int(r["rank"]) for r in rows[: len(best)]] == list(range(1, len(best) + 1))
    relaxed = [c for c in state.candidates.values() if c.relaxed is not None]
    database = connect(finished / "candidates.db")
    assert database.count() == len(relaxed)
    assert {r.name for r in database.select(accepted=True)} == set(best)
    row = next(database.select(accepted=True))
    candidate = state.candidates[row.candidate]
    assert row.energy == pytest.approx(candidate.values["energy"])
    for name in best:
        assert (finished / "cif" / f"{name}-raw.cif").is_file()
        assert (finished / "cif" / f"{name}-relaxed.cif").is_file()
    assert (finished / "discover.html").stat().st_size > 1000  # PAGE


@pytest.mark.parametrize("share", [0.05, 0.3, 0.55, 0.8, 0.97])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(finished: Path, tmp_path: Path, share: float) -> None:
    """A kill leaves the head of the ledger, its last line cut short; the other files may be of any moment."""
    whole = (finished / LEDGER).read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "manifest.json").write_text((finished / "manifest.json").read_text())
    (cut / LEDGER).write_bytes(whole[: int(share * len(whole))])
    discover(cut, None, Limits())
    assert told(cut) == told(finished)


def test_a_signal_ends_a_run_with_all_files_written_and_it_goes_on(tmp_path: Path, wish: Wish, limits: Limits) -> None:
    def strike(_: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    summary = discover(tmp_path / "run", wish, limits, tell=strike)
    assert (summary.status, summary.exit_code) == ("stopped", 143)
    assert summary.relaxed == 3
    assert (tmp_path / "run" / "discover.html").is_file()
    assert discover(tmp_path / "run", None, Limits()).relaxed == 7


def test_a_finished_run_that_is_extended_finds_what_a_longer_one_does(
    tmp_path: Path, wish: Wish, finished: Path
) -> None:
    discover(finished, None, Limits(relaxations=10))
    discover(tmp_path / "long", wish, Limits(relaxations=10))
    assert told(finished) == told(tmp_path / "long")


def test_a_run_ends_the_moment_it_has_what_it_wants(tmp_path: Path, wish: Wish) -> None:
    summary = discover(tmp_path / "run", wish, Limits(want=1, relaxations=30))
    assert (summary.accepted, summary.status) == (1, "complete")
    again = discover(tmp_path / "run", None, Limits())
    assert (again.accepted, again.relaxed) == (summary.accepted, summary.relaxed)


def test_property_calculations_are_spent_on_what_is_stable_and_new_and_counted_exactly(
    tmp_path: Path, wish: Wish
) -> None:
    asked = replace(wish, requirements=(*wish.requirements, "bulk_modulus>100"), sources=("known:0",))
    discover(tmp_path / "run", asked, Limits(calculations={"bulk_modulus": 3}, relaxations=30))
    state = Folder.open(tmp_path / "run").state()
    assert state.calculations("bulk_modulus") == 3
    for candidate in state.candidates.values():
        if "calculated_bulk_modulus" in candidate.values:
            assert candidate.values["energy_above_hull"] <= 0.5
            value = candidate.values["bulk_modulus"]
            assert candidate.accepted == (value is not None and value > 100)


def test_the_plain_way_relaxes_whatever_is_valid_in_order(tmp_path: Path, wish: Wish) -> None:
    discover(tmp_path / "run", replace(wish, plain=True, proposals=4, relaxations=4), Limits(relaxations=3))
    state = Folder.open(tmp_path / "run").state()
    assert {c.plan["source"] for c in state.candidates.values()} == {"templates"}
    valid = [n for n, c in sorted(state.candidates.items()) if c.stage not in ("proposed", "screened")]
    relaxed = [n for n, c in sorted(state.candidates.items()) if any(s == "relaxed" for s, _, _ in c.history)]
    assert relaxed == valid[:3]


def test_wrong_folders_are_refused_in_a_sentence(tmp_path: Path, wish: Wish, limits: Limits, finished: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        discover(finished, wish, limits)
    with pytest.raises(InputError, match="holds no run"):
        discover(tmp_path / "nothing", None, limits)
    ledger = finished / LEDGER
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="line 2 cannot be read"):
        discover(finished, None, limits)


def test_what_lies_far_below_the_hull_is_accepted_with_a_warning(
    tmp_path: Path, wish: Wish, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalsmith.discovery import loop

    monkeypatch.setattr(loop, "DOUBTFUL", -0.2)  # so that all within 0.2 eV/atom count as far below
    discover(tmp_path / "run", wish, limits)
    warned = [c.values["energy_above_hull"] < 0.2 for c in Folder.open(tmp_path / "run").state().accepted if c.detail]
    assert warned
    assert all(warned)
