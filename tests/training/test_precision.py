"""Law of mixed precision: training with bf16 products follows the float32 loss curve."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalsmith.bench.network import crystals
from crystalsmith.diffusion.noise import GlobalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

STEPS = 60
SMALL = GemNetConfig(
    width=32,
    num_blocks=1,
    cutoff=5.0,
    max_neighbors=8,
    num_radial=16,
    num_spherical=3,
    width_triplet=8,
    width_bilinear=8,
    width_rbf=8,
    width_cbf=4,
    head_residuals=1,
    crystal_context=True,
)


def loss_curve(bf16: bool) -> Tensor:
    """``(STEPS,)`` losses of a run whose weights, crystals, times and noise do not depend on the precision."""
    torch.manual_seed(0)
    network, process = GemNetDenoiser(DenoiserConfig(SMALL)), Process(ProcessConfig())
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batch = crystals(8)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        t = (torch.randperm(8, generator=generator) + 0.5) / 8
        noisy = process.corrupt(batch, t, GlobalNoise(generator, batch.num_atoms).at(0, 0))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = network(noisy, t)
        loss = process.loss(scores, batch, noisy, t).total.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_bf16_training_follows_the_float32_curve():
    single, mixed = loss_curve(False), loss_curve(True)
    learned = single[:10].mean() - single[-10:].mean()
    assert learned > 0.1 * single[:10].mean()  # otherwise agreement would say nothing
    assert not torch.equal(single, mixed)
    difference = (single.view(-1, 10).mean(1) - mixed.view(-1, 10).mean(1)).abs()
    assert difference.max() < 0.1 * learned
