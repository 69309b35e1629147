"""Laws of targets: who gets which, what is refused, and that they reach the network and the table."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.generation.loaded import load
from crystalsmith.generation.making import make_request, warnings_of
from crystalsmith.generation.plans.plan import Plan, Value
from crystalsmith.generation.plans.targets import targeted
from crystalsmith.generation.request import Request
from crystalsmith.generation.run import Options, generate
from crystalsmith.generation.setting import follow
from crystalsmith.generation.steering import Steering
from crystalsmith.generation.targets import Targets, make_targets


@pytest.fixture(scope="module")
def model(conditional):
    return load_model(conditional)


def one(model, text: str, **more) -> Targets:
    targets = make_targets(model, [text], **more)
    assert targets is not None
    return targets


def values(targets: Targets, seed: int, indices: Iterable[int]) -> list[Value]:
    return [targeted(Plan(seed, i), targets).targets[0][1] for i in indices]


def seen(model, text: str, indices: Iterable[int], **more) -> Conditions:
    """What a denoiser is told of the targets of some crystals."""
    told = []

    def denoiser(batch, t, conditions=None):
        told.append(conditions)
        return Scores(batch.frac_coords, batch.cell, torch.zeros(len(batch.atomic_numbers), 101))

    request = make_request(model, num=2, num_atoms=1, steering=Steering(properties=[text], guidance=1.0))
    plans = request.plans(indices)
    batch = CrystalBatch.from_arrays([([[0.0] * 3], np.eye(3), [1])] * len(plans))
    follow(denoiser, model, request.sampling, plans, torch.device("cpu"))(batch, torch.ones(len(plans)))
    return told[0]


def test_classes_and_space_groups_go_by_their_words(model, conditional, tmp_path) -> None:
    assert values(one(model, "space_group=Fm-3m,P 63/m m c,62"), 0, range(3)) == [225, 194, 62]
    with pytest.raises(InputError, match=r"'Fm-3q' is none of .*its number"):
        one(model, "space_group=Fm-3q")
    shutil.copytree(conditional, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["metadata"]["properties"]["space_group"] = {"kind": "category", "classes": ["Metal", "semi conductor"]}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    told = load_model(tmp_path / "m")
    assert values(one(told, "space_group=semi conductor,metal,2"), 0, range(3)) == [2, 1, 2]
    with pytest.raises(InputError, match="'wood' is none of metal, semi conductor"):
        one(told, "space_group=wood")


def test_values_are_taken_in_turn(model) -> None:
    assert values(one(model, "band_gap=1,2,3"), 0, range(5)) == [1, 2, 3, 1, 2]
    systems = seen(model, "chemical_system=Li-Fe-O,Na-Cl", [0, 1])["chemical_system"]
    assert [np.flatnonzero(row).tolist() for row in systems.numpy()] == [[3, 8, 26], [11, 17]]


@pytest.mark.parametrize("seed", [0, 1])
def test_ranges_are_drawn_evenly(model, seed: int) -> None:
    indices = range(2000)
    drawn = values(one(model, "band_gap=0.5..3"), seed, indices)
    assert 0.5 <= min(drawn) < 0.52
    assert 2.98 < max(drawn) <= 3
    assert abs(np.mean(drawn) - 1.75) < 0.05
    logs = np.log10(values(one(model, "bulk_modulus=1..1000"), seed, indices))
    assert abs(np.mean(logs) - 1.5) < 0.06
    groups = values(one(model, "space_group=221..230"), seed, indices)
    assert set(groups) == set(range(221, 231))


def test_other_names_of_a_property_are_understood(model) -> None:
    assert one(model, "dft_band_gap=2").targets[0].name == "band_gap"


@pytest.mark.parametrize(
    ("properties", "more", "sentence"),
    [
        (["colour=2"], {}, "it knows band_gap, bulk_modulus, chemical_system, space_group"),
        (["band_gap"], {}, "not NAME=VALUE"),
        (["band_gap=big"], {}, "not a number"),
        (["band_gap=3..1"], {}, "empty range"),
        (["band_gap=1", "band_gap=2"], {}, "given twice"),
        (["band_gap=1", "dft_band_gap=2"], {}, "two names"),
        (["bulk_modulus=-3"], {}, "above 0"),
        (["space_group=231"], {}, "from 1 to 230"),
        (["space_group=2.5"], {}, "whole number"),
        (["chemical_system=Li-Xx"], {}, "not a chemical symbol"),
        (["band_gap=1"], {"guidance": "much"}, "not a number"),
        (["band_gap=1"], {"guidance": ["space_group=2"]}, "has no target"),
        (["band_gap=1"], {"interval": "0.9..0.1"}, "write for example 0.2"),
        (None, {"guidance": 2.0}, "--property"),
    ],
)
def test_what_cannot_be_meant_is_refused(model, properties, more, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        make_targets(model, properties, **more)


def test_an_unconditional_model_says_what_to_do(untrained) -> None:
    # A bundled model that follows the property is named before any training is.
    with pytest.raises(InputError, match="it knows none; choose --model mp20-small"):
        make_targets(load_model(untrained), ["band_gap=1"])


def test_targets_outside_the_training_range_are_warned_about(model) -> None:
    def sentences(text: str) -> list[str]:
        return warnings_of(model, make_request(model, steering=Steering(properties=[text])))

    assert sentences("band_gap=2") == []
    assert "0 to 9 eV" in sentences("band_gap=1,12")[0]
    assert "12 lies outside" in sentences("band_gap=5..12")[0]


def test_guidance_by_property_and_in_python(model) -> None:
    targets = make_targets(model, {"band_gap": 2, "space_group": [225, 221]}, guidance=["3", "space_group=1.5"])
    assert targets is not None
    assert targets.guidance == {"band_gap": 3.0, "space_group": 1.5}
    assert targets.targets[1].values == (225.0, 221.0)


def test_a_request_with_targets_survives_json(model) -> None:
    steering = Steering(properties={"band_gap": "0.5..3", "chemical_system": "Li-O"}, guidance_interval="0.1..0.9")
    request = make_request(model, steering=steering)
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))).targets == request.targets


def test_targets_change_the_crystals_and_stand_in_the_table(conditional, tmp_path) -> None:
    (tmp_path / "targets.csv").write_text("band_gap,bulk_modulus\n1,50\n2,\n3,100\n")
    steering = Steering(targets=str(tmp_path / "targets.csv"), guidance=3.0)
    options = Options(model=str(conditional), device="cpu", steps=3, steering=steering, precision="float32")
    summary = generate(tmp_path / "out", options)
    assert summary.finished == 3
    with (tmp_path / "out" / "crystals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["target_band_gap"], row["target_bulk_modulus"]) for row in rows] == [
        ("1.0", "50.0"),
        ("2.0", ""),
        ("3.0", "100.0"),
    ]
    again = generate(tmp_path / "out", Options(steering=Steering(guidance=3.0)), resume=True)
    assert again.status == "complete"
    with pytest.raises(InputError, match="started with --guidance"):
        generate(tmp_path / "out", Options(steering=Steering(guidance=1.0)), resume=True)


def test_guidance_factor_zero_is_the_unconditional_crystal(conditional) -> None:
    loaded = load(conditional, device="cpu", precision="float32")
    free = loaded.generate(4, steps=3, num_atoms=4).batch
    ignored = loaded.generate(4, steps=3, num_atoms=4, properties={"band_gap": 5}, guidance=0).batch
    followed = loaded.generate(4, steps=3, num_atoms=4, properties={"band_gap": 5}, guidance=2).batch
    assert torch.equal(free.cell, ignored.cell)
    assert not torch.equal(free.cell, followed.cell)


def test_a_chemical_system_as_target_is_kept_and_composes_with_rules(conditional) -> None:
    loaded = load(conditional, device="cpu", precision="float32")
    made = loaded.generate(
        30, steps=3, properties={"chemical_system": "Li-Fe-O"}, require="O", deny="Fe", num_atoms="2-7"
    )
    for structure in made:
        assert {e.symbol for e in structure.elements} <= {"Li", "O"}
        assert "O" in structure.symbol_set


@pytest.mark.parametrize("guidance", [0.3, 1.0, 3.0])
def test_only_elements_of_the_target_system_at_any_guidance(conditional, guidance: float) -> None:
    loaded = load(conditional, device="cpu", precision="float32")
    made = loaded.generate(20, steps=3, properties={"chemical_system": "Na-Cl"}, guidance=guidance, num_atoms="2-7")
    assert {e.symbol for structure in made for e in structure.elements} <= {"Na", "Cl"}


def test_guidance_away_from_a_chemical_system_stays_finite(conditional) -> None:
    loaded = load(conditional, device="cpu", precision="float32")
    free = loaded.generate(20, steps=3, num_atoms=7)
    away = loaded.generate(20, steps=3, properties={"chemical_system": "Na-Cl"}, guidance=-0.01, num_atoms=7)
    same = [a.composition == b.composition for a, b in zip(free, away, strict=True)]
    assert sum(same) > 10  # a nudge, not a ban of everything else or of nothing


def test_missing_targets_are_unconditional(model) -> None:
    assert math.isnan(float(seen(model, "band_gap=1,", [1])["band_gap"]))
