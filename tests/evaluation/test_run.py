"""An evaluation finds what was planted, counts failures as failures, and refuses what does not belong together."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, ENERGIES, write_cifs

from crystalsmith.errors import InputError
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.evaluation.structures import read_samples


def table(folder):
    with (folder / "crystals.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def planted(tmp_path):
    """Rock salt twice, KCl, both forms unknown to the reference (CsCl and dense NaCl), and three bad files."""
    names = ["nacl", "nacl", "kcl", "cscl", "nacl-dense"]
    folder = write_cifs(tmp_path / "cifs", names, np.random.default_rng(0), rattle=0.02)
    text = (folder / "000-nacl.cif").read_text()
    (folder / "005-half.cif").write_text(text[: len(text) // 2])
    (folder / "006-nan.cif").write_text(text.replace("_cell_length_a ", "_cell_length_a nan #"))
    (folder / "007-overlap.cif").write_text(write_overlap(text))
    return folder


def write_overlap(text: str) -> str:
    lines = text.splitlines()
    label, symbol, multiplicity, *_ = lines[-1].split()
    return "\n".join([*lines[:-1], f"{label} {symbol} {multiplicity} {' '.join(lines[-2].split()[3:6])} 1"]) + "\n"


def test_planted_crystals_are_found(planted, reference_folder, tmp_path) -> None:
    energies = {f"{k:03d}-{n}": ENERGIES[n] + 0.02 for k, n in enumerate(["nacl", "nacl", "kcl", "cscl", "nacl-dense"])}
    (tmp_path / "e.json").write_text(json.dumps(energies))
    options = Options(reference=reference_folder, energies=tmp_path / "e.json", corrections="none")
    found = evaluate(planted, tmp_path / "out", options)["metrics"]
    rows = table(tmp_path / "out")

    assert found["requested"] == 8
    assert found["valid"]["count"] == 5
    assert found["unique"]["count"] == 4
    assert rows["001-nacl"]["duplicate_of"] == "000-nacl"
    assert found["novel"]["count"] == 2
    assert rows["002-kcl"]["matched"] == "001-kcl"
    assert float(rows["004-nacl-dense"]["energy_above_hull"]) == pytest.approx(0.12, abs=1e-6)
    assert {k: v["count"] for k, v in found["stable"].items()} == {"0": 0, "0.05": 4, "0.1": 4}
    # Within a formula by energy: equal ones in their order, then the dense form; what failed has no rank.
    ranks = {name[:3]: rows[name]["energy_rank"] for name in rows}
    assert ranks == {"000": "1", "001": "2", "002": "1", "003": "1", "004": "3", "005": "", "006": "", "007": ""}
    # Caesium chloride alone is stable, unique and novel.
    assert {k: v["count"] for k, v in found["sun"].items()} == {"0": 0, "0.05": 1, "0.1": 1}
    assert found["sun"]["0.1"]["of"] == 8
    with (tmp_path / "out" / "ledger.csv").open(newline="") as file:
        ledger = {row["id"]: row["failure"] for row in csv.DictReader(file)}
    assert set(ledger) == {"005-half", "006-nan", "007-overlap"}
    assert ledger["007-overlap"] == "not_valid"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["novel"]["count"] == 2


def test_without_a_reference_the_rest_is_computed_and_the_missing_named(planted, tmp_path) -> None:
    found = evaluate(planted, tmp_path / "out", Options())["metrics"]
    assert found["unique"]["count"] == 4
    assert {"novel", "stable", "rmsd", "distributions"} <= set(found["missing"])
    assert "novel" not in found
    assert "sun" not in found


def test_energies_of_another_scheme_are_refused(planted, reference_folder, tmp_path) -> None:
    (tmp_path / "e.json").write_text('{"000-nacl": -1.0}')
    wrong = Options(reference=reference_folder, energies=tmp_path / "e.json", corrections="mp2020")
    with pytest.raises(InputError, match="'mp2020' but the reference ref is in 'none'"):
        evaluate(planted, tmp_path / "out", wrong)
    unsaid = Options(reference=reference_folder, energies=tmp_path / "e.json")
    with pytest.raises(InputError, match="--corrections"):
        evaluate(planted, tmp_path / "out", unsaid)
    (tmp_path / "e.json").write_text('{"someone-else": -1.0}')
    strangers = Options(reference=reference_folder, energies=tmp_path / "e.json", corrections="none")
    with pytest.raises(InputError, match="ids in both files must agree"):
        evaluate(planted, tmp_path / "out", strangers)


def test_elements_the_reference_lacks_are_named(reference_folder, tmp_path) -> None:
    from crystalsmith.formats import cif_text

    frac, cell, _ = CRYSTALS["nacl"]
    (tmp_path / "lif.cif").write_text(cif_text("lif", frac, cell, np.array([3, 9])))
    (tmp_path / "e.csv").write_text("id,energy_per_atom\nlif,-4.0\n")
    options = Options(reference=reference_folder, energies=tmp_path / "e.csv", corrections="none")
    found = evaluate(tmp_path / "lif.cif", tmp_path / "out", options)["metrics"]
    row = table(tmp_path / "out")["lif"]
    assert row["missing_elements"] == "F Li"
    assert row["failure"] == "not_in_reference"
    assert "stable" in found["missing"]


def test_garbage_never_ends_a_run(reference_folder, tmp_path) -> None:
    """Noble gases, single atoms, needles, 200 atoms without symmetry, and a file cut in half."""
    from crystalsmith.formats import extxyz_frame

    rng = np.random.default_rng(0)
    crystals = [
        (np.zeros((1, 3)), 4.0 * np.eye(3), [18]),
        (np.zeros((1, 3)), np.diag([0.3, 40.0, 40.0]), [26]),
        (rng.random((200, 3)), 15.0 * np.eye(3), rng.integers(1, 100, 200)),
        (np.zeros((3, 3)), 4.0 * np.eye(3), [8, 8, 8]),
        (rng.random((4, 3)), 6.0 * np.eye(3), [94, 95, 8, 8]),
    ]
    frames = [extxyz_frame(f, c, np.array(z), {"id": f"c{k}"}) for k, (f, c, z) in enumerate(crystals)]
    (tmp_path / "all.extxyz").write_text("".join(frames)[:-40])
    found = evaluate(tmp_path / "all.extxyz", tmp_path / "out", Options(reference=reference_folder))["metrics"]
    rows = table(tmp_path / "out")
    assert found["requested"] == 5
    assert rows["c0"]["valid"] == "True"
    assert rows["c1"]["failure"] == rows["c3"]["failure"] == "not_valid"
    assert len({row["failure"] for row in rows.values()}) > 1


def test_a_generation_run_is_read_with_what_failed_and_what_was_never_made(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    frac, cell, numbers = CRYSTALS["nacl"]
    (tmp_path / "manifest.json").write_text('{"format": "crystalsmith-generation-1", "settings": {"num": 4}}')
    (tmp_path / "crystals.extxyz").write_text(extxyz_frame(frac, cell, np.array(numbers), {"id": "s0-000000"}))
    head = "id,seed,file,valid,note\ns0-000000,0,cif/s0-000000.cif,True,\n"
    (tmp_path / "crystals.csv").write_text(f"{head}s0-000001,0,,False,failed: a number is not finite\n")
    samples = read_samples(tmp_path)
    assert [s.failure for s in samples] == ["", "not_generated", "not_generated", "not_generated"]
    assert samples[0].columns["seed"] == "0"
    assert samples[1].detail == "failed: a number is not finite"


def test_names_given_twice_stay_apart(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    frac, cell, numbers = CRYSTALS["mgo"]
    (tmp_path / "a.extxyz").write_text(2 * extxyz_frame(frac, cell, np.array(numbers), {"id": "same"}))
    assert [s.id for s in read_samples(tmp_path / "a.extxyz")] == ["same", "same#2"]


def test_nothing_there_is_one_sentence(tmp_path) -> None:
    with pytest.raises(InputError, match="There is no file or folder"):
        evaluate(tmp_path / "nowhere", tmp_path / "out", Options())


def test_an_endless_search_for_oxidation_states_is_ended(monkeypatch) -> None:
    import sys
    import time
    from types import SimpleNamespace

    from crystalsmith.evaluation import judge

    slow = SimpleNamespace(smact_validity=lambda _: [time.sleep(0.01) for _ in range(3000)])
    monkeypatch.setitem(sys.modules, "smact", SimpleNamespace(screening=slow))
    monkeypatch.setitem(sys.modules, "smact.screening", slow)
    monkeypatch.setattr(judge, "SMACT_LIMIT", 0.05)
    began = time.monotonic()
    assert judge.charge_balanced([26, 8]) is None
    assert time.monotonic() - began < 5


def test_two_hundred_atoms_and_noble_gases_go_through_whole(tmp_path) -> None:
    from crystalsmith.formats import extxyz_frame

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3), -1).reshape(-1, 3)[:200] / 6
    crystals = [(grid + 0.01 * rng.random((200, 3)), 17.0 * np.eye(3), np.full(200, 18)) for _ in range(2)]
    crystals.append((np.zeros((1, 3)), 5.3 * np.eye(3), np.array([18])))
    frames = [extxyz_frame(f, c, z, {"id": f"c{k}"}) for k, (f, c, z) in enumerate(crystals)]
    (tmp_path / "a.extxyz").write_text("".join(frames))
    found = evaluate(tmp_path / "a.extxyz", tmp_path / "out", Options())["metrics"]
    assert found["valid"]["count"] == 3
    assert found["composition"]["noble_gases"]["count"] == 3
    assert found["failures"] == {}
    assert found["unique"]["count"] == 2  # the second is the first, rattled


def test_partly_occupied_sites_are_refused_or_resolved_as_asked(tmp_path) -> None:
    folder = write_cifs(tmp_path / "cifs", ["nacl", "kcl"], np.random.default_rng(0))
    file = folder / "001-kcl.cif"
    *lines, last = file.read_text().splitlines()
    file.write_text("\n".join([*lines, last[: last.rindex("1")] + "0.75"]) + "\n")
    refused = evaluate(folder, tmp_path / "plain", Options(held_out=folder))
    assert refused["metrics"]["valid"]["count"] == 1
    assert refused["metrics"]["failures"] == {"disordered": 1}
    resolved = evaluate(folder, tmp_path / "largest", Options(disorder="largest", held_out=folder))
    assert resolved["metrics"]["valid"]["count"] == 2
    assert resolved["run"]["disorder"] == "largest"
    with pytest.raises(InputError, match=r"refuse or largest, not .smallest."):
        evaluate(folder, tmp_path / "other", Options(disorder="smallest"))
