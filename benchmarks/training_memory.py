"""Peak memory of training with a large batch that is cut into passes, on the CPU.

    python benchmarks/training_memory.py data/mp20 --preset base --batch-size 512 --micro-batch-size 16 --checkpoint

Prepared crystals go through the parts of a real run: the loader's batches, noise, losses, gradients, the optimiser and
the moving average. The passes of a batch go from large crystals to small, so its first ones need most; ``--passes``
says how many of each batch are run, ``--steps`` how many batches. The peak of the process is printed after each pass:
it should stop rising. Two steps at least, as the optimiser's moments exist only after the first.

A run measures one setting, since a process cannot forget its peak. On Linux, compare with
``GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from crystalsmith.bench.measure import peak_memory
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.training.build import build_model
from crystalsmith.training.config import Recipe
from crystalsmith.training.learner import Learner
from crystalsmith.training.loader import StepSource
from crystalsmith.training.memory import spare_memory
from crystalsmith.training.objective import FlatNetwork, as_denoiser, pass_losses
from crystalsmith.training.schedule import Limits

CPU = torch.device("cpu")


def measure(data: Path, recipe: Recipe, steps: int, passes: int | None) -> None:
    """Train for some steps and print what each pass needs."""
    dataset = CrystalDataset.open(data)
    model = build_model(recipe, dataset.manifest, {})
    if recipe.hardware.checkpoint_activations:
        spare_memory(model.network, CPU)
    network = FlatNetwork(model.network, recipe.hardware.precision == "bf16-mixed")
    denoiser = model.process.precondition(as_denoiser(network))
    learner = Learner(network, recipe, Limits(steps, None))
    source = StepSource(dataset, dataset.rows("train"), recipe.data, recipe.seed)
    print(f"before the first pass: {peak_memory(CPU) / 1e9:.2f} GB", flush=True)
    for index in range(steps):
        learner.begin(index, 0.0)
        step = source.step(index)
        for number, one in enumerate(step.passes[:passes]):
            began = time.process_time()
            losses = pass_losses(denoiser, model.process, one, recipe.seed, index)
            (losses.total.sum() / step.batch_size).backward()
            seconds = time.process_time() - began
            size = f"{one.crystals.num_crystals} crystals, {len(one.crystals.frac_coords)} atoms"
            where = f"step {index + 1}, pass {number + 1} of {len(step.passes)} ({size})"
            print(f"{where}: peak {peak_memory(CPU) / 1e9:.2f} GB, {seconds:.1f} processor seconds", flush=True)
        learner.move(learner.norm())
        learner.forget()
        print(f"step {index + 1}, weights moved: peak {peak_memory(CPU) / 1e9:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a prepared data set")
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--micro-batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=("32", "bf16-mixed"), default="32")
    parser.add_argument("--checkpoint", action="store_true", help="hardware.checkpoint_activations")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--passes", type=int, default=None, help="of each batch; all by default")
    arguments = parser.parse_args()
    settings = {
        "model": {"preset": arguments.preset},
        "data": {"batch_size": arguments.batch_size, "micro_batch_size": arguments.micro_batch_size},
        "ema": {"decay": 0.999},
        "hardware": {"precision": arguments.precision, "checkpoint_activations": arguments.checkpoint},
    }
    measure(arguments.data, Recipe.from_dict(settings), arguments.steps, arguments.passes)


if __name__ == "__main__":
    main()
