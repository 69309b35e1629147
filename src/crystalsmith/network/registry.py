"""The networks by name: what a checkpoint's ``kind`` and a recipe's ``model.preset`` choose between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.network.denoiser import PRESETS as GEMNET_PRESETS
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.transformer import TRANSFORMER_PRESETS, TransformerDenoiser, TransformerDenoiserConfig

Config = DenoiserConfig | TransformerDenoiserConfig
Network = GemNetDenoiser | TransformerDenoiser

PRESETS: dict[str, Config] = {**GEMNET_PRESETS, **TRANSFORMER_PRESETS}
"""Sizes by name, of every architecture."""


def architecture(config: Config) -> str:
    """ "gemnet" or "transformer"; also the name of the field that holds the sizes."""
    return "transformer" if isinstance(config, TransformerDenoiserConfig) else "gemnet"


def build_network(config: Config) -> Network:
    """A network with fresh weights."""
    return TransformerDenoiser(config) if isinstance(config, TransformerDenoiserConfig) else GemNetDenoiser(config)


def network_dict(config: Config) -> dict[str, Any]:
    """Plain data for ``config.json``."""
    return {"kind": architecture(config), **config.to_dict()}


def network_config(data: Mapping[str, Any]) -> Config:
    """The inverse of :func:`network_dict`.

    Raises:
        InputError: if the architecture or a setting is unknown.
    """
    rest = dict(data)
    kind = rest.pop("kind", None)
    if kind == "gemnet":
        return DenoiserConfig.from_dict(rest)
    if kind == "transformer":
        return TransformerDenoiserConfig.from_dict(rest)
    raise InputError(f"The model's network kind is {kind!r}; this version knows gemnet and transformer.")
