"""Targets are held against what the crystals are: planted hits, errors and controls come out as planted."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, ENERGIES, write_cifs

from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.request import Request
from crystalsmith.evaluation.asked.requirements import parse_requirement
from crystalsmith.evaluation.asked.targets import Asked, judge_targets
from crystalsmith.evaluation.facts import facts_of
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.evaluation.structures import Sample
from crystalsmith.formats import extxyz_frame

NAMES = ["nacl", "kcl", "mgo", "cscl"]


def write_run(folder, names, columns, unmade: int = 0):
    """A generation run of the named crystals with columns of targets."""
    folder.mkdir()
    heads = ["id", "file", "note", *columns]
    frames = []
    with (folder / "crystals.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(heads)
        for k, name in enumerate(names):
            frac, cell, numbers = CRYSTALS[name]
            frames.append(extxyz_frame(frac, cell, np.array(numbers), {"id": f"{k}-{name}"}))
            table.writerow([f"{k}-{name}", "x.cif", "", *(values[k] for values in columns.values())])
    (folder / "crystals.extxyz").write_text("".join(frames))
    manifest = {"format": "crystalsmith-generation-1", "settings": {"num": len(names) + unmade}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def table(folder):
    with (folder / "crystals.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_planted_targets_come_out(tmp_path) -> None:
    columns = {
        "target_chemical_system": ["Cl-Na", "Cl-K", "Ca-Mg-O", ""],
        "target_space_group": [225, 225, 221, 221],
        "target_dft_band_gap": [1, 2, 3, 4],
        "target_num_elements": [2, 2, 3, 2],
    }
    run = write_run(tmp_path / "run", NAMES, columns)
    found = evaluate(run, tmp_path / "out", Options())["metrics"]
    system = found["adherence"]["chemical_system"]
    assert (system["hit"]["count"], system["hit"]["of"]) == (2, 3)
    assert system["subset"]["count"] == 3
    group = found["adherence"]["space_group"]
    assert [group[k]["count"] for k in ("hit", "hit_0.01", "hit_1e-05")] == [3, 3, 3]
    assert [(t["target"], t["hit"]["count"], t["crystals"]) for t in group["targets"]] == [(221.0, 1, 2), (225.0, 2, 2)]
    assert found["adherence"]["num_elements"]["hit"]["count"] == 3
    assert found["adherence"]["num_elements"]["mae"] == pytest.approx(0.25)
    assert "band_gap" not in found["adherence"]
    assert "predictor" in found["missing"]["target dft_band_gap"]
    rows = table(tmp_path / "out")
    assert [r["target_space_group"] for r in rows] == ["225", "225", "221", "221"]
    assert [r["achieved_space_group"] for r in rows] == ["225", "225", "225", "221"]
    assert [r["hit_space_group"] for r in rows] == ["True", "True", "False", "True"]
    assert rows[3]["hit_chemical_system"] == ""


def test_what_was_not_made_has_missed_nothing_it_was_not_asked(tmp_path) -> None:
    run = write_run(tmp_path / "run", NAMES, {"target_space_group": [225, 225, 225, 225]}, unmade=2)
    metrics = evaluate(run, tmp_path / "out", Options())["metrics"]
    assert metrics["requested"] == 6
    assert metrics["adherence"]["space_group"]["hit"]["of"] == 4


def test_a_control_is_held_against_every_target_by_its_weight(tmp_path) -> None:
    run = write_run(tmp_path / "run", ["nacl"] * 3 + ["cscl"], {"target_space_group": [225, 225, 225, 221]})
    free = write_run(tmp_path / "free", ["nacl", "cscl", "cscl", "cscl"], {})
    options = Options(request=Request(control=free))
    found = evaluate(run, tmp_path / "out", options)["metrics"]["adherence"]["space_group"]
    assert found["hit"]["rate"] == 1.0
    assert found["control"]["hit"]["rate"] == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)
    assert [t["control"]["hit"]["rate"] for t in found["targets"]] == [0.75, 0.25]


def test_a_set_is_no_better_than_itself_as_control(tmp_path) -> None:
    run = write_run(tmp_path / "run", NAMES, {"target_density": [2.0] * 4})
    found = evaluate(run, tmp_path / "out", Options(request=Request(control=run)))["metrics"]["adherence"]["density"]
    assert found["control"]["mae"] == pytest.approx(found["mae"])
    assert found["control"]["wasserstein"] == 0.0


def judged(values) -> list[Judged]:
    frac, cell, numbers = CRYSTALS["nacl"]
    arrays = frac, cell, np.array(numbers)
    return [
        Judged(Sample(str(k), *arrays), facts=facts_of(*arrays), measured={} if v is None else {"hardness": v})
        for k, v in enumerate(values)
    ]


def test_errors_and_correlations_follow_their_definitions() -> None:
    targets = [1.0, 2.0, 3.0, 4.0, 5.0]
    exact = judge_targets(judged(targets), Asked("hardness", "hardness", list(targets)), None, False)
    assert (exact["mae"], exact["bias"], exact["pearson"], exact["spearman"]) == pytest.approx((0, 0, 1, 1))
    shifted = judge_targets(
        judged([2.0, 3.0, 4.0, None, 6.0]), Asked("hardness", "hardness", list(targets)), None, False
    )
    assert (shifted["mae"], shifted["bias"], shifted["of"], shifted["measured"]) == pytest.approx((1, 1, 4, 4))
    cubed = judge_targets(judged([-(t**3) for t in targets]), Asked("hardness", "hardness", list(targets)), None, False)
    assert cubed["spearman"] == pytest.approx(-1)
    assert -1 < cubed["pearson"] < -0.9


def test_a_control_without_targets_to_meet_is_refused(tmp_path) -> None:
    run = write_run(tmp_path / "run", NAMES, {})
    with pytest.raises(InputError, match="no targets"):
        evaluate(run, tmp_path / "out", Options(request=Request(control=run)))
    bad = write_run(tmp_path / "bad", ["nacl"], {"target_density": ["heavy"]})
    with pytest.raises(InputError, match="'heavy', which is not a number"):
        evaluate(bad, tmp_path / "out2", Options())


def test_a_predictor_measures_what_nothing_else_does(tmp_path) -> None:
    class Count:
        name, note = "band_gap", "by the number of atoms"

        def __call__(self, crystals):
            return [float(len(numbers)) for _, _, numbers in crystals]

    run = write_run(tmp_path / "run", NAMES, {"target_band_gap": [2, 2, 3, 2]})
    requirement = parse_requirement("band_gap>=2")
    options = Options(request=Request(predictors=(Count(),), requirements=(requirement,)))
    found = evaluate(run, tmp_path / "out", options)["metrics"]
    assert found["adherence"]["band_gap"]["mae"] == pytest.approx(0.25)
    assert found["adherence"]["band_gap"]["measured_by"] == "by the number of atoms"
    assert found["requirements"]["all"]["count"] == 4


def test_what_is_measured_is_not_predicted(tmp_path) -> None:
    class Heavy:
        name, note = "density", "by a guess"

        def __call__(self, crystals):
            return [99.0] * len(crystals)

    run = write_run(tmp_path / "run", NAMES, {"target_density": [2.0] * 4})
    requirement = parse_requirement("density<50")
    options = Options(request=Request(predictors=(Heavy(),), requirements=(requirement,)))
    found = evaluate(run, tmp_path / "out", options)["metrics"]
    assert found["requirements"]["all"]["count"] == 4
    assert found["requirements"]["measured_by"] == {"density": "of the crystal as generated"}
    assert found["adherence"]["density"]["q95"] < 50


def test_requirements_count_among_stable_unique_and_novel_ones(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl", "cscl", "nacl-dense"])
    energies = {f"{k:03d}-{n}": ENERGIES[n] for k, n in enumerate(["nacl", "cscl", "cscl", "nacl-dense"])}
    (tmp_path / "e.json").write_text(json.dumps(energies))
    options = Options(
        reference=reference_folder,
        energies=tmp_path / "e.json",
        corrections="none",
        request=Request(
            requirements=tuple(parse_requirement(t) for t in ("space_group==221", "energy_above_hull<=0.05"))
        ),
    )
    found = evaluate(cifs, tmp_path / "out", options)["metrics"]["requirements"]
    # Both crystals of caesium chloride meet them, the second is no longer unique; dense rock salt is too high.
    assert found["all"]["count"] == 2
    assert found["sun_and_all"]["0.1"]["count"] == 1
    assert found["budgets"][0] == {"crystals": 1, "all": 0, "sun_0": 0, "sun_0.05": 0, "sun_0.1": 0}
    assert found["budgets"][-1] == {"crystals": 4, "all": 2, "sun_0": 1, "sun_0.05": 1, "sun_0.1": 1}
    assert found["calls"][-1]["met"] == 1
