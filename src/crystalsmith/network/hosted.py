"""The network on a device that lacks float64, for crystals that stay on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.neighbors import build_edges
from crystalsmith.network.denoiser import GemNetDenoiser
from crystalsmith.network.registry import Network


class HostedDenoiser:
    """A denoiser that takes and returns tensors of the CPU and evaluates its network elsewhere.

    Neighbours are found on the CPU, in float64; what the network does besides is float32. Meant for ``mps``.

    Args:
        network: on ``device``.
        device: where it runs.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network, device

    def __call__(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        there, time = batch.to(self.device), t.to(self.device)
        given = None if conditions is None else {name: value.to(self.device) for name, value in conditions.items()}
        if isinstance(self.network, GemNetDenoiser):
            gemnet = self.network.config.gemnet
            edges = build_edges(batch.one, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule, gemnet.max_images)
            scores = self.network.score(there, time, edges.to(self.device), given)
        else:
            scores = self.network(there, time, given)
        return Scores(scores.frac_coords.cpu(), scores.cell.cpu(), scores.species_logits.cpu())
