"""How a composition would be arranged, judging by known crystals: its Wyckoff template, and which element is where.

The choice among known arrangements is made from the composition alone, before any coordinate exists (as in template
retrieval: Kusaba, Liu and Yoshida, Comput. Mater. Sci. 211, 111496, 2022; the network is our own). The logit of a
template with an order of the elements is

    log(crystals that have the template) + b + sum over the elements' sets of orbits k of <h(element on k), v(k)>

where h sees an element within its composition, and v the Wyckoff positions of a set, those of the whole template, the
space group and the basis of the reduced cell. Nothing is learned for a template as such, so others than those of the
training are judged as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crystalsmith.elements import MASK


@dataclass(frozen=True)
class Candidates:
    """T templates with K elements each, whose atoms are the same counts; O orders of elements.

    Attributes:
        counts: ``(K,)`` float, atoms of the elements A, B, ... of the patterns.
        known: ``(T,)`` float, logarithm of how many crystals have the template.
        groups: ``(T,)`` int64, space groups.
        bases: ``(T,)`` int64, places in the vocabulary of bases, 0 = unknown.
        positions: ``(M,)`` int64, Wyckoff positions of all orbits, places in their vocabulary, 0 = unknown.
        sets: ``(M,)`` int64 in 0..T K - 1, the template and element whose orbit it is.
        orders: ``(O, K)`` int64: order o puts element ``orders[o, k]`` of a composition on the k-th set.
    """

    counts: Tensor
    known: Tensor
    groups: Tensor
    bases: Tensor
    positions: Tensor
    sets: Tensor
    orders: Tensor


@dataclass(frozen=True)
class ArrangementSizes:
    """Sizes of the network.

    Attributes:
        positions, bases: entries of the vocabularies, the unknown one included.
        width: of embeddings.
        hidden: of the hidden layers.
        rank: of the products of elements and sets.
    """

    positions: int
    bases: int
    width: int = 64
    hidden: int = 128
    rank: int = 96


class ArrangementNetwork(nn.Module):
    """Logits of arrangements.

    Args:
        sizes: of the network.
        dropout: share of the embeddings' entries that training hides.
    """

    def __init__(self, sizes: ArrangementSizes, dropout: float = 0.1) -> None:
        super().__init__()
        width, hidden, rank = sizes.width, sizes.hidden, sizes.rank
        self.sizes = sizes
        self.elements = nn.Embedding(MASK, width)
        self.groups = nn.Embedding(231, width)
        self.bases = nn.Embedding(sizes.bases, width, padding_idx=0)
        self.positions = nn.Embedding(sizes.positions, width, padding_idx=0)
        for table in (self.groups, self.bases, self.positions):
            with torch.no_grad():
                table.weight.mul_(0.3)
        self.composition = nn.Sequential(nn.Linear(3 * width + 2, hidden), nn.SiLU(), nn.Linear(hidden, rank))
        self.set = nn.Sequential(nn.Linear(4 * width, hidden), nn.SiLU(), nn.Linear(hidden, rank))
        self.bias = nn.Linear(rank, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, elements: Tensor, candidates: Candidates) -> Tensor:
        """Logits ``(B, T, O)`` of compositions.

        Args:
            elements: ``(B, K)`` atomic numbers, ``candidates.counts`` atoms each.
            candidates: what they are to be arranged like.
        """
        h, v = self._elements(elements, candidates.counts), self._sets(candidates)
        pairs = torch.einsum("bjd,tkd->btjk", h, v)
        ordered = torch.stack([pairs[..., k].index_select(2, order) for k, order in enumerate(candidates.orders.T)])
        return ordered.sum(0) + (candidates.known + self.bias(v).sum((1, 2)))[None, :, None]

    def _elements(self, elements: Tensor, counts: Tensor) -> Tensor:
        """``(B, K, rank)``: each element within its composition."""
        own = self.dropout(self.elements(elements))
        share = (counts / counts.sum())[:, None]
        by_atom, by_element = (own * share).sum(1, keepdim=True), own.mean(1, keepdim=True)
        numbers = torch.cat([share, counts[:, None].log()], -1).expand(len(elements), -1, -1)
        return self.composition(torch.cat([own, by_atom.expand_as(own), by_element.expand_as(own), numbers], -1))

    def _sets(self, candidates: Candidates) -> Tensor:
        """``(T, K, rank)``: the orbits of each element within their template."""
        templates, elements = len(candidates.known), len(candidates.counts)
        own = torch.zeros(templates * elements, self.sizes.width, device=candidates.sets.device)
        own = own.index_add(0, candidates.sets, self.positions(candidates.positions)).view(templates, elements, -1)
        whole = torch.stack([own.sum(1), self.groups(candidates.groups), self.bases(candidates.bases)], 1).flatten(1)
        return self.set(self.dropout(torch.cat([own, whole[:, None].expand(-1, elements, -1)], -1)))
