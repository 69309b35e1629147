"""From the start of the program to files on disk: start-up, a step of the sampler, one crystal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from crystalsmith.bench.measure import median_seconds
from crystalsmith.bench.network import machine, network_speed
from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.checkpoints.store import save_model
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP
from crystalsmith.generation.describe import Crystal, describe
from crystalsmith.generation.device import choose_device, choose_precision
from crystalsmith.generation.folder import OutputFolder
from crystalsmith.generation.making import make_request
from crystalsmith.generation.sampler import crystals_of, sample_batch
from crystalsmith.generation.steering import Steering
from crystalsmith.network.registry import PRESETS, build_network

_STEPS = 10
"""Steps that are timed; they span all times, so that their mean is that of a whole run."""

_START_UP = """
import json, sys, time
began = time.perf_counter()
import torch
import crystalsmith.generation.run
imported = time.perf_counter()
from crystalsmith.checkpoints.find import load_model
model = load_model(sys.argv[1], sys.argv[2])
loaded = time.perf_counter()
from crystalsmith.generation.making import make_request
from crystalsmith.generation.sampler import sample_batch
from crystalsmith.generation.steering import Steering
request = make_request(model, num=16, seed=0, num_atoms=None, solver="ancestral", steps=1, precision=sys.argv[3],
                       steering=Steering())
sample_batch(model, request.sampling, request.plans(range(16)), torch.device(sys.argv[2]))
print(json.dumps({"import_s": imported - began, "load_s": loaded - imported,
                  "first_step_s": time.perf_counter() - loaded}))
"""


def bench(
    name: str,
    batch_sizes: list[int],
    precision: str = "auto",
    device: str = "auto",
    repeats: int = 5,
    train: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Everything that ``crystalsmith bench`` prints, as plain data.

    Args:
        name: a bundled model, a model folder, or a preset (fresh weights).
        batch_sizes: crystals at a time.
        precision: ``auto``, ``float32`` or ``bf16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        repeats: of each measurement; the median counts.
        train: measure the training step too.
        tell: hears what is being measured.

    Raises:
        InputError: if the model or the device does not exist.
    """
    place = choose_device(device)
    chosen = choose_precision(precision, place)
    with tempfile.TemporaryDirectory() as scratch:
        source = _saved_preset(name, Path(scratch)) if name in PRESETS else name
        tell("start-up")
        start_up = _start_up(source, place, chosen)
        model = load_model(source, place)
        tell("matrix products and memory")
        config = model.network.config
        rates = machine(config.width, 16 * round(config.edges(10)), place)
        result: dict[str, Any] = {"model": name, "parameters": sum(p.numel() for p in model.network.parameters())}
        result |= {"busy": _busy(), "machine": rates, "start_up": start_up, "generation": [], "network": []}
        for size in batch_sizes:
            tell(f"generation, {size} crystals")
            result["generation"].append(_generation(model, size, chosen, place, Path(scratch)))
        for size in batch_sizes:
            tell(f"network, {size} crystals")
            result["network"].append(network_speed(model, size, chosen, place, rates, repeats, train))
    return result


def _busy() -> float | None:
    """Processes that wanted a core during the last minute, this one included; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _saved_preset(name: str, scratch: Path) -> str:
    torch.manual_seed(0)
    folder = scratch / name
    save_model(Model(build_network(PRESETS[name]), Process(ProcessConfig()), ModelMetadata(name=name)), folder)
    return str(folder)


def _start_up(source: str, device: torch.device, precision: str) -> dict[str, float]:
    """Seconds that a fresh process takes for imports, the model and a first network evaluation of 16 crystals."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _START_UP, source, str(device), precision]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts: dict[str, float] = json.loads(output.splitlines()[-1])
    return parts | {"total_s": time.perf_counter() - began}


def _generation(model: Model, num: int, precision: str, device: torch.device, scratch: Path) -> dict[str, Any]:
    """One batch with the model's own solver: a step, what is written of it, and so a crystal of all steps."""

    def request(steps: int | None) -> Any:
        return make_request(
            model,
            num=num,
            seed=0,
            num_atoms=None,
            solver=None,
            steps=steps,
            precision=precision,
            steering=Steering(),
        )

    usual, short = request(None), request(_STEPS)
    plans = usual.plans(range(num))
    sample_batch(model, request(1).sampling, plans, device)
    began = time.perf_counter()
    batch = sample_batch(model, short.sampling, plans, device)
    step = (time.perf_counter() - began) / _STEPS
    made = crystals_of(batch, plans, model.metadata.elements)
    writing = _writing(made, scratch / f"crystals-{num}")
    seconds = step * usual.steps + writing
    return {
        "crystals": num,
        "solver": usual.solver,
        "steps": usual.steps,
        "evaluations": usual.steps * NETWORK_CALLS_PER_STEP[usual.solver],
        "step_s": step,
        "writing_s": writing,
        "seconds_per_crystal": seconds / num,
        "estimated_from_steps": _STEPS,
    }


def _writing(made: list[Crystal], folder: Path) -> float:
    """Seconds to describe and write a batch; 0 where the packages that describe crystals are not installed."""
    try:
        describe(made[0])  # imports
    except ImportError:
        return 0.0
    output = OutputFolder.create(folder, {"settings": {}})

    def write() -> None:
        output.commit(output.finished + len(made), [describe(crystal) for crystal in made], 0.0)

    return median_seconds(write, 3, torch.device("cpu"))
