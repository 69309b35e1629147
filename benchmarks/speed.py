"""Where the time of a forward pass, a training step and a crystal goes, side by side in one run.

    python benchmarks/speed.py --model base mp20-tiny --json speed.json      # network: float32, bf16, weights cast once
    python benchmarks/speed.py --generate taught-tiny --batches 4,8,16,32    # crystals by the size of the batch

Every figure is the least processor time of its rounds, one thread, variants taking turns within a round, so that a busy
neighbour or a clock that slows down meets all of them. ``base`` is the published size with fresh weights. The published
code itself is not part of this: it has to be measured in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import crystalsmith
from crystalsmith.bench.network import crystals, machine
from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.diffusion.noise import GlobalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.registry import PRESETS, build_network

CPU = torch.device("cpu")


def turns(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least processor seconds of each variant; one round more, unmeasured, comes first."""
    least = dict.fromkeys(variants, float("inf"))
    for number in range(rounds + 1):
        for name, function in variants.items():
            began = time.process_time()
            function()
            if number:
                least[name] = min(least[name], time.process_time() - began)
    return least


def model_of(name: str) -> Model:
    """A bundled model or a folder, or fresh weights of a preset."""
    if name not in PRESETS:
        return crystalsmith.load(name, device="cpu").model
    torch.manual_seed(0)
    return Model(build_network(PRESETS[name]).eval(), Process(ProcessConfig()), ModelMetadata(name=name))


def network(name: str, count: int, rounds: int) -> dict[str, float]:
    """Forward pass and training step of ``count`` crystals."""
    model = model_of(name)
    batch, t = crystals(count), torch.linspace(0.05, 1.0, count)
    generator = torch.Generator().manual_seed(0)

    def forward(bf16: bool) -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.network(batch, t)

    def step(bf16: bool) -> None:
        noisy = model.process.corrupt(batch, t, GlobalNoise(generator, batch.num_atoms).at(0, 0))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            scores = model.network(noisy, t)
        model.process.loss(scores, batch, noisy, t).total.mean().backward()
        model.network.zero_grad()

    many = 4

    def kept() -> None:
        """Several evaluations under one autocast, which casts each weight once for all of them."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(many):
                model.network(batch, t)

    found = turns(
        {
            "forward float32": lambda: forward(False),
            "forward bf16": lambda: forward(True),
            "forward bf16, weights cast once": kept,
            "training step float32": lambda: step(False),
            "training step bf16": lambda: step(True),
        },
        rounds,
    )
    found["forward bf16, weights cast once"] /= many
    return found


def generation(name: str, batches: list[int], steps: int, rounds: int) -> dict[str, float]:
    """Processor seconds a crystal, by precision and size of the batch: as many crystals each, in ``steps`` steps."""
    number = max(batches)
    variants: dict[str, Callable[[], Any]] = {}
    for precision in ("float32", "bf16"):
        loaded = crystalsmith.load(name, device="cpu", precision=precision)
        for size in batches:
            variants[f"{precision}, {size} at a time"] = lambda loaded=loaded, size=size: loaded.generate(
                number, seed=1, steps=steps, batch_size=size
            )
    return {variant: seconds / number for variant, seconds in turns(variants, rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--generate", nargs="*", default=[])
    parser.add_argument("--batches", default="4,8,16,32")
    parser.add_argument("--crystals", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": machine(512, 8192, CPU)}
    print(json.dumps(figures["machine"]))
    for name in arguments.model:
        figures[name] = network(name, arguments.crystals, arguments.rounds)
    for name in arguments.generate:
        sizes = [int(size) for size in arguments.batches.split(",")]
        figures[f"{name}, {arguments.steps} steps"] = generation(name, sizes, arguments.steps, arguments.rounds)
    for name, rows in figures.items():
        if name != "machine":
            print(name, *(f"  {variant:34} {1e3 * seconds:9.1f} ms" for variant, seconds in rows.items()), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
