"""Import of published checkpoints: everything comes over, counts are exact, and a round trip loses nothing."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.published.export import export_model
from crystalsmith.checkpoints.published.layout import count_parameters, published_layout
from crystalsmith.checkpoints.published.mattergen import import_model
from crystalsmith.checkpoints.published.names import PREFIX
from crystalsmith.elements import ALLOWED
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig
from crystalsmith.network.gemnet import GemNetConfig

MAG = ConditionConfig("dft_mag_density")
SYSTEM = ConditionConfig("chemical_system", "elements")
GROUP = ConditionConfig("space_group", "category")
HULL = ConditionConfig("energy_above_hull")
BULK = ConditionConfig("ml_bulk_modulus", "log")
HHI = ConditionConfig("hhi_score")
GAP = ConditionConfig("dft_band_gap")
BASE_GAP = ConditionConfig("dft_band_gap", place="base")

RELEASED = {
    "mattergen_base": ((), 44_562_043),
    "mp_20_base": ((), 44_562_043),
    "chemical_system": ((SYSTEM,), 48_812_667),
    "space_group": ((GROUP,), 48_878_203),
    "dft_mag_density": ((MAG,), 48_760_443),
    "dft_band_gap": ((GAP,), 48_760_443),
    "ml_bulk_modulus": ((BULK,), 48_760_443),
    "dft_mag_density_hhi_score": ((MAG, HHI), 52_958_843),
    "chemical_system_energy_above_hull": ((SYSTEM, HULL), 53_011_067),
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameter_counts_of_the_released_models(name):
    conditions, total = RELEASED[name]
    layout = published_layout(DenoiserConfig(GemNetConfig(), conditions))
    assert count_parameters(layout.values()) == (total, total - 9_218_560)


@pytest.mark.parametrize(
    "name", ["base", "chemical_system", "space_group", "dft_mag_density", "chemical_system_energy_above_hull"]
)
def test_layout_of_the_released_models(name, shared):
    listed = json.loads(shared(f"spec/state_dict_{name}.json").read_text())
    conditions, _ = RELEASED.get(name, RELEASED["mattergen_base"])
    layout = published_layout(DenoiserConfig(GemNetConfig(), conditions))
    assert [PREFIX + tensor for tensor in layout] == list(listed)
    for tensor in layout.values():
        entry = listed[PREFIX + tensor.name]
        assert tuple(entry["shape"]) == tensor.shape
        assert (entry["kind"] == "buffer") == (tensor.role == "buffer")
        trained = {"parameter": True, "energy": True, "scale": False, "energy_scale": False}
        assert entry["requires_grad"] == trained.get(tensor.role)


@pytest.mark.parametrize("name", ["base", "dft_mag_density", "chemical_system", "space_group"])
def test_every_tensor_of_ours_has_a_published_one(name):
    from crystalsmith.checkpoints.published.mattergen import our_names
    from crystalsmith.network.denoiser import GemNetDenoiser

    config = DenoiserConfig(GemNetConfig(), RELEASED.get(name, RELEASED["mattergen_base"])[0])
    layout = published_layout(config)
    with torch.device("meta"):
        network = GemNetDenoiser(config)
    names = our_names(config, network)
    assert len(set(names.values())) == len(names)
    for ours, tensor in network.state_dict().items():
        assert layout[names[ours]].shape == tuple(tensor.shape)
    left = [t for n, t in layout.items() if n not in set(names.values())]
    assert {t.role for t in left if t.copy_of is None} == {"energy", "energy_scale"}


@pytest.mark.parametrize(
    "conditions",
    [(), (MAG,), (SYSTEM,), (GROUP,), (BULK,), (MAG, HHI), (SYSTEM, HULL), (BASE_GAP,), (BASE_GAP, GROUP, SYSTEM)],
    ids=lambda c: "+".join(x.name for x in c) or "base",
)
def test_round_trip_keeps_every_bit(conditions, tmp_path, make_checkpoint, make_folder):
    config, content = make_checkpoint(*conditions)
    source = make_folder(tmp_path / "a", config, content)
    report = import_model(source, tmp_path / "b", name="mine")
    assert set(report.conditions) == {c.name for c in conditions}
    assert export_model(tmp_path / "b", tmp_path / "c")["energy_heads"] == "original"
    again = torch.load(tmp_path / "c" / "checkpoints" / "last.ckpt", weights_only=True)
    assert list(again["state_dict"]) == list(content["state_dict"])
    for name, tensor in content["state_dict"].items():
        assert torch.equal(again["state_dict"][name], tensor), name
    assert again["epoch"] == 3
    assert yaml.safe_load((tmp_path / "c" / "config.yaml").read_text()) == config
    import_model(tmp_path / "c", tmp_path / "d")
    kinds = {c.name: (c.kind, c.place) for c in load_model(tmp_path / "d").network.config.conditions}
    assert kinds == {c.name: (c.kind, c.place) for c in conditions}


def test_what_an_imported_model_says(published_folder, tmp_path):
    report = import_model(published_folder, tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.metadata.name == "published"
    assert set(model.metadata.elements) == ALLOWED
    assert sum(model.metadata.num_atoms_histogram.values()) == pytest.approx(1)
    assert model.metadata.sampling["solver"] == "predictor_corrector"
    state = torch.load(published_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    scaler = f"{PREFIX}property_embeddings_adapt.dft_mag_density.scaler"
    entry = report.conditions["dft_mag_density"]
    assert entry["mean"] == pytest.approx(float(state[f"{scaler}.means"]))
    assert entry["std"] == pytest.approx(float(state[f"{scaler}.stds"]))
    assert (report.cutoff, report.max_neighbors, report.edge_rule) == (7.0, 50, "published")
    assert report.origin["checkpoint"] == "last.ckpt"
    assert f"{report.parameters:,}" in (tmp_path / "out" / "card.md").read_text()


def test_scale_factors_come_from_the_file(published_folder, tmp_path):
    import_model(published_folder, tmp_path / "out")
    state = torch.load(published_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    block = load_model(tmp_path / "out").network.state_dict()
    theirs = state[f"{PREFIX}gemnet.int_blocks.0.trip_interaction.scale_rbf.scale_factor"]
    assert torch.equal(block["blocks.0.triplets.scale_rbf"], theirs)
    assert float(theirs) < 2  # the table of the published code says 18.9


def test_best_checkpoint_and_training_runs(tmp_path, make_checkpoint, make_folder):
    config, content = make_checkpoint()
    run = tmp_path / "run" / "lightning_logs" / "version_0"
    make_folder(run, config, content)
    for epoch, loss in ((1, "0.50"), (2, "0.45"), (3, "0.61")):
        make_folder(run, config, {**content, "epoch": epoch}, f"epoch={epoch}-loss_val={loss}.ckpt")
    assert import_model(tmp_path / "run", tmp_path / "last").origin["epoch"] == 3
    best = import_model(run, tmp_path / "best", checkpoint="best")
    assert best.origin["epoch"] == 2
    make_folder(tmp_path / "run" / "lightning_logs" / "version_1", config, content)
    with pytest.raises(InputError, match="several training runs"):
        import_model(tmp_path / "run", tmp_path / "other")


def test_models_of_ours_that_the_published_code_cannot_express(tmp_path):
    from crystalsmith.checkpoints.model import Model
    from crystalsmith.checkpoints.store import save_model
    from crystalsmith.diffusion.process import Process, ProcessConfig
    from crystalsmith.network.denoiser import GemNetDenoiser

    config = DenoiserConfig(GemNetConfig(width=16, num_blocks=1, num_radial=16))
    save_model(Model(GemNetDenoiser(config), Process(ProcessConfig())), tmp_path / "ours")
    with pytest.raises(InputError, match="edges follow our rule"):
        export_model(tmp_path / "ours", tmp_path / "out")


def test_a_model_without_energy_heads_exports_zeros(tmp_path, make_checkpoint, make_folder):
    import_model(make_folder(tmp_path / "a", *make_checkpoint()), tmp_path / "b")
    (tmp_path / "b" / "published_extra.safetensors").unlink()
    assert export_model(tmp_path / "b", tmp_path / "c")["energy_heads"] == "zero"
    state = torch.load(tmp_path / "c" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not state[f"{PREFIX}gemnet.out_blocks.0.seq_energy.0.linear.weight"].any()
    import_model(tmp_path / "c", tmp_path / "d")


def test_a_chemical_system_keeps_crystals_inside(make_batch):
    """Elements outside of the conditioned system cannot come out, those inside and other crystals are left alone."""
    from crystalsmith.contracts import Scores
    from crystalsmith.diffusion.guidance import allow_elements, follow_chemical_system

    def flat(batch, t, conditions=None):
        return Scores(batch.frac_coords, batch.cell, torch.zeros(len(batch.frac_coords), 101))

    batch = make_batch([2, 3])
    wanted = torch.zeros(2, 101)
    wanted[0, [3, 8]] = 1  # Li-O for the first crystal, nothing for the second
    denoiser = follow_chemical_system(allow_elements(flat, ALLOWED))
    logits = denoiser(batch, torch.ones(2), {"chemical_system": wanted}).species_logits
    possible = [set((row > -1e9).nonzero().view(-1).add(1).tolist()) for row in logits]
    assert possible == [{3, 8}] * 2 + [set(ALLOWED)] * 3
