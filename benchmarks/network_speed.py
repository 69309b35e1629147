"""Forward pass and training step of a network, beside the matrix-product rate of the machine measured in the same run.

    python benchmarks/network_speed.py --model base --precision float32
    python benchmarks/network_speed.py --model base --precision bf16 --edge-rule published

Prints medians over repeats, the floating-point operations counted by torch's FLOP counter, the machine's own rate for
matrix products of the network's shape in the same precision, the ratio of the two, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.noise import GlobalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.denoiser import PRESETS, DenoiserConfig, GemNetDenoiser

SIZES = (6, 8, 10, 12, 12, 14, 4, 16, 20, 10, 8, 12, 9, 11, 8, 10)
"""Atoms of the 16 crystals: 10.6 on average, as in the published figures."""

PUBLISHED = {"forward": (3.6, 4.4), "train": (9.3, 14.0), "memory_forward": 1.75, "memory_train": 10.3}
"""Seconds and GB of the published code on 2 CPU cores, float32, 16 crystals of 10.6 atoms, full size."""


def crystals(count: int) -> CrystalBatch:
    """Random crystals at the usual density of 17.3 cubic angstrom per atom."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        n = SIZES[index % len(SIZES)]
        cell = (17.3 * n) ** (1 / 3) * (torch.eye(3) + 0.1 * torch.randn(3, 3, generator=generator))
        rows.append((torch.rand(n, 3, generator=generator), cell, torch.randint(1, 84, (n,), generator=generator)))
    return CrystalBatch.from_arrays(rows)


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median wall time of ``function`` after one warm-up call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def product_rate(width: int, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of (rows, width) x (width, width)."""
    a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, width, device=device).to(dtype)
    seconds = median_seconds(lambda: [a @ b for _ in range(20)], 7, device) / 20
    return 2.0 * rows * width * width / seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model and precision."""
    device = torch.device(args.device)
    config = PRESETS[args.model]
    if args.edge_rule:
        config = DenoiserConfig(dataclasses.replace(config.gemnet, edge_rule=args.edge_rule))
    torch.manual_seed(0)
    network = GemNetDenoiser(config).to(device)
    batch = crystals(args.crystals).to(device)
    t = torch.linspace(0.05, 1.0, args.crystals, device=device)
    process = Process(ProcessConfig())
    generator = torch.Generator(device=device).manual_seed(0)
    bf16 = args.precision == "bf16"
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def forward() -> Any:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network(batch, t)

    def train() -> None:
        noisy = process.corrupt(batch, t, GlobalNoise(generator, batch.num_atoms).at(0, 0))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            scores = network(noisy, t)
        process.loss(scores, batch, noisy, t).total.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    result: dict[str, Any] = {"model": args.model, "precision": args.precision, "crystals": args.crystals}
    result |= {"atoms": len(batch.frac_coords), "threads": torch.get_num_threads(), "torch": torch.__version__}
    gemnet = config.gemnet
    from crystalsmith.neighbors import build_edges

    edges = build_edges(batch, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule)
    result |= {"edges": edges.num_edges, "edge_rule": gemnet.edge_rule}
    dtype = torch.bfloat16 if bf16 else torch.float32
    result["product_gflops"] = product_rate(gemnet.width, edges.num_edges, dtype, device) / 1e9
    for name, function in (
        (("forward", forward), ("train", train)) if not args.forward_only else (("forward", forward),)
    ):
        with FlopCounterMode(display=False) as counter:
            function()
        gflop = counter.get_total_flops() / 1e9
        seconds = median_seconds(function, args.repeats, device)
        result[name] = {
            "seconds": seconds,
            "gflop": gflop,
            "gflops": gflop / seconds,
            "fraction_of_product_rate": gflop / seconds / result["product_gflops"],
            "crystals_per_second": args.crystals / seconds,
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", choices=sorted(PRESETS))
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--edge-rule", choices=("mutual", "published"))
    parser.add_argument("--crystals", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args)
    if args.json:
        json.dump(result, sys.stdout, indent=1)
        return
    print(f"{args.model}, {args.precision}, {args.crystals} crystals, {result['atoms']} atoms, {result['edges']} edges")
    print(f"matrix products of that shape: {result['product_gflops']:.0f} GFLOP/s on {result['threads']} threads")
    for name in ("forward", "train"):
        if name in result:
            r = result[name]
            print(
                f"{name:8s} {r['seconds']:.2f} s, {r['gflop']:.0f} GFLOP, {r['gflops']:.0f} GFLOP/s = "
                f"{r['fraction_of_product_rate']:.2f} of that rate; {r['crystals_per_second']:.1f} crystals/s; "
                f"peak memory {r['peak_memory_gb']:.2f} GB"
            )
            if args.model == "base" and args.crystals == len(SIZES):
                low, high = PUBLISHED[name]
                print(f"         published code, 2 CPU cores, float32: {low} to {high} s")


if __name__ == "__main__":
    main()
