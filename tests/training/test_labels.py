"""Labels in training: scales of their own size, units that look wrong, names and classes as the user wrote them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.store import save_model
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import module_key
from crystalsmith.training.finetune import finetune, parse_properties
from crystalsmith.training.labels import Labelled, kind_of, split_kind

TOTAL = 34


@pytest.fixture
def with_labels(dataset_folder):
    """A function that adds labels ``(34,)`` to the small data set, with what its manifest says of them."""

    def add(labels: dict[str, np.ndarray], **facts: dict):
        manifest = json.loads((dataset_folder / "manifest.json").read_text())
        for k, (name, values) in enumerate(labels.items()):
            np.save(dataset_folder / "labels" / f"file{k}.npy", np.asarray(values, dtype=np.float32))
            manifest["labels"][name] = {"file": f"file{k}", **facts.get(name, {})}
        (dataset_folder / "manifest.json").write_text(json.dumps(manifest))
        return dataset_folder

    return add


def coverage(folder, name: str, kind: str = ""):
    return Labelled(CrystalDataset.open(folder), {name: kind}).coverage[name]


def test_label_of_small_numbers(with_labels) -> None:
    """Scaled by any factor, labels look the same to the network."""
    values = np.linspace(1.0, 4.0, TOTAL)
    folder = with_labels({"one": values, "compliance": 1e-12 * values, "offset": 1e-9 * (values - 2)})
    plain, small, offset = (coverage(folder, name) for name in ("one", "compliance", "offset"))
    assert small.std == pytest.approx(1e-12 * plain.std, rel=1e-5)
    assert offset.std == pytest.approx(1e-9 * plain.std, rel=1e-5)
    assert small.mean / small.std == pytest.approx(plain.mean / plain.std, rel=1e-5)
    assert small.excluded == 0


def test_a_model_sees_small_labels_apart(untrained, with_labels, tmp_path) -> None:
    folder = with_labels({"compliance": 1e-12 * np.linspace(1.0, 4.0, TOTAL)})
    overrides = ("limits.max_epochs=1", "data.batch_size=8", "data.num_workers=0", "hardware.accelerator=cpu")
    finetune(untrained, folder, tmp_path / "run", ["compliance"], overrides=overrides, quiet=True)
    model = load_model(tmp_path / "run" / "last")
    save_model(model, tmp_path / "half", weights_dtype=torch.float16)
    for found in (model, load_model(tmp_path / "half")):
        embedding = found.network.properties["compliance"]
        vectors, _ = embedding(torch.tensor([1e-12, 4e-12]))
        assert torch.isfinite(vectors).all()
        assert float((vectors[0] - vectors[1]).abs().max()) > 0.1


def test_a_constant_label_is_warned_of(untrained, with_labels, tmp_path, capsys) -> None:
    folder = with_labels({"constant": np.full(TOTAL, 5.0)})
    seen = coverage(folder, "constant")
    assert seen.constant
    assert seen.std == 5.0
    overrides = ("limits.max_epochs=1", "data.batch_size=8", "data.num_workers=0", "hardware.accelerator=cpu")
    finetune(untrained, folder, tmp_path / "run", ["constant"], overrides=overrides, quiet=True)
    assert "every training crystal has constant = 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "factor", "unit"), [("band_gap", 1000.0, "meV"), ("bulk_modulus", 1e9, "Pa"), ("density", 1000.0, "kg/m")]
)
def test_impossible_labels_name_the_unit_they_seem_to_be_in(with_labels, name, factor, unit) -> None:
    folder = with_labels({name: factor * np.linspace(2.0, 9.0, TOTAL)})
    seen = coverage(folder, name)
    assert seen.excluded == TOTAL
    assert f"look like {unit}" in seen.sentence()


def test_a_column_that_could_not_be_read_is_explained(with_labels) -> None:
    folder = with_labels({})
    manifest = json.loads((folder / "manifest.json").read_text())
    told = {"kind": "none", "numbers": 0, "odd": 8, "read": 0, "example": "1,234", "why": "a comma could be two things"}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"columns": {"gap": told}}))
    with pytest.raises(InputError, match=r"8 of 8 cells.*'1,234'.*two things"):
        coverage(folder, "gap")


def test_classes_count_from_one_and_keep_their_words(with_labels) -> None:
    words = {"kind": "category", "classes": ["insulator", "metal"], "first": 1}
    truth = {"classes": ["false", "true"], "first": 0}
    values = np.arange(TOTAL) % 2
    folder = with_labels({"phase": values + 1, "is_metal": values}, phase=words, is_metal=truth)
    phase, metal = coverage(folder, "phase"), coverage(folder, "is_metal", "category")
    assert phase.kind == "category"
    assert phase.facts()["classes"] == ["insulator", "metal"]
    assert (metal.min, metal.max, metal.excluded) == (1.0, 2.0, 0)
    assert coverage(folder, "is_metal").min == 0.0


@pytest.mark.parametrize("name", ["Hardness (GPa)", "a.b", "type", "keys", "x:y", "Größe"])
def test_names_stay_as_written_in_every_command(untrained, with_labels, tmp_path, name) -> None:
    from crystalsmith.generation.making import make_request
    from crystalsmith.generation.steering import Steering

    folder = with_labels({name: np.linspace(1.0, 4.0, TOTAL)})
    overrides = ("limits.max_steps=1", "data.batch_size=8", "data.num_workers=0", "hardware.accelerator=cpu")
    finetune(untrained, folder, tmp_path / "run", [name], overrides=overrides, quiet=True)
    model = load_model(tmp_path / "run" / "last")
    assert [c.name for c in model.network.config.conditions] == [name]
    request = make_request(model, steering=Steering(properties=[f"{name}=2.0"]))
    assert [value for _, value in request.plan(0).targets] == [2.0]


def test_names_of_modules_do_not_collide() -> None:
    names = ["a.b", "a_b", "a_2e_b", "type", "keys", "band_gap", "", "a b"]
    keys = [module_key(name) for name in names]
    assert module_key("band_gap") == "band_gap"  # weights of models that exist are named so
    assert len(set(keys) - {module_key("a_2e_b")}) >= len(names) - 2
    assert not any("." in key for key in keys)


def test_kinds_after_the_last_colon() -> None:
    assert split_kind("hardness:log") == ("hardness", "log")
    assert split_kind("a:b:log") == ("a:b", "log")
    assert split_kind("a:b", ["a:b"]) == ("a:b", "")
    assert kind_of("x", "", {"labels": {"x": {"kind": "category"}}}) == "category"
    with pytest.raises(InputError, match="kind must be"):
        parse_properties(["gap:word"])
