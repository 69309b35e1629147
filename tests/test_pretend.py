"""What a GPU would do that the CPU does not notice: tensors of two devices never meet, and the host seldom waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import random_batch
from tests.pretend import DEVICE, Mixed, Pretended, Watch, pretending
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
