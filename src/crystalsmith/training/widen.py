"""A GemNet of twice the width that is the same function: a trained small network as the start of a larger one.

Every channel stands twice, and what reads a pair of channels takes half of each (Chen, Goodfellow and Shlens,
"Net2Net: accelerating learning via knowledge transfer", ICLR 2016). Twins would stay twins under training; here each
reader adds a random weight to one twin and takes it from the other, which changes nothing as long as they are equal and
gives them different gradients from the first step.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from crystalsmith.errors import InputError
from crystalsmith.network.denoiser import GemNetDenoiser
from crystalsmith.network.registry import Network, build_network

_WIDTHS = ("width", "width_triplet", "width_bilinear", "attention_heads")

_JOINED = ("edges.dense.weight", "concat.dense.weight", "lattice.linear1.weight")
"""Their inputs are atoms or edges one after another, and what is not widened."""


def widened(network: Network, spread: float = 0.5, seed: int = 0) -> Network:
    """The network with twice the channels of atoms and edges; its scores are those of ``network`` up to rounding.

    Args:
        network: a GemNet without adapters.
        spread: size of the random weights beside the halves of the old ones; 0 would keep twins for ever.
        seed: of the random weights.

    Raises:
        InputError: for another architecture or a network with adapters.
    """
    if not isinstance(network, GemNetDenoiser):
        raise InputError("Only a GemNet model can be widened.")
    if any(c.place == "adapter" for c in network.config.conditions):
        raise InputError("A model with adapters cannot be widened; widen its base and train the adapters anew.")
    sizes = {name: 2 * getattr(network.config.gemnet, name) for name in _WIDTHS}
    config = dataclasses.replace(network.config, gemnet=dataclasses.replace(network.config.gemnet, **sizes))
    wide = build_network(config)
    generator = torch.Generator().manual_seed(seed)
    like, width = wide.state_dict(), network.config.width
    grown = {
        name: _grown(name, old, like[name], width, spread, generator)
        for name, old in network.state_dict().items()
        if not name.endswith("frequency")
    }
    wide.load_state_dict(like | grown)
    return wide


def _grown(name: str, old: Tensor, like: Tensor, width: int, spread: float, generator: torch.Generator) -> Tensor:
    if old.shape == like.shape:
        return old
    if name.startswith("properties."):
        return _between_zeros(old, axis=0 if ".linear." in name else 1)
    if name == "species.weight":
        return old.repeat(1, 2)
    if name.endswith("bilinear"):  # (triplet, basis, bilinear): a reader of the first axis, a writer of the last
        return _readers(old.flatten(1), spread, generator, axis=0).view(-1, *old.shape[1:]).repeat(1, 1, 2)
    rows = _rows(name, old, like)
    if rows.shape == like.shape:
        return rows
    if name.startswith("latent."):
        return _latent(rows, width, spread, generator)
    more = like.shape[1] - old.shape[1]
    blocks = [width] * (more // width) if name.endswith(_JOINED) else [more]
    *joined, rest = rows.split([*blocks, old.shape[1] - sum(blocks)], dim=1)
    return torch.cat([*(_readers(part, spread, generator) for part in joined), rest], dim=1)


def _rows(name: str, old: Tensor, like: Tensor) -> Tensor:
    """Outputs that stand twice: the whole list of them, or each third of the projection for attention."""
    if old.shape[0] == like.shape[0]:
        return old
    if ".project." in name:
        return torch.cat([part.repeat(2, *[1] * (old.dim() - 1)) for part in old.chunk(3)])
    return old.repeat(2, *[1] * (old.dim() - 1))


def _readers(weight: Tensor, spread: float, generator: torch.Generator, axis: int = 1) -> Tensor:
    """Weights for twice the inputs along ``axis``: halves of the old ones, and what cancels between twins."""
    apart = torch.randn(weight.shape, generator=generator) * (0.5 * spread * weight.std(correction=0))
    return torch.cat([0.5 * weight + apart, 0.5 * weight - apart], dim=axis)


def _latent(rows: Tensor, width: int, spread: float, generator: torch.Generator) -> Tensor:
    """Inputs of the first atom vector: the species' channels, then encodings of the time and of each property."""
    species, *encodings = rows.split(width, dim=1)
    return torch.cat([_readers(species, spread, generator), *(_between_zeros(x) for x in encodings)], dim=1)


def _between_zeros(x: Tensor, axis: int = 1) -> Tensor:
    """Sines and cosines at twice as many frequencies, of which every second is an old one."""
    pairs = x.unflatten(axis, (-1, 1, 2))
    return torch.cat([pairs, torch.zeros_like(pairs)], dim=axis + 1).flatten(axis, axis + 2)
