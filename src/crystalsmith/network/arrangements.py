"""How a composition would be arranged, judging by known crystals: its Wyckoff template, and which element is where.

The choice among known arrangements is made from the composition alone, before any coordinate exists (as in template
retrieval: Kusaba, Liu and Yoshida, Comput. Mater. Sci. 211, 111496, 2022; the network is our own). The logit of a
template with an order of the elements is

    c log(crystals that have the template) + b + sum over the elements' sets of orbits k of <h(element on k), v(k)>
        + a log(e + sum over those crystals of exp(-sum over k of w(k) |u(element on k) - u(theirs)|^2))

where h and u see an element within its composition, v the Wyckoff positions of a set, those of the whole template, the
space group and the basis of the reduced cell, and w the number of atoms on k. The last sum is a memory: it counts the
known crystals of the template by how much their elements are like the composition's, as a kernel density estimate does
(Parzen, Ann. Math. Stat. 33, 1065, 1962); training leaves a crystal's own entry out. Nothing is learned for a template
as such, so others than those of the training are judged as well.
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
        remembered: ``(N, K)`` int64, elements of the known crystals that are remembered, in the order of the sets.
        rows: ``(N,)`` int64 in 0..T - 1, their templates.
    """

    counts: Tensor
    known: Tensor
    groups: Tensor
    bases: Tensor
    positions: Tensor
    sets: Tensor
    orders: Tensor
    remembered: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ArrangementSizes:
    """Sizes of the network.

    Attributes:
        positions, bases: entries of the vocabularies, the unknown one included.
        width: of embeddings.
        hidden: of the hidden layers.
        rank: of the products of elements and sets.
        kernel: of the vectors by which a composition is compared with remembered ones; 0 = nothing is remembered.
    """

    positions: int
    bases: int
    width: int = 64
    hidden: int = 128
    rank: int = 96
    kernel: int = 32


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
        self.memory = Memory(sizes.kernel, self.dropout) if sizes.kernel else None

    def forward(self, elements: Tensor, candidates: Candidates, own: Tensor | None = None) -> Tensor:
        """Logits ``(B, T, O)`` of compositions.

        Args:
            elements: ``(B, K)`` atomic numbers, ``candidates.counts`` atoms each.
            candidates: what they are to be arranged like.
            own: ``(B,)``, the remembered crystal that each composition is itself and so must not ask; None for others.
        """
        h, v = self._elements(elements, candidates.counts), self._sets(candidates)
        pairs = torch.einsum("bjd,tkd->btjk", h, v)
        ordered = torch.stack([pairs[..., k].index_select(2, order) for k, order in enumerate(candidates.orders.T)])
        if self.memory is None:
            return ordered.sum(0) + (candidates.known + self.bias(v).sum((1, 2)))[None, :, None]
        known = self.memory.common * candidates.known + self.bias(v).sum((1, 2))
        return ordered.sum(0) + known[None, :, None] + self.memory(elements, candidates, own)

    def _elements(self, elements: Tensor, counts: Tensor) -> Tensor:
        """``(B, K, rank)``: each element within its composition."""
        return self.composition(within(self.dropout(self.elements(elements)), counts))

    def _sets(self, candidates: Candidates) -> Tensor:
        """``(T, K, rank)``: the orbits of each element within their template."""
        templates, elements = len(candidates.known), len(candidates.counts)
        own = torch.zeros(templates * elements, self.sizes.width, device=candidates.sets.device)
        own = own.index_add(0, candidates.sets, self.positions(candidates.positions)).view(templates, elements, -1)
        whole = torch.stack([own.sum(1), self.groups(candidates.groups), self.bases(candidates.bases)], 1).flatten(1)
        return self.set(self.dropout(torch.cat([own, whole[:, None].expand(-1, elements, -1)], -1)))


class Memory(nn.Module):
    """How much a composition is like the known crystals of each template.

    Args:
        width: of the vectors that are compared.
        dropout: of their entries.
    """

    def __init__(self, width: int, dropout: nn.Dropout) -> None:
        super().__init__()
        self.elements = nn.Embedding(MASK, width)
        with torch.no_grad():
            self.elements.weight.mul_(0.5)
        self.context = nn.Sequential(nn.Linear(3 * width + 2, 128), nn.SiLU(), nn.Linear(128, width))
        self.weight = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
        self.dropout = dropout
        self.floor = nn.Parameter(torch.tensor(-2.0))
        self.common = nn.Parameter(torch.tensor(0.5))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, elements: Tensor, candidates: Candidates, own: Tensor | None) -> Tensor:
        """``(B, T, O)``: the last term of the logits; the arguments are those of :class:`ArrangementNetwork`."""
        asked, there = self._vectors(elements, candidates), self._vectors(candidates.remembered, candidates)
        weights = nn.functional.softplus(self.weight(shares(candidates.counts)))[:, 0]
        alike = torch.zeros(len(elements), len(candidates.orders), len(there), device=elements.device)
        for k, order in enumerate(candidates.orders.T):
            products = 2.0 * asked @ there[:, k].T
            distances = asked.square().sum(-1)[..., None] + there[:, k].square().sum(-1) - products
            alike = alike - weights[k] * distances.index_select(1, order)
        alike = alike.exp()
        if own is not None:
            alike = alike.scatter(2, own[:, None, None].expand(-1, alike.shape[1], 1), 0.0)
        sums = alike.new_zeros(*alike.shape[:2], len(candidates.known)).index_add(2, candidates.rows, alike)
        return self.scale * (sums + nn.functional.softplus(self.floor)).log().transpose(1, 2)

    def _vectors(self, elements: Tensor, candidates: Candidates) -> Tensor:
        own = self.dropout(self.elements(elements))
        return own + self.context(within(own, candidates.counts))


def shares(counts: Tensor) -> Tensor:
    """``(K, 2)``: the share of each element's atoms, and the logarithm of their number."""
    return torch.stack([counts / counts.sum(), counts.log()], -1)


def within(own: Tensor, counts: Tensor) -> Tensor:
    """Elements ``(B, K, width)`` within their composition: beside each the means by atom and element, and numbers."""
    numbers = shares(counts)
    by_atom, by_element = (own * numbers[:, :1]).sum(1, keepdim=True), own.mean(1, keepdim=True)
    numbers = numbers.expand(len(own), -1, -1)
    return torch.cat([own, by_atom.expand_as(own), by_element.expand_as(own), numbers], -1)
