"""A network from a clean crystal to one number: the denoiser's embedding and blocks, and the mean over atoms.

A property belongs to the crystal and not to the cell it is written in, so what the denoiser reads of the cell itself
(its lattice vectors, its number of atoms, the time) is left out: the value is the same for every choice of the cell.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import NUM_CLASSES
from crystalsmith.neighbors import build_edges
from crystalsmith.network.gemnet import BasisProjection, EdgeEmbedding, GemNetConfig, InteractionBlock
from crystalsmith.network.layers import recomputed


class PropertyNetwork(nn.Module):
    """GemNet-T blocks with a readout per atom, averaged; the output is standardised.

    Attributes:
        checkpoint_activations: in training, keep what enters each block and compute the rest again for the gradient.
    """

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        width = config.width
        self.species = nn.Embedding(NUM_CLASSES, width)
        nn.init.uniform_(self.species.weight, -(3.0**0.5), 3.0**0.5)
        self.basis = BasisProjection(config)
        self.edges = EdgeEmbedding(width, config.num_radial, width)
        self.blocks = nn.ModuleList(InteractionBlock(config, index) for index in range(config.num_blocks))
        self.readout = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, batch: CrystalBatch) -> Tensor:
        """``(B,)`` values of the crystals in units of the labels' spread about their mean."""
        config = self.config
        edges = build_edges(batch, config.cutoff, config.max_neighbors, config.edge_rule, config.max_images)
        h = self.species.weight[batch.atomic_numbers - 1]
        radial, basis = self.basis(edges)
        m = self.edges(h, radial, edges)
        for block in self.blocks:
            h, m = recomputed(self.checkpoint_activations, block, h, m, basis, edges)
        values = self.readout(h).squeeze(-1)
        sums = torch.zeros(batch.num_crystals, dtype=values.dtype, device=values.device)
        return sums.index_add(0, batch.batch_index, values) / batch.num_atoms
