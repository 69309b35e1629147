"""Embeddings of the properties that a model is conditioned on, and the adapters of fine-tuned models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crystalsmith.elements import NUM_CLASSES
from crystalsmith.errors import InputError
from crystalsmith.network.basis import SinusoidalEncoding

Kind = Literal["scalar", "log", "category", "elements"]


@dataclass(frozen=True)
class ConditionConfig:
    """One property that a model is conditioned on.

    Attributes:
        name: of the property.
        kind: "scalar"; "log" (log10 first); "category" (whole numbers from 1); "elements" (multi-hot by atomic
            number).
        place: "adapter" (fine-tuned: added before each block, zero where unlabelled) or "base" (part of the atoms'
            latent vector from the start, a learned vector where unlabelled).
        num_categories: of a category.
    """

    name: str
    kind: Kind = "scalar"
    place: Literal["adapter", "base"] = "adapter"
    num_categories: int = 230

    def __post_init__(self) -> None:
        if self.kind not in ("scalar", "log", "category", "elements"):
            raise InputError(f"Property '{self.name}' has kind '{self.kind}'; use scalar, log, category or elements.")
        if self.place not in ("adapter", "base"):
            raise InputError(f"Property '{self.name}' has place '{self.place}'; use adapter or base.")


class PropertyEmbedding(nn.Module):
    """One property's values -> vectors ``(B, width)`` and a mask ``(B,)`` of crystals that carry it.

    Scalars are standardised, then encoded sinusoidally (no parameters); ``mean`` and ``std`` are buffers.
    """

    def __init__(self, config: ConditionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.mean: Tensor
        self.std: Tensor
        if config.kind in ("scalar", "log"):
            self.encoding = SinusoidalEncoding(width)
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("std", torch.ones(1))
        elif config.kind == "category":
            self.table = nn.Embedding(config.num_categories, width)
        else:
            self.linear = nn.Linear(NUM_CLASSES, width)
        self.unlabelled = nn.Embedding(1, width) if config.place == "base" else None

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        kind = self.config.kind
        if kind == "elements":
            labelled = values.any(-1)
            embedding = self.linear(values.to(self.linear.weight.dtype))
        else:
            labelled = ~torch.isnan(values)
            known = torch.where(labelled, values, torch.ones_like(values))
            if kind == "category":
                embedding = self.table(known.round().long().clamp(1, self.config.num_categories) - 1)
            else:
                x = known.clamp(min=torch.finfo(known.dtype).tiny).log10() if kind == "log" else known
                embedding = self.encoding((x.to(self.mean.dtype) - self.mean) / self.std)
        if self.unlabelled is not None:
            embedding = torch.where(labelled.unsqueeze(-1), embedding, self.unlabelled.weight)
        return embedding, labelled

    def absent(self, num_crystals: int, device: torch.device) -> Tensor:
        """Values that mean "unlabelled" for every crystal."""
        if self.config.kind == "elements":
            return torch.zeros(num_crystals, NUM_CLASSES, device=device)
        return torch.full((num_crystals,), float("nan"), device=device)


class Adapter(nn.Module):
    """One property's change of the atoms before one block: h -> M (B2 relu(B1 [h; c] + b1) + b2), M zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, h: Tensor, c: Tensor, labelled: Tensor) -> Tensor:
        """``h, c (N, width)``, ``labelled (N,)``; zero for unlabelled crystals."""
        return self.mix(self.mlp(torch.cat([h, c], -1))) * labelled.unsqueeze(-1)
