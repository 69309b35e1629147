"""Forward pass and training step of a network, beside the matrix-product rate of the machine in the same run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from crystalsmith.bench.measure import (
    bandwidth,
    count_work,
    median_seconds,
    peak_memory,
    product_rate,
    reset_peak,
    wall_and_processor,
)
from crystalsmith.checkpoints.model import Model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import GlobalNoise
from crystalsmith.neighbors import build_edges
from crystalsmith.network.transformer import TransformerDenoiser

SIZES = (6, 8, 10, 12, 12, 14, 4, 16, 20, 10, 8, 12, 9, 11, 8, 10)
"""Atoms of the 16 crystals: 10.6 on average, as in the published figures."""


def crystals(count: int) -> CrystalBatch:
    """Random crystals at the usual density of 17.3 cubic angstrom per atom."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        n = SIZES[index % len(SIZES)]
        cell = (17.3 * n) ** (1 / 3) * (torch.eye(3) + 0.1 * torch.randn(3, 3, generator=generator))
        rows.append((torch.rand(n, 3, generator=generator), cell, torch.randint(1, 84, (n,), generator=generator)))
    return CrystalBatch.from_arrays(rows)


def machine(width: int, rows: int, device: torch.device) -> dict[str, Any]:
    """What the machine can do: rates of products of the network's shape, and the bandwidth of its memory."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "product_shape": [rows, width, width],
        "product_gflops_float32": product_rate(width, rows, torch.float32, device) / 1e9,
        "product_gflops_bf16": product_rate(width, rows, torch.bfloat16, device) / 1e9,
        "bandwidth_gb_per_s": bandwidth(device) / 1e9,
    }


def network_speed(
    model: Model,
    batch_size: int,
    precision: str,
    device: torch.device,
    rates: dict[str, Any],
    repeats: int,
    train: bool,
) -> dict[str, Any]:
    """Seconds, work, memory and distance from the floor of one forward pass and one training step.

    Args:
        model: on ``device``; a training step changes its weights.
        batch_size: crystals.
        precision: ``float32`` or ``bf16``.
        rates: of :func:`machine`.
        repeats: of each measurement.
        train: measure the training step too.
    """
    network, process = model.network, model.process
    batch = crystals(batch_size).to(device)
    t = torch.linspace(0.05, 1.0, batch_size, device=device)
    generator = torch.Generator(device=device).manual_seed(0)

    def mixed() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def forward() -> Any:
        with torch.no_grad(), mixed():
            return network(batch, t)

    def step() -> None:
        noisy = process.corrupt(batch, t, GlobalNoise(generator, batch.num_atoms).at(0, 0))
        with mixed():
            scores = network(noisy, t)
        process.loss(scores, batch, noisy, t).total.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def neighbours() -> int:
        """Find the edges or pairs of the batch and count them."""
        if isinstance(network, TransformerDenoiser):
            return len(network.pairs(batch).target)
        gemnet = network.config.gemnet
        edges = build_edges(batch, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule, gemnet.max_images)
        return edges.num_edges

    result: dict[str, Any] = {"crystals": batch_size, "atoms": len(batch.frac_coords), "precision": precision}
    result |= {"edges": neighbours(), "neighbours_s": median_seconds(neighbours, repeats, device)}
    rate, bytes_per_s = rates[f"product_gflops_{precision}"] * 1e9, rates["bandwidth_gb_per_s"] * 1e9
    result["forward"] = _timed(forward, repeats, device, rate, bytes_per_s, batch_size)
    if train:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        result["train"] = _timed(step, repeats, device, rate, bytes_per_s, batch_size)
    return result


def _timed(
    function: Callable[[], Any], repeats: int, device: torch.device, rate: float, bytes_per_s: float, batch_size: int
) -> dict[str, float]:
    reset_peak(device)
    operations, touched = count_work(function)
    seconds, processor = wall_and_processor(function, repeats, device)
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "gflop": operations / 1e9,
        "products_s": operations / rate,
        "share_of_floor": operations / rate / seconds,
        "other_gb": touched / 1e9,
        "other_s": touched / bytes_per_s,
        "crystals_per_second": batch_size / seconds,
        "peak_memory_gb": peak_memory(device) / 1e9,
    }


def _processor() -> str:
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
