"""Laws of fine-tuning: it begins as the base, learns only what it may, and never without labels."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.computed import compute
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.registry import build_network
from crystalsmith.training.build import build_model, grown_weights
from crystalsmith.training.finetune import finetune, finetune_recipe, parse_properties
from crystalsmith.training.labels import Labelled, drop, exclude
from crystalsmith.training.loader import StepSource

QUICK = (
    "limits.max_epochs=2",
    "data.batch_size=8",
    "data.num_workers=0",
    "hardware.accelerator=cpu",
    "optimizer.lr=1e-2",
)


@pytest.fixture
def labelled(dataset_folder):
    """The small data set with band_gap for two thirds of the rows, and bulk_modulus for all, two of them impossible."""
    total = 34
    gap = np.linspace(0, 6, total).astype(np.float32)
    gap[::3] = np.nan
    modulus = np.linspace(10, 300, total).astype(np.float32)
    modulus[4], modulus[5] = 1e11, -20
    manifest = json.loads((dataset_folder / "manifest.json").read_text())
    for name, values in (("band_gap", gap), ("bulk_modulus", modulus), ("empty", np.full(total, np.nan, np.float32))):
        np.save(dataset_folder / "labels" / f"{name}.npy", values)
        manifest["labels"][name] = {}
    (dataset_folder / "manifest.json").write_text(json.dumps(manifest))
    return dataset_folder


def tune(base, data, out, properties, *more, **options):
    return finetune(base, data, out, properties, overrides=[*QUICK, *more], quiet=True, **options)


def outputs(model, batch: CrystalBatch, conditions=None):
    with torch.no_grad():
        scores = model.denoiser(batch, torch.full((len(batch),), 0.4), conditions)
    return [scores.frac_coords, scores.cell, scores.species_logits]


def test_a_model_begins_as_its_base(untrained, labelled, make_batch) -> None:
    recipe = finetune_recipe(untrained, labelled, "new", {"band_gap": "scalar"}, False, "independent", QUICK)
    data = Labelled(CrystalDataset.open(labelled), recipe.conditions.properties)
    model, base = build_model(recipe, data.manifest, data.coverage), load_model(untrained)
    batch = make_batch([3, 5], dtype=torch.float32)
    conditions = {"band_gap": torch.tensor([1.0, math.nan])}
    for new, old in zip(outputs(model, batch, conditions), outputs(base, batch), strict=True):
        assert torch.equal(new, old)
    gap = np.load(labelled / "labels" / "band_gap.npy")[:24]
    assert float(model.network.properties["band_gap"].mean) == pytest.approx(np.nanmean(gap), rel=1e-5)
    assert float(model.network.properties["band_gap"].std) == pytest.approx(np.nanstd(gap), rel=1e-3)


def test_a_model_that_gains_base_conditions_and_attention_begins_as_its_base(untrained, labelled, make_batch) -> None:
    more = ("conditions.place=base", "model.attention_heads=2", "process.weight_species=2.5")
    recipe = finetune_recipe(untrained, labelled, "new", {"band_gap": "scalar"}, False, "independent", [*QUICK, *more])
    data = Labelled(CrystalDataset.open(labelled), recipe.conditions.properties)
    model, base = build_model(recipe, data.manifest, data.coverage), load_model(untrained)
    assert model.process.config.weight_species == 2.5
    assert len(model.network.attention) == model.network.config.gemnet.num_blocks + 1
    batch = make_batch([3, 5], dtype=torch.float32)
    for label in (1.0, math.nan):
        conditions = {"band_gap": torch.tensor([label, math.nan])}
        for new, old in zip(outputs(model, batch, conditions), outputs(base, batch), strict=True):
            assert torch.allclose(new, old, atol=1e-6)
    # A second property finds its own columns, whatever the order of the names.
    network = model.network
    with torch.no_grad():
        network.latent.weight[:, -network.config.width :] = 0.5
    config = dataclasses.replace(
        network.config, conditions=(*network.config.conditions, ConditionConfig("aaa", "scalar", "base"))
    )
    weights = grown_weights(network, build_network(config))["latent.weight"].split(network.config.width, dim=1)
    assert weights[2].abs().max() == 0
    assert torch.equal(weights[3], torch.full_like(weights[3], 0.5))


def test_training_moves_the_adapters_and_stores_ranges(untrained, labelled, tmp_path, make_batch) -> None:
    outcome = tune(untrained, labelled, tmp_path / "run", ["dft_band_gap", "chemical_system"])
    assert outcome.step == 6
    model = load_model(tmp_path / "run" / "last")
    assert {c.name for c in model.network.config.conditions} == {"band_gap", "chemical_system"}
    facts = model.metadata.properties["band_gap"]
    assert facts["count"] == 16
    assert 0 < facts["min"] < facts["max"] <= 6
    assert facts["unit"] == "eV"
    batch = make_batch([4], dtype=torch.float32)
    low, high = (outputs(model, batch, {"band_gap": torch.tensor([x])}) for x in (0.0, 5.0))
    assert not torch.equal(low[2], high[2])


def test_a_frozen_base_stays_and_stacking_keeps_the_first_property(untrained, labelled, tmp_path, make_batch) -> None:
    tune(untrained, labelled, tmp_path / "one", ["band_gap"], freeze_base=True)
    one, base = load_model(tmp_path / "one" / "last"), load_model(untrained)
    for name, value in base.network.state_dict().items():
        assert torch.equal(one.network.state_dict()[name], value), name
    tune(tmp_path / "one" / "last", labelled, tmp_path / "two", ["bulk_modulus"], freeze_base=True)
    two = load_model(tmp_path / "two" / "last")
    assert set(two.metadata.properties) == {"band_gap", "bulk_modulus"}
    for name, value in one.network.state_dict().items():
        assert torch.equal(two.network.state_dict()[name], value), name
    batch = make_batch([3], dtype=torch.float32)
    asked = {"band_gap": torch.tensor([2.0])}
    for new, old in zip(outputs(two, batch, asked), outputs(one, batch, asked), strict=True):
        assert torch.equal(new, old)


def test_a_resumed_run_is_the_uninterrupted_one(untrained, labelled, tmp_path) -> None:
    tune(untrained, labelled, tmp_path / "whole", ["band_gap"])
    tune(untrained, labelled, tmp_path / "parts", ["band_gap"], "limits.max_epochs=1")
    finetune(untrained, labelled, tmp_path / "parts", [], overrides=["limits.max_epochs=2"], resume=True, quiet=True)
    whole, parts = (load_model(tmp_path / name / "last").network.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_early_stopping_ends_the_run(untrained, labelled, tmp_path) -> None:
    more = ("limits.max_epochs=50", "limits.patience=2", "validation.every_epochs=1", "optimizer.lr=1e-20")
    outcome = tune(untrained, labelled, tmp_path / "run", ["band_gap"], *more)
    assert not outcome.interrupted
    assert outcome.step < 3 * 10


def test_it_refuses_what_cannot_be_learned(untrained, labelled, tmp_path) -> None:
    for properties, sentence in (
        (["empty"], "No training crystal carries the label 'empty'"),
        (["colour"], "no label 'colour'"),
        (["band_gap:tensor"], "scalar, log, category or elements"),
        (["band_gap", "dft_band_gap"], "given twice"),
        ([], "needs a property"),
        (["band_gap:elements"], "set of elements"),
    ):
        with pytest.raises(InputError, match=sentence):
            tune(untrained, labelled, tmp_path / "run", properties)
        assert not (tmp_path / "run").exists()


def test_few_labels_are_warned_about(untrained, labelled, tmp_path, capsys) -> None:
    tune(untrained, labelled, tmp_path / "run", ["band_gap"], "limits.max_epochs=1")
    assert "only 16 training crystals carry band_gap" in capsys.readouterr().err
    # What the base follows already, few labels do not teach anew.
    tune(tmp_path / "run" / "last", labelled, tmp_path / "further", ["band_gap"], "limits.max_epochs=1")
    assert "training crystals carry" not in capsys.readouterr().err


def test_impossible_labels_are_excluded_by_rule(labelled) -> None:
    data = Labelled(CrystalDataset.open(labelled), {"bulk_modulus": ""})
    coverage = data.coverage["bulk_modulus"]
    assert coverage.excluded == 2
    assert coverage.max is not None
    assert coverage.max < 301
    assert "2 labels excluded" in coverage.sentence()
    values, count = exclude(np.array([4e9, np.inf, np.nan, *np.linspace(1, 3, 400)]), "hardness", "scalar")
    assert count == 2
    assert np.isnan(values[:3]).all()
    assert not np.isnan(values[3:]).any()
    assert exclude(np.array([1.0, 2.5, 231.0]), "space_group", "category")[1] == 2


def test_dropout_hides_each_or_all() -> None:
    asked = {
        "a": torch.ones(4000),
        "b": torch.where(torch.arange(4000) % 2 == 0, 1.0, math.nan),
        "c": torch.ones(4000, 101),
    }
    uniforms = [torch.rand(4000, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    apart = drop(asked, uniforms, 0.2, "independent")
    hidden = [torch.isnan(apart["a"]), apart["c"].sum(-1) == 0]
    for one in hidden:
        assert abs(float(one.double().mean()) - 0.2) < 0.03
    assert abs(float((hidden[0] & hidden[1]).double().mean()) - 0.04) < 0.02
    together = drop(asked, uniforms, 0.2, "joint")
    gone = torch.isnan(together["a"])
    assert torch.equal(gone, torch.isnan(together["b"]))
    assert torch.equal(gone, together["c"].sum(-1) == 0)
    assert abs(float(gone.double().mean()) - 0.6) < 0.03


def test_dropout_by_subsets_shows_every_subset_and_none() -> None:
    asked = {"a": torch.ones(4000), "b": torch.ones(4000), "c": torch.ones(4000, 101)}
    uniforms = [torch.rand(4000, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    seen = drop(asked, uniforms, 0.2, "subsets")
    shown = torch.stack([~torch.isnan(seen["a"]), ~torch.isnan(seen["b"]), seen["c"].sum(-1) > 0])
    shares = torch.bincount((shown * torch.tensor([[1], [2], [4]])).sum(0), minlength=8) / 4000
    assert abs(float(shares[0]) - 0.3) < 0.03  # 0.2 + 0.8 / 8
    assert (shares[1:] - 0.1).abs().max() < 0.02


def test_labels_travel_with_their_crystals(labelled) -> None:
    data = Labelled(CrystalDataset.open(labelled), {"band_gap": "", "chemical_system": ""})
    rows = data.rows("train")
    from crystalsmith.training.config import DataSettings

    for on_device in (False, True):
        source = StepSource(data, rows, DataSettings(batch_size=8, micro_batch_size=3, on_device=on_device), 0)
        for one in source.step(1).passes:
            gap = np.load(labelled / "labels" / "band_gap.npy")[one.rows.numpy()]
            assert np.array_equal(one.conditions["band_gap"].numpy(), gap, equal_nan=True)
            for k, (_, _, numbers) in enumerate(one.crystals.crystals()):
                assert set(np.flatnonzero(one.conditions["chemical_system"][k].numpy())) == set(numbers.tolist())


def test_computed_properties_of_known_crystals() -> None:
    rock_salt = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    primitive = 5.64 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    batch = CrystalBatch.from_arrays([(rock_salt, primitive, [11, 17])])
    assert compute("density", batch)[0] == pytest.approx(2.165, abs=0.01)  # halite, 2.16 g/cm3
    assert compute("space_group", batch).tolist() == [225]
    assert compute("num_elements", batch).tolist() == [2]
    from pymatgen.analysis.hhi import HHIModel

    production, reserve = HHIModel().get_hhi("NaCl")
    assert compute("hhi_production", batch)[0] == pytest.approx(production, rel=1e-3)
    assert compute("hhi_reserve", batch)[0] == pytest.approx(reserve, rel=1e-3)
    assert compute("hhi_score", batch)[0] == pytest.approx((production + reserve) / 2, rel=1e-3)


def test_names_and_kinds_are_inferred() -> None:
    assert parse_properties(["dft_bulk_modulus", "hardness", "colour:category", "chemsys"]) == {
        "bulk_modulus": "log",
        "hardness": "",
        "colour": "category",
        "chemical_system": "elements",
    }


def test_training_from_scratch_takes_conditions_in_the_base(labelled, tmp_path, small_recipe) -> None:
    from crystalsmith.training.config import Recipe
    from crystalsmith.training.run import train

    recipe = Recipe.from_dict(small_recipe | {"conditions": {"properties": {"band_gap": "", "num_elements": ""}}})
    train(labelled, tmp_path / "run", recipe, quiet=True)
    model = load_model(tmp_path / "run" / "last")
    assert {c.name: c.place for c in model.network.config.conditions} == {"band_gap": "base", "num_elements": "base"}
    assert model.metadata.properties["num_elements"]["max"] <= 4


def test_structure_prediction_trains_and_needs_a_formula(dataset_folder, tmp_path, small_recipe) -> None:
    from crystalsmith.generation.loaded import load
    from crystalsmith.training.config import Recipe
    from crystalsmith.training.run import train

    recipe = Recipe.from_dict(small_recipe | {"process": {"constants": "data", "task": "csp"}})
    train(dataset_folder, tmp_path / "run", recipe, quiet=True)
    loaded = load(tmp_path / "run" / "last", device="cpu", precision="float32")
    with pytest.raises(InputError, match="give formula"):
        loaded.generate(2, steps=2)
    made = loaded.generate(4, steps=2, formula="Li2O", formula_units="1-2", solver="ancestral")
    assert [s.composition.formula for s in made] == ["Li2 O1", "Li4 O2"] * 2


def test_structure_prediction_begins_as_a_model_that_generates(untrained, dataset_folder, tmp_path, make_batch) -> None:
    from crystalsmith.training.config import Recipe
    from crystalsmith.training.run import train

    settings = {"base": str(untrained), "process": {"task": "csp", "constants": "data"}, "data": {"num_workers": 0}}
    settings |= {"hardware": {"accelerator": "cpu"}, "limits": {"max_steps": 1}, "optimizer": {"lr": 1e-20}}
    train(dataset_folder, tmp_path / "run", Recipe.from_dict(settings), quiet=True)
    model, base = load_model(tmp_path / "run" / "last"), load_model(untrained)
    assert (model.process.config.task, base.process.config.task) == ("csp", "generate")
    assert "predicts structures" in (tmp_path / "run" / "last" / "card.md").read_text()
    batch = make_batch([3, 5], dtype=torch.float32)
    for new, old in zip(outputs(model, batch), outputs(base, batch), strict=True):
        assert torch.equal(new, old)
    for wrong, sentence in (
        ({"process": {"task": "sleep"}}, "use generate or csp"),
        ({"process": {"sigma_max": 3.0}}, "its own process.sigma_max"),
        ({"model": {"preset": "tiny"}}, "its own model.preset"),
    ):
        with pytest.raises(InputError, match=sentence):
            train(dataset_folder, tmp_path / "wrong", Recipe.from_dict(settings | wrong), quiet=True)
    assert not (tmp_path / "wrong").exists()


def test_energy_above_hull_is_computed_from_a_reference(untrained, labelled, tmp_path) -> None:
    """On a hull of the elements alone, at zero, the energy above it is the formation energy."""
    from crystalsmith.evaluation.reference.build import build_reference

    table, zeros = tmp_path / "hull.csv", tmp_path / "zeros.json"
    table.write_text("composition,formation_energy_per_atom\nLi,0\nO,0\nSi,0\nFe,0\n")
    zeros.write_text(json.dumps(dict.fromkeys(["Li", "O", "Si", "Fe"], 0.0)))
    build_reference([], tmp_path / "ref", hull=table, corrections="none", elemental_energies=zeros)
    with pytest.raises(InputError, match="no label 'formation_energy_per_atom'"):
        tune(untrained, labelled, tmp_path / "no", ["energy_above_hull"], reference=tmp_path / "ref")
    energies = np.linspace(-2, 1, 34).astype(np.float32)
    energies[::3] = np.nan
    np.save(labelled / "labels" / "formation_energy_per_atom.npy", energies)
    manifest = json.loads((labelled / "manifest.json").read_text())
    manifest["labels"]["formation_energy_per_atom"] = {}
    (labelled / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="give --property energy_above_hull"):
        tune(untrained, labelled, tmp_path / "no", ["band_gap"], reference=tmp_path / "ref")
    tune(untrained, labelled, tmp_path / "run", ["energy_above_hull"], reference=tmp_path / "ref")
    facts = load_model(tmp_path / "run" / "last").metadata.properties["energy_above_hull"]
    assert (facts["source"], facts["count"]) == ("computed", 16)
    assert facts["min"] == pytest.approx(np.nanmin(energies[:24]))
    assert facts["mean"] == pytest.approx(np.nanmean(energies[:24]))


def test_batches_suit_the_size_of_the_data(untrained, labelled) -> None:
    from crystalsmith.training.finetune import batch_for

    assert [batch_for(n) for n in (10, 225, 2_000, 24_549, 600_000)] == [8, 8, 64, 512, 512]
    for n in range(128, 20_000, 37):
        assert n / batch_for(n) >= 16  # steps an epoch
    recipe = finetune_recipe(untrained, labelled, "new", {"band_gap": "scalar"}, False, "independent", [])
    assert recipe.data.batch_size == 8
    asked = finetune_recipe(
        untrained, labelled, "new", {"band_gap": "scalar"}, False, "independent", ["data.batch_size=32"]
    )
    assert asked.data.batch_size == 32


def test_few_updates_are_warned_of(untrained, labelled, tmp_path, capsys) -> None:
    assert tune(untrained, labelled, tmp_path / "run", ["band_gap"]).step == 6
    assert "6 updates are few" in capsys.readouterr().err
