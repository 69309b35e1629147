"""Embeddings of the properties that a model is conditioned on, and the adapters of fine-tuned models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crystalsmith.contracts import Conditions
from crystalsmith.crystals import CrystalBatch
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


def module_key(name: str) -> str:
    """The name of a property's modules, which torch lets hold no point and be no attribute of its own: ``x_2e_y``."""
    plain = "".join(c if c.isalnum() or c == "_" else f"_{ord(c):x}_" for c in name)
    return f"{plain}_" if not plain or hasattr(nn.ModuleDict, plain) or plain == "training" else plain


class Conditioned(nn.Module):
    """A network with property embeddings and, for each block, the adapters of fine-tuned properties."""

    def __init__(self, conditions: tuple[ConditionConfig, ...], width: int, num_blocks: int) -> None:
        super().__init__()
        self.base_names = sorted(c.name for c in conditions if c.place == "base")
        self.adapter_names = sorted(c.name for c in conditions if c.place == "adapter")
        self.properties = nn.ModuleDict({module_key(c.name): PropertyEmbedding(c, width) for c in conditions})
        self.adapters = nn.ModuleDict(
            {module_key(name): nn.ModuleList(Adapter(width) for _ in range(num_blocks)) for name in self.adapter_names}
        )

    def embed_properties(self, batch: CrystalBatch, conditions: Conditions | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> vectors ``(B, width)`` and mask ``(B,)`` of labelled crystals.

        Raises:
            InputError: for a property that the network does not know.
        """
        given = dict(conditions or {})
        names = {module.config.name for module in self.properties.values() if isinstance(module, PropertyEmbedding)}
        if unknown := sorted(set(given) - names):
            known = ", ".join(sorted(names)) or "none: it is unconditional"
            raise InputError(f"The model does not know the property '{unknown[0]}'; it knows {known}.")
        result = {}
        for module in self.properties.values():
            assert isinstance(module, PropertyEmbedding)
            name = module.config.name
            values = given.get(name)
            if values is None:
                values = module.absent(batch.num_crystals, batch.cell.device)
            result[name] = module(values)
        return result

    def adapt(self, h: Tensor, index: int, batch: CrystalBatch, embedded: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """``h (N, width)`` with what the adapters add before block ``index``."""
        change = None
        for name in self.adapter_names:
            vector, labelled = embedded[name]
            layers = self.adapters[module_key(name)]
            assert isinstance(layers, nn.ModuleList)
            part = layers[index](h, vector[batch.batch_index].to(h.dtype), labelled[batch.batch_index])
            change = part if change is None else change + part
        return h if change is None else h + change


def check_keys(kind: Any, data: Mapping[str, Any]) -> None:
    """Refuse keys that are no fields of the dataclass ``kind``.

    Raises:
        InputError: naming the first one.
    """
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(data) - known):
        raise InputError(f"Unknown network setting '{unknown[0]}'; known are {', '.join(sorted(known))}.")


def read_conditions(data: Mapping[str, Any]) -> tuple[ConditionConfig, ...]:
    """The conditions of a network's plain configuration.

    Raises:
        InputError: if a key is unknown.
    """
    conditions = data.get("conditions", ())
    for condition in conditions:
        check_keys(ConditionConfig, condition)
    return tuple(ConditionConfig(**condition) for condition in conditions)
