"""Laws of training in little memory: nothing changes but what is held, and what is freed is given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

from crystalsmith.training.config import Recipe
from crystalsmith.training.run import train
from crystalsmith.training.state import FILE, load_state

TRANSFORMER = {"preset": "transformer-tiny", "width": 16, "num_blocks": 1, "pair_width": 8, "pair_hidden": 8,
               "message_width": 8, "num_radial": 8, "num_angular": 4, "num_moments": 4}  # fmt: skip

RESIDENT = """
import sys, torch
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.predictor import PropertyNetwork
from crystalsmith.training.memory import spare_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "spare":
    spare_memory(PropertyNetwork(GemNetConfig(width=8, num_blocks=0)), torch.device("cpu"))
small = []
for _ in range(2):  # glibc learns from the first blocks that it sees freed
    large, before = [], resident()
    for _ in range(20):
        large.append(torch.ones(2_000_000))
        small.append(torch.ones(200))  # keeps its place above the large one
    large.clear()
print(resident() - before)
"""


@pytest.mark.parametrize("model", ["gemnet", "transformer"])
def test_a_run_that_spares_memory_is_the_same_run(
    model: str, dataset_folder: Path, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe = {**small_recipe, "limits": {"max_epochs": None, "max_steps": 2}}
    if model == "transformer":
        small_recipe["model"] = TRANSFORMER
    weights = []
    for spare in (False, True):
        hardware = {"accelerator": "cpu", "checkpoint_activations": spare}
        out = tmp_path / str(spare)
        train(dataset_folder, out, Recipe.from_dict({**small_recipe, "hardware": hardware}), quiet=True)
        weights.append(load_state(out / FILE)[0])
    plain, spared = weights
    assert plain.keys() == spared.keys()
    for name in plain:
        torch.testing.assert_close(spared[name], plain[name], rtol=1e-5, atol=1e-6, msg=name)


def held_after_freeing(how: str) -> int:
    """Bytes that a process still holds of the 160 MB that it made and freed."""
    result = subprocess.run([sys.executable, "-c", RESIDENT, how], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of a process")
def test_what_training_frees_goes_back_to_the_system() -> None:
    assert held_after_freeing("spare") < 0.2 * 160e6
