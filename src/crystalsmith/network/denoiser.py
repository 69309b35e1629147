"""The GemNet denoiser: a noisy batch, times and conditions in, scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import NUM_CLASSES
from crystalsmith.neighbors import EdgeTable, build_edges
from crystalsmith.network.attention import CrystalAttention, all_pairs
from crystalsmith.network.basis import SinusoidalEncoding
from crystalsmith.network.conditioning import ConditionConfig, Conditioned, check_keys, read_conditions
from crystalsmith.network.context import CrystalContext
from crystalsmith.network.gemnet import (
    BasisProjection,
    EdgeBasis,
    EdgeEmbedding,
    ForceHead,
    GemNetConfig,
    InteractionBlock,
    LatticeEmbedding,
    LatticeHead,
)
from crystalsmith.network.layers import recomputed


@dataclass(frozen=True)
class DenoiserConfig:
    """Everything that rebuilds the network before its weights are loaded.

    Attributes:
        gemnet: sizes.
        conditions: properties it is conditioned on.
    """

    gemnet: GemNetConfig = field(default_factory=GemNetConfig)
    conditions: tuple[ConditionConfig, ...] = ()

    @property
    def width(self) -> int:
        """Channels of an atom."""
        return self.gemnet.width

    def edges(self, num_atoms: int) -> float:
        """Messages into all atoms of a crystal, for estimates of memory and time."""
        return float(self.gemnet.max_neighbors * num_atoms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DenoiserConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: if a key is unknown.
        """
        check_keys(DenoiserConfig, data)
        check_keys(GemNetConfig, data.get("gemnet", {}))
        return DenoiserConfig(GemNetConfig(**data.get("gemnet", {})), read_conditions(data))


PRESETS: dict[str, DenoiserConfig] = {
    "tiny": DenoiserConfig(
        GemNetConfig(
            width=128,
            num_blocks=3,
            cutoff=6.0,
            max_neighbors=20,
            num_radial=64,
            num_spherical=5,
            width_triplet=32,
            width_bilinear=32,
            width_rbf=16,
            width_cbf=8,
            head_residuals=1,
            crystal_context=True,
        )
    ),
    "small": DenoiserConfig(GemNetConfig(width=256, num_blocks=3, max_neighbors=24, crystal_context=True)),
    "base": DenoiserConfig(GemNetConfig()),
}
"""Sizes by name; "base" is the published one."""


class GemNetDenoiser(Conditioned):
    """The network of section 4 of the specification, as a :class:`crystalsmith.contracts.Denoiser`.

    Attributes:
        checkpoint_activations: in training, keep what enters each block and compute the rest again for the gradient.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        gemnet = config.gemnet
        width, blocks = gemnet.width, gemnet.num_blocks
        super().__init__(config.conditions, width, blocks)
        self.config = config
        self.checkpoint_activations = False
        self.time = SinusoidalEncoding(width)
        self.species = nn.Embedding(NUM_CLASSES, width)
        nn.init.uniform_(self.species.weight, -(3.0**0.5), 3.0**0.5)
        self.latent = nn.Linear(width * (2 + len(self.base_names)), width)
        self.context = CrystalContext(width, blocks) if gemnet.crystal_context else None
        heads = gemnet.attention_heads
        self.attention = nn.ModuleList(CrystalAttention(width, heads) for _ in range(blocks + 1) if heads)
        self.basis = BasisProjection(gemnet)
        self.edges = EdgeEmbedding(width, gemnet.num_radial, width)
        self.lattice = LatticeEmbedding(width)
        self.blocks = nn.ModuleList(InteractionBlock(gemnet, index) for index in range(blocks))
        self.force_heads = nn.ModuleList(ForceHead(gemnet, index) for index in range(blocks + 1))
        self.lattice_heads = nn.ModuleList(LatticeHead(gemnet) for _ in range(blocks + 1))
        self.species_head = nn.Linear(width, NUM_CLASSES)

    def forward(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        """Scores of ``batch`` at times ``t (B,)``."""
        gemnet = self.config.gemnet
        edges = build_edges(batch.one, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule, gemnet.max_images)
        return self.score(batch, t, edges, conditions)

    def score(self, batch: CrystalBatch, t: Tensor, edges: EdgeTable, conditions: Conditions | None = None) -> Scores:
        """:meth:`forward` with the neighbours of ``batch.one`` that were found before.

        What does not depend on the conditions is computed once for all copies of a crystal: the neighbours and, if all
        conditions come by adapters, everything before the first block. Copies share their time as well.
        """
        embedded = self.embed_properties(batch, conditions)
        if self.base_names:  # they enter at the first atom vector; repeating the bases costs as much as they do
            start, edges, copies = batch, edges.repeat(batch.copies), 1
        else:
            start, copies = batch.one, batch.copies
            t = t[: len(start)]
        direction = -edges.vector / edges.distance.unsqueeze(-1)
        radial, basis = self.basis(edges)
        cosines = _lattice_cosines(start, edges, direction)
        h = self._embed_atoms(start, t, embedded)
        m = self.lattice(self.edges(h, radial, edges), cosines)
        again = self.checkpoint_activations
        force, stress = recomputed(again, self._heads, 0, m, basis)
        if copies > 1:
            edges, basis, direction = edges.repeat(copies), basis.repeat(copies), direction.repeat(copies, 1)
            h, m, force, stress = h.repeat(copies, 1), m.repeat(copies, 1), force.repeat(copies), stress.repeat(copies)
        pairs = all_pairs(start, copies) if self.attention else None
        for index in range(len(self.blocks)):
            h, m = recomputed(again, self._round, index, batch, h, m, basis, edges, embedded, pairs)
            # Apart from the block, so that the backward pass holds what only one of the two made.
            more_force, more_stress = recomputed(again, self._heads, index + 1, m, basis)
            force, stress = force + more_force, stress + more_stress
        if pairs is not None:
            h = self.attention[-1](h, pairs)
        return self._read_out(batch, h, force, stress, direction, edges)

    def _heads(self, index: int, m: Tensor, basis: EdgeBasis) -> tuple[Tensor, Tensor]:
        return self.force_heads[index](m, basis), self.lattice_heads[index](m, basis)

    def _round(
        self,
        index: int,
        batch: CrystalBatch,
        h: Tensor,
        m: Tensor,
        basis: EdgeBasis,
        edges: EdgeTable,
        embedded: dict[str, tuple[Tensor, Tensor]],
        pairs: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """One block, with what it is told of the crystal and the conditions."""
        if pairs is not None:
            h = self.attention[index](h, pairs)
        if self.context is not None:
            h = h + self.context.share(index, batch, h)
        h = self.adapt(h, index, batch, embedded)
        return self.blocks[index](h, m, basis, edges)

    def _embed_atoms(self, batch: CrystalBatch, t: Tensor, embedded: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        width = self.config.gemnet.width
        crystal = torch.cat([self.time(t), *(embedded[name][0] for name in self.base_names)], -1)
        w_species, w_crystal = self.latent.weight.split([width, crystal.shape[-1]], dim=1)
        atoms = F.linear(self.species.weight, w_species)[batch.atomic_numbers - 1]
        per_crystal = F.linear(crystal, w_crystal, self.latent.bias)
        if self.context is not None:
            per_crystal = per_crystal + self.context.embed(batch)
        return atoms + per_crystal[batch.batch_index]

    def _read_out(
        self, batch: CrystalBatch, h: Tensor, force: Tensor, stress: Tensor, direction: Tensor, edges: EdgeTable
    ) -> Scores:
        with torch.autocast(h.device.type, enabled=False):
            logits = self.species_head(h.to(self.species_head.weight.dtype))
            force, stress = force.unsqueeze(-1), stress.unsqueeze(-1)
            cartesian = edges.sum_to_target(force * direction)
            inverse = torch.linalg.inv_ex(batch.cell).inverse
            frac = torch.einsum("ni,nij->nj", cartesian, inverse[batch.batch_index])
            outer = (direction.unsqueeze(-1) * direction.unsqueeze(-2)).flatten(1)
            atoms = edges.sum_to_target(torch.cat([stress * outer, torch.ones_like(stress)], -1))
            crystals = torch.zeros(batch.num_crystals, 10, dtype=atoms.dtype, device=atoms.device)
            sums = crystals.index_add(0, batch.batch_index, atoms)
            cell = (sums[:, :9] / sums[:, 9:].clamp(min=1.0)).view(-1, 3, 3)
            if self.context is not None:
                cell = cell + self.context.read(batch, h.to(logits.dtype))
        return Scores(frac, cell, logits)


def _lattice_cosines(batch: CrystalBatch, edges: EdgeTable, direction: Tensor) -> Tensor:
    """``(E, 3)`` cosines between each edge's direction and the three lattice vectors."""
    axes = batch.cell / batch.cell.norm(dim=-1, keepdim=True)
    return torch.einsum("ej,ekj->ek", direction, axes[batch.batch_index[edges.target]])
