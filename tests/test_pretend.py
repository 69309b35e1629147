"""What a GPU would do that the CPU does not notice: tensors of two devices never meet, and the host seldom waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import random_batch
from tests.pretend import APPLE, DEVICE, Lacking, Mixed, Pretended, Watch, pretending
from torch import Tensor

import crystalsmith
from crystalsmith.crystals import CrystalBatch
from crystalsmith.generation.making import make_request
from crystalsmith.generation.sampler import sample_batch
from crystalsmith.generation.steering import Steering

STEPS = 4
PER_EVALUATION = 8
"""Waits of one evaluation, all of them in ``neighbors.py``: docs/speed.md names them."""

PER_BATCH = 14
"""Waits of a batch besides: its prior, its symmetry, and the crystals that go back to the host."""

REQUESTS: dict[str, dict[str, Any]] = {
    "freely": {"space_group": "free"},
    "within space groups": {"space_group": "any"},
    "with targets": {"properties": {"band_gap": 1.0, "chemical_system": "Li-O"}, "space_group": "free"},
}


def crystals(model: Any, steering: dict[str, Any], device: torch.device) -> CrystalBatch:
    """Four crystals in few steps by a denoiser that counts its evaluations."""
    solver = "predictor_corrector"
    request = make_request(model, num=4, steps=STEPS, solver=solver, steering=Steering(**steering))
    return sample_batch(model, request.sampling, request.plans(range(4)), device)


def seldom(watch: Watch, evaluations: int) -> None:
    """Complain if the host waited more often than is known."""
    here = sum(count for line, count in watch.waits.items() if "neighbors.py" in line)
    other = sum(watch.waits.values()) - here
    assert here <= PER_EVALUATION * evaluations, watch.waits
    assert other <= PER_BATCH, watch.waits


@pytest.mark.parametrize("name", REQUESTS)
def test_generation(name: str, conditional: Path) -> None:
    model = crystalsmith.load(conditional, device="cpu", precision="float32").model
    on_cpu = crystals(model, REQUESTS[name], torch.device("cpu"))
    with pretending() as watch:
        model.network.to(DEVICE)
        on_device = crystals(model, REQUESTS[name], DEVICE)
    for field in ("frac_coords", "cell", "atomic_numbers", "num_atoms"):
        found = getattr(on_device, field)
        assert not isinstance(found, Pretended)  # finished crystals are on the host
        assert torch.equal(found, getattr(on_cpu, field))
    assert watch.calls > 100
    seldom(watch, 2 * STEPS)


RULES: dict[str, dict[str, Any]] = REQUESTS | {
    "a formula": {"formula": "LiCoO2"},
    "elements": {"chemical_system": "Li-Fe-O", "require_all": True, "space_group": "free"},
    "guided": {"properties": {"band_gap": 1.0}, "guidance": 2.0, "space_group": "free"},
}


@pytest.mark.parametrize("name", RULES)
def test_generation_on_a_device_without_float64(name: str, conditional: Path) -> None:
    """On Apple's device the network runs in float32; all else stays on the host, where float64 is."""
    model = crystalsmith.load(conditional, device="cpu", precision="float32").model
    on_cpu = crystals(model, RULES[name], torch.device("cpu"))
    with pretending(APPLE) as watch:
        model.network.to(APPLE)
        on_device = crystals(model, RULES[name], APPLE)
    for field in ("frac_coords", "cell", "atomic_numbers", "num_atoms"):
        assert torch.equal(getattr(on_device, field), getattr(on_cpu, field))
    assert watch.calls > 100
    assert not any("float64" in line for line in watch.waits)


@pytest.mark.parametrize("name", ["context", "transformer"])
def test_other_networks_on_a_device_without_float64(name: str) -> None:
    from crystalsmith.network.hosted import HostedDenoiser
    from crystalsmith.network.registry import PRESETS, build_network

    torch.manual_seed(0)
    network = build_network(PRESETS["tiny" if name == "context" else "transformer-tiny"]).eval()
    batch, t = random_batch([3, 5, 4], dtype=torch.float32), torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        expected = network(batch, t, None)
        with pretending(APPLE) as watch:
            network.to(APPLE)
            found = HostedDenoiser(network, APPLE)(batch, t)
    assert watch.calls > 100
    for field in ("frac_coords", "cell", "species_logits"):
        assert not isinstance(getattr(found, field), Pretended)
        assert torch.equal(getattr(found, field), getattr(expected, field))


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="this is no Apple silicon")
def test_the_network_on_a_real_device_of_apple() -> None:
    """One evaluation is that of the CPU up to the rounding of float32."""
    from crystalsmith.generation.sampler import denoiser_on

    model = crystalsmith.load("mp20-tiny", device="cpu", precision="float32").model
    batch, t = random_batch([3, 5, 4], dtype=torch.float32), torch.tensor([0.2, 0.5, 0.9])
    device = torch.device("mps")
    with torch.no_grad():
        expected = model.denoiser(batch, t, None)
        model.network.to(device)
        found = denoiser_on(model, device)(batch, t, None)
    for field in ("frac_coords", "cell", "species_logits"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-3, atol=1e-3)


def test_the_pretended_device_of_apple_refuses_float64() -> None:
    with pretending(APPLE):
        here = torch.ones(3, device="mps")
        assert here.device == APPLE
        assert not here.is_cuda
        for wide in (here.double, lambda: torch.zeros(2, dtype=torch.float64, device="mps")):
            with pytest.raises(Lacking):
                wide()
        assert here.cpu().double().dtype == torch.float64


def test_what_does_not_run_on_apple_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalsmith.errors import InputError
    from crystalsmith.generation.device import choose_device, choose_precision

    with pytest.raises(InputError, match="only generate runs there"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="not on this machine"):
        choose_device("mps", apple=True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    place = choose_device("mps", apple=True)
    assert choose_device("auto").type != "mps"
    assert choose_precision("auto", place) == "float32"
    with pytest.raises(InputError, match="bf16 does not run on mps"):
        choose_precision("bf16", place)


def test_a_training_step(untrained: Path) -> None:
    from crystalsmith.diffusion.noise import CrystalNoise

    model = crystalsmith.load(untrained, device="cpu", precision="float32").model
    batch, t = random_batch([3, 5, 4], dtype=torch.float32), torch.tensor([0.2, 0.5, 0.9])

    def step(batch: CrystalBatch, t: Tensor, device: torch.device) -> Tensor:
        draw = CrystalNoise(0, torch.arange(3).to(device), batch.num_atoms).at(0, 0)
        noisy = model.process.corrupt(batch, t, draw)
        return model.process.loss(model.denoiser(noisy, t, None), batch, noisy, t).total.mean()

    expected = step(batch, t, torch.device("cpu"))
    expected.backward()
    gradients = [p.grad.clone() for p in model.network.parameters() if p.grad is not None]
    model.network.zero_grad(set_to_none=True)
    with pretending() as watch:
        model.network.to(DEVICE)
        found = step(batch.to(DEVICE), t.to(DEVICE), DEVICE)
        assert isinstance(found, Pretended)
        seldom(watch, 1)
        found.backward()
    assert torch.equal(found.as_subclass(Tensor), expected)
    for parameter, gradient in zip(
        (p for p in model.network.parameters() if p.grad is not None), gradients, strict=True
    ):
        assert torch.equal(parameter.grad.as_subclass(Tensor), gradient)  # type: ignore[union-attr]


def test_a_predictor() -> None:
    """Its neighbours, and the numbers that come back, are all that the host waits for."""
    from tests.evaluation.conftest import CRYSTALS

    from crystalsmith.checkpoints.predictor import load_predictor

    predictor = load_predictor("energy-above-hull")
    asked = [(frac, cell, np.array(numbers)) for frac, cell, numbers in (CRYSTALS[name] for name in ("nacl", "cscl"))]
    expected = predictor(asked)
    with pretending() as watch:
        predictor.network.to(DEVICE)
        found = predictor(asked)
    assert found == expected
    assert watch.calls > 100
    here = sum(count for line, count in watch.waits.items() if "neighbors.py" in line)
    assert 0 < here <= PER_EVALUATION, watch.waits
    assert sum(watch.waits.values()) - here <= 2, watch.waits


PER_STEP = 6
"""Waits of one step of relaxing a batch, beside those of the potential's neighbours."""


def test_relaxation_in_batches() -> None:
    from tests.evaluation.lennard_jones import LennardJones
    from tests.evaluation.test_batch_relaxation import SETTINGS, crystal, relaxed

    crystals = [crystal(k, 1 + k % 3) for k in range(4)]
    expected = relaxed(crystals)
    potential = LennardJones()
    with pretending() as watch:
        potential.device = DEVICE
        found = relaxed(crystals, SETTINGS, potential)
    for name, alone in expected.items():
        assert (found[name].failure, found[name].steps, found[name].energy) == ("", alone.steps, alone.energy)
        assert not isinstance(found[name].energy, Pretended)
    evaluations = len(potential.sizes)
    here = sum(count for line, count in watch.waits.items() if "neighbors.py" in line)
    assert 0 < here <= PER_EVALUATION * evaluations
    assert sum(watch.waits.values()) - here <= PER_STEP * evaluations, watch.waits


def test_the_bench(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalsmith.bench.network import network_speed

    class OnHost(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> OnHost:
            return super().__new__(cls)

    monkeypatch.setattr(torch, "Generator", OnHost)
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)

    model = crystalsmith.load(untrained, device="cpu", precision="float32").model
    rates = {"product_gflops_float32": 50.0, "bandwidth_gb_per_s": 20.0}
    on_cpu = network_speed(model, 2, "float32", torch.device("cpu"), rates, 1, True)
    with pretending() as watch:
        model.network.to(DEVICE)
        on_device = network_speed(model, 2, "float32", DEVICE, rates, 1, True)
    assert watch.calls > 100
    assert on_device["edges"] == on_cpu["edges"]
    assert on_device["forward"]["gflop"] == on_cpu["forward"]["gflop"]


def test_the_watch_sees_what_it_must() -> None:
    cpu = torch.arange(3.0)
    with pretending() as watch:
        here = cpu.to("cuda")
        assert here.device == DEVICE
        assert isinstance(here * 2.0, Pretended)
        assert isinstance(torch.zeros(2, device="cuda"), Pretended)
        assert (here * torch.tensor(2.0)).device == DEVICE  # a scalar may come from the host
        for mixed in (lambda: here + cpu, lambda: torch.cat([here, cpu]), lambda: cpu[here.long()]):
            with pytest.raises(Mixed):
                mixed()
        assert isinstance(here[torch.tensor([0, 2])], Pretended)
        before = sum(watch.waits.values())
        here.sum().item()
        here[here > 1]
        here.nonzero()
        here.cpu()
        bool(here.any())
        int(here.sum())
        torch.repeat_interleave(here, here.long())
        assert sum(watch.waits.values()) - before == 7
        torch.repeat_interleave(here, here.long(), output_size=3)
        here.square().sum().sqrt()
        assert sum(watch.waits.values()) - before == 7
    assert not isinstance(cpu + 1, Pretended)
