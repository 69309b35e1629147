"""Laws of scoring structure prediction, on planted cases whose score is known beforehand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.prediction.score import SETTINGS, Scored, assign, displacement, score, summarise
from crystalsmith.evaluation.structures import Sample, failed
from crystalsmith.formats import extxyz_frame

STOL = SETTINGS["stol"]


def crystal(numbers=(14, 8, 8, 22), seed: int = 0):
    """Four atoms far apart in a cell without symmetry."""
    rng = np.random.default_rng(seed)
    frac = np.array([[0.02, 0.05, 0.0], [0.51, 0.47, 0.04], [0.05, 0.52, 0.49], [0.49, 0.03, 0.55]])
    cell = np.array([[5.1, 0, 0], [0.4, 5.6, 0], [-0.3, 0.5, 6.2]])
    return (frac + 0.02 * rng.standard_normal(frac.shape)) % 1.0, cell, np.array(numbers)


def moved(arrays, angstrom: float):
    """Atom 0 displaced along x."""
    frac, cell, numbers = arrays
    shift = np.zeros_like(frac)
    shift[0] = np.array([angstrom, 0, 0]) @ np.linalg.inv(cell)
    return frac + shift, cell, numbers


def expected(angstrom: float, arrays) -> float:
    """What the matcher must return: the common shift is removed, and the unit is the cube root of V/n."""
    n = len(arrays[2])
    return angstrom * np.sqrt(n - 1) / n / (abs(np.linalg.det(arrays[1])) / n) ** (1 / 3)


def sample(name, arrays, **columns):
    return Sample(name, *arrays, columns=columns)


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return q * np.sign(np.diag(r)) * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("angstrom", [0.05, 0.2, 0.5])
def test_a_known_displacement_is_the_rmse(angstrom: float) -> None:
    one = crystal()
    assert displacement(moved(one, angstrom), one) == pytest.approx(expected(angstrom, one), rel=1e-3)


def test_the_description_of_a_crystal_does_not_count() -> None:
    frac, cell, numbers = one = crystal()
    order = [2, 0, 3, 1]
    doubled = (np.concatenate([frac, frac + [1, 0, 0]]) / [2, 1, 1], cell * [[2], [1], [1]], np.tile(numbers, 2))
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    same = {
        "turned": (frac, cell @ rotation(1), numbers),
        "shifted": ((frac + [0.3, 0.1, 0.7]) % 1, cell, numbers),
        "renumbered": (frac[order], cell, numbers[order]),
        "supercell": doubled,
        "other basis": (frac @ np.linalg.inv(basis), basis @ cell, numbers),
        "mirror image": (frac, cell @ np.diag([1, 1, -1]), numbers),
        "larger volume": (frac, 1.1 * cell, numbers),
    }
    for name, other in same.items():
        assert displacement(other, one) == pytest.approx(0.0, abs=1e-5), name


def test_measures_of_planted_predictions() -> None:
    """Four targets: found closely, found at the second sample only, of the wrong formula, without any prediction."""
    near, late, wrong, none = (crystal((14, 8, 8, z)) for z in (22, 23, 24, 25))
    truth = [sample(name, x) for name, x in (("a", near), ("b", late), ("c", wrong), ("d", none))]
    lost = (0.05 * late[0], late[1], late[2])  # all atoms in one heap
    made = [
        *(sample("a_0", moved(near, 0.4)), sample("a_1", moved(near, 0.1))),
        *(sample("b_0", lost), sample("b_1", moved(late, 0.2))),
        *(sample("c_0", near), failed("c_1", "not_generated", "")),
    ]
    rule, made_for = assign(made, truth)
    assert (rule, made_for) == ("name", [[0, 1], [2, 3], [4, 5], []])
    scored = score(made, truth, made_for)
    found = summarise(scored, [1, 2])
    first, both = [expected(0.4, near)], [expected(0.1, near), expected(0.2, late)]
    for k, errors in (("1", first), ("2", both)):
        rate = found[k]["match_rate"]
        assert (rate["count"], rate["of"]) == (len(errors), 4)
        assert 0 <= rate["low"] < rate["rate"] < rate["high"] <= 1
        assert found[k]["rmse"]["mean"] == pytest.approx(np.mean(errors), rel=1e-3)
        assert found[k]["crmse"]["mean"] == pytest.approx((sum(errors) + (4 - len(errors)) * STOL) / 4, rel=1e-3)
        assert found[k]["crmse"]["low"] <= found[k]["crmse"]["mean"] <= found[k]["crmse"]["high"]
    # c_0 is target a to the dot, made for c: it counts for a in METRe and not in the match rate.
    assert found["1"]["metre"]["rmse"]["mean"] == pytest.approx(0.0, abs=1e-5)
    assert found["1"]["metre"]["match_rate"]["count"] == 1
    assert [one.first_match() for one in scored] == [1, 2, None, None]


def test_swapped_polymorphs_are_found_by_metre_alone() -> None:
    frac, cell, numbers = one = crystal()
    other = ((frac * [1, 1, 0.3]) % 1, cell * [[1.6], [1], [0.6]], numbers)
    truth = [sample("one", one), sample("other", other)]
    made = [sample("x0", other, target="one"), sample("x1", one, target="other")]
    rule, made_for = assign(made, truth)
    assert (rule, made_for) == ("target", [[0], [1]])
    found = summarise(score(made, truth, made_for, engine=Engine(2)), [1])["1"]
    assert found["match_rate"]["count"] == 0
    assert found["rmse"]["of"] == 0
    assert found["crmse"]["mean"] == STOL
    assert found["metre"]["match_rate"]["count"] == 2
    assert found["metre"]["crmse"]["mean"] == pytest.approx(0, abs=1e-5)


def test_rules_of_matching() -> None:
    one, two = crystal(), crystal((14, 8, 8, 23))
    truth = [sample("mp-1", one), sample("mp-12", two)]
    for names in (("mp-12", "mp-12#2", "mp-1_0"), ("mp-12-3", "mp-12/a", "mp-1.relaxed")):
        made = [sample(names[0], two), sample(names[1], two), sample(names[2], one)]
        assert assign(made, truth) == ("name", [[2], [0, 1]])
    made = [sample("s0", two), sample("mp-1_0", one), sample("s1", one)]
    assert assign(made, truth) == ("formula", [[1, 2], [0]])
    assert assign(made, truth, "name") == ("name", [[1], []])
    with pytest.raises(InputError, match="None of the 1 predictions"):
        assign([sample("s0", crystal((6, 6, 6, 6)))], truth)
    with pytest.raises(InputError, match="no rule 'luck'"):
        assign(made, truth, "luck")


def test_a_pair_that_takes_too_long_is_no_match_and_is_named() -> None:
    truth = [sample("a", crystal())]
    scored = score([sample("a_0", crystal())], truth, [[0]], time_limit=-1.0)
    assert scored[0].unfinished == {0: "timed_out"}
    assert summarise(scored, [1])["1"]["match_rate"]["count"] == 0


def test_more_samples_never_find_less() -> None:
    rng = np.random.default_rng(0)
    scored = []
    for k in range(40):
        hits = {n: float(x) for n, x in enumerate(rng.random(10) * STOL) if rng.random() < 0.2}
        scored.append(Scored(sample(str(k), crystal()), list(range(10)), hits))
    found = summarise(scored, range(1, 11))
    rates = [found[str(k)]["match_rate"]["rate"] for k in range(1, 11)]
    errors = [found[str(k)]["crmse"]["mean"] for k in range(1, 11)]
    assert rates == sorted(rates)
    assert errors == sorted(errors, reverse=True)


def test_the_command_scores_files(tmp_path) -> None:
    truth, made = tmp_path / "truth.extxyz", tmp_path / "made.extxyz"
    one, two = crystal(), crystal((14, 8, 8, 23))
    truth.write_text("".join(extxyz_frame(*x, {"id": name}) for name, x in (("a", one), ("b", two))))
    made.write_text("".join(extxyz_frame(*moved(one, d), {"id": f"a_{k}"}) for k, d in enumerate((0.4, 0.2))))
    result = CliRunner().invoke(app, ["score", str(made), str(truth), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "1 targets have no prediction" in result.output
    assert "At 2 samples: match rate 50 %" in result.output
    found = json.loads((tmp_path / "made-score" / "score.json").read_text())
    assert found["at"]["2"]["rmse"]["mean"] == pytest.approx(expected(0.2, one), rel=1e-3)
    rows = list(csv.DictReader((tmp_path / "made-score" / "targets.csv").open()))
    assert [(row["id"], row["best"], row["first_match"]) for row in rows] == [("a", "a_1", "1"), ("b", "", "")]
    for wrong in (["--samples", "one"], ["--split", "test"], ["--match-by", "luck"]):
        result = CliRunner().invoke(app, ["score", str(made), str(truth), *wrong])
        assert result.exit_code == 2, wrong


def test_a_prepared_data_set_is_a_truth(dataset_folder, tmp_path) -> None:
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.evaluation.prediction.run import Options, read_truth, score_files

    dataset = CrystalDataset.open(dataset_folder)
    rows = dataset.rows("test")
    made = tmp_path / "made.extxyz"
    crystals = dataset.batch(rows).crystals()
    frames = [extxyz_frame(*x, {"id": str(dataset.ids[row])}) for row, x in zip(rows, crystals, strict=True)]
    made.write_text("".join(frames))
    result = score_files(made, dataset_folder, tmp_path / "score", Options(limit=4))
    assert result["targets"] == 4
    assert result["at"]["1"]["match_rate"]["count"] == 4
    assert result["at"]["1"]["rmse"]["mean"] < 1e-3
    chosen = {str(dataset.ids[rows[2]]), str(dataset.ids[0])}
    assert {s.id for s in read_truth(dataset_folder, None, chosen)} == chosen
