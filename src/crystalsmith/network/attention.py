"""Attention among all atoms of a crystal, whatever their distance: which elements go together.

Edges end at the cut-off and the mean over a crystal forgets who was there; attention lets an atom weigh each of the
others (Vaswani et al., "Attention is all you need", 2017). It runs on atoms, of which there are twenty times fewer than
edges, so that it adds few operations. Output layers start at zero: a network that gains attention is the same function
as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalsmith.crystals import CrystalBatch
from crystalsmith.network.pairs import pair_indices

_BOUND = 15.0  # of logits: takes the place of the usual shift by the largest


class CrystalAttention(nn.Module):
    """One attention layer and one feed-forward layer on the atoms, both residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = _zero(nn.Linear(width, width))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), _zero(nn.Linear(4 * width, width)))

    def forward(self, h: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
        """New atoms ``(N, width)``.

        Args:
            h: ``(N, width)``.
            pairs: target and source of all pairs of atoms of one crystal, each ``(P,)`` (:func:`all_pairs`).
        """
        target, source = pairs
        query, key, value = self.project(self.norm(h)).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        at_target, at_source = query.index_select(0, target), key.index_select(0, source)
        logits = (at_target * at_source).sum(-1, dtype=torch.float32) * query.shape[-1] ** -0.5
        weight = torch.exp(_BOUND * torch.tanh(logits / _BOUND))  # (P, heads)
        message = (value.index_select(0, source) * weight.unsqueeze(-1)).flatten(1)
        sums = _sum_to(target, torch.cat([message, weight], -1), h.shape[0])
        width = message.shape[1]
        mean = sums[:, :width].unflatten(-1, (self.num_heads, -1)) / sums[:, width:].unsqueeze(-1)
        h = h + self.out(mean.flatten(1).to(h.dtype))
        return h + self.feed(self.feed_norm(h))


def all_pairs(batch: CrystalBatch, copies: int = 1) -> tuple[Tensor, Tensor]:
    """Target and source of every ordered pair of atoms of one crystal, each ``(P,)``."""
    target, source = pair_indices(batch)
    if copies == 1:
        return target, source
    shift = torch.arange(copies, device=target.device).repeat_interleave(len(target)) * len(batch.frac_coords)
    return target.repeat(copies) + shift, source.repeat(copies) + shift


def _sum_to(target: Tensor, values: Tensor, num_atoms: int) -> Tensor:
    """``(P, C)`` -> ``(N, C)``; an atom's own pairs only, in their order, so that batches do not mix."""
    zeros = torch.zeros(num_atoms, values.shape[1], dtype=values.dtype, device=values.device)
    return zeros.index_add(0, target, values)


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
