"""Weights that are a formula of their names, so that a test of the network needs no checkpoint file.

Value i of the tensor with the published name ``name`` is s u, u in [-1, 1) from splitmix64((crc32(name) << 32) + i);
see the README of the reference data. Scale factors and the buffers of the bases stay as constructed.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.published.export import published_state
from crystalsmith.checkpoints.published.layout import published_layout
from crystalsmith.checkpoints.published.mattergen import our_names
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.network.basis import SinusoidalEncoding
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser


def formula_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of the published name ``name``, float32."""
    fan_in = {2: lambda: shape[1], 3: lambda: shape[0] * shape[1]}.get(len(shape), lambda: 1)()
    scale = (3 / fan_in) ** 0.5
    if "atom_emb.embeddings" in name or "space_group" in name:
        scale = 3**0.5
    elif name.endswith("bias"):
        scale = 0.1
    with np.errstate(over="ignore"):
        x = np.uint64(zlib.crc32(name.encode()) << 32) + np.arange(int(np.prod(shape)), dtype=np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    u = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53 * 2 - 1
    return torch.from_numpy((scale * u).astype(np.float32).reshape(shape))


def formula_model(config: DenoiserConfig) -> Model:
    """A model of ours with formula weights and the published process."""
    with torch.device("meta"):
        network = GemNetDenoiser(config)
    constructed = GemNetDenoiser(replace(config, gemnet=replace(config.gemnet, width=32))).state_dict()
    state = {}
    for ours, name in our_names(config, network).items():
        shape = tuple(network.state_dict()[ours].shape)
        if name.endswith("div_term"):
            state[ours] = SinusoidalEncoding(config.gemnet.width).frequency
        elif name.endswith(("scale_factor", "offset")):
            state[ours] = constructed[ours]
        elif name.endswith(("scaler.means", "scaler.stds")):
            state[ours] = torch.full(shape, 0.05 if name.endswith("means") else 0.1)
        else:
            state[ours] = formula_tensor(name, shape)
    network.load_state_dict(state, assign=True)
    return Model(network.eval(), Process(ProcessConfig.published()))


def formula_checkpoint(model: Model) -> dict[str, Tensor]:
    """The published ``state_dict`` of :func:`formula_model`, energy heads included."""
    used = set(our_names(model.network.config, model.network).values())
    extra = {
        name: torch.tensor(1.25) if tensor.role == "energy_scale" else formula_tensor(energy_name(name), tensor.shape)
        for name, tensor in published_layout(model.network.config).items()
        if name not in used and tensor.copy_of is None
    }
    return published_state(model, extra)


def energy_name(name: str) -> str:
    """The layers of an energy head take the formula of their second name."""
    return name.replace(".layers.", ".seq_energy.") if ".out_blocks." in f".{name}" else name
