"""The transformer denoiser: attention over all pairs of atoms of a crystal, with geometry in every message.

Atoms carry a state h and ordered pairs a state e. A block lets each atom sum directions over its pairs (vectors and
traceless tensors, weighted by e), reads angles back into the pairs as scalar products with these sums, and attends:
the pair says how much an atom takes from another and which of its channels. Angles cost n^2 in this way, not n^3.
Only scalars reach h and e, and the coordinate output is a sum of vectors, so the network turns with the crystal; the
waves of fractional differences know which lattice vector is which, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import NUM_CLASSES
from crystalsmith.errors import InputError
from crystalsmith.network.basis import SinusoidalEncoding
from crystalsmith.network.conditioning import ConditionConfig, Conditioned, check_keys, read_conditions
from crystalsmith.network.context import CrystalContext
from crystalsmith.network.layers import recomputed
from crystalsmith.network.pairs import Pairs, build_pairs, num_scalars, traceless


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer.

    Attributes:
        width: channels of an atom.
        num_blocks: blocks.
        pair_width: channels of a pair.
        pair_hidden: channels inside the update of a pair.
        message_width: channels of a message between atoms.
        num_heads: attention weights per pair; they share the message's channels.
        cutoff: angstrom, of the radial functions.
        num_radial: Gaussians of distances.
        num_angular: Gaussians that go with directions.
        num_moments: directional sums per atom and degree.
        num_waves: frequencies of fractional differences; 0 leaves them out.
    """

    width: int = 192
    num_blocks: int = 5
    pair_width: int = 128
    pair_hidden: int = 128
    message_width: int = 128
    num_heads: int = 8
    cutoff: float = 7.0
    num_radial: int = 32
    num_angular: int = 12
    num_moments: int = 16
    num_waves: int = 3

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not (value > 0 or (entry.name in ("num_blocks", "num_waves") and value == 0)):
                raise InputError(f"The network setting {entry.name} is {value!r}; it must be positive.")
        if self.message_width % self.num_heads or self.width % 2:
            raise InputError("The network's message_width must be a multiple of num_heads, and width an even number.")
        if self.num_radial < 2 or self.num_angular < 2:
            raise InputError("The network settings num_radial and num_angular must be 2 or more.")


@dataclass(frozen=True)
class TransformerDenoiserConfig:
    """Everything that rebuilds the network before its weights are loaded.

    Attributes:
        transformer: sizes.
        conditions: properties it is conditioned on.
    """

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    conditions: tuple[ConditionConfig, ...] = ()

    @property
    def width(self) -> int:
        """Channels of an atom."""
        return self.transformer.width

    def edges(self, num_atoms: int) -> float:
        """Messages into all atoms of a crystal, for estimates of memory and time."""
        return float(num_atoms**2)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> TransformerDenoiserConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: if a key is unknown.
        """
        check_keys(TransformerDenoiserConfig, data)
        check_keys(TransformerConfig, data.get("transformer", {}))
        return TransformerDenoiserConfig(TransformerConfig(**data.get("transformer", {})), read_conditions(data))


TRANSFORMER_PRESETS: dict[str, TransformerDenoiserConfig] = {
    "transformer-tiny": TransformerDenoiserConfig(),
}
"""Sizes by name."""


class TransformerDenoiser(Conditioned):
    """A :class:`crystalsmith.contracts.Denoiser`; samples of a batch do not see one another.

    Attributes:
        checkpoint_activations: in training, keep what enters each block and compute the rest again for the gradient.
    """

    def __init__(self, config: TransformerDenoiserConfig) -> None:
        sizes = config.transformer
        width = sizes.width
        super().__init__(config.conditions, width, sizes.num_blocks)
        self.config = config
        self.checkpoint_activations = False
        self.time = SinusoidalEncoding(width)
        self.species = nn.Embedding(NUM_CLASSES, width)
        self.crystal = nn.Sequential(
            nn.Linear(width * (1 + len(self.base_names)) + 2, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.context = CrystalContext(width, sizes.num_blocks)
        self.pair = nn.Linear(num_scalars(sizes.num_radial, sizes.num_waves), sizes.pair_width)
        self.ends = nn.Linear(width, 2 * sizes.pair_width)
        self.vectors = nn.Linear(sizes.num_angular, sizes.num_moments, bias=False)
        self.tensors = nn.Linear(sizes.num_angular, sizes.num_moments, bias=False)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_blocks))
        self.force_head = _zero(nn.Linear(sizes.pair_width, sizes.num_moments))
        self.stress_head = _zero(nn.Linear(sizes.pair_width, sizes.num_moments))
        self.species_head = nn.Linear(width, NUM_CLASSES)

    def forward(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        """Scores of ``batch`` at times ``t (B,)``."""
        embedded = self.embed_properties(batch, conditions)
        pairs = self.pairs(batch)
        crystal = self._embed_crystal(batch, t, embedded)
        h = self.species(batch.atomic_numbers - 1) + crystal.index_select(0, batch.batch_index)
        first, second = self.ends(h).to(h.dtype).chunk(2, -1)
        e = self.pair(pairs.scalars)
        e = F.silu(e + gather(first, pairs.target, e) + gather(second, pairs.source, e))
        moments = torch.cat([self.vectors(pairs.vectors), self.tensors(pairs.tensors)], 1)  # (P, 8, num_moments)
        atoms = h.new_zeros(h.shape[0], 8)
        for index, block in enumerate(self.blocks):
            h = h + self.context.share(index, batch, h)
            h = self.adapt(h, index, batch, embedded)
            h, e, part = recomputed(self.checkpoint_activations, block, h, e, crystal, moments, pairs, batch)
            atoms = atoms + part
        return self._read_out(batch, h, e, moments, pairs, atoms)

    def pairs(self, batch: CrystalBatch) -> Pairs:
        """The pairs of a batch with the features that this network takes."""
        sizes = self.config.transformer
        return build_pairs(batch, sizes.cutoff, sizes.num_radial, sizes.num_angular, sizes.num_waves)

    def _embed_crystal(self, batch: CrystalBatch, t: Tensor, embedded: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """``(B, width)`` from time, shape and size of the cell, and base conditions."""
        with torch.autocast(t.device.type, enabled=False):
            gram = batch.cell.transpose(1, 2) @ batch.cell
            gram = gram / gram.diagonal(dim1=1, dim2=2).sum(-1).view(-1, 1, 1)
            square = gram @ gram
            shape = torch.stack([square, square @ gram], 1).diagonal(dim1=2, dim2=3).sum(-1)  # (B, 2)
        parts = [self.time(100.0 * t), shape, *(embedded[name][0] for name in self.base_names)]
        return self.crystal(torch.cat(parts, -1)).to(t.dtype) + self.context.embed(batch).to(t.dtype)

    def _read_out(
        self, batch: CrystalBatch, h: Tensor, e: Tensor, moments: Tensor, pairs: Pairs, atoms: Tensor
    ) -> Scores:
        with torch.autocast(h.device.type, enabled=False):
            dtype = self.species_head.weight.dtype
            h = h.to(dtype)
            e = F.layer_norm(e.to(dtype), e.shape[-1:])
            logits = self.species_head(F.layer_norm(h, h.shape[-1:]))
            vectors = moments[:, :3].to(dtype) @ self.force_head(e).unsqueeze(-1)
            tensors = moments[:, 3:].to(dtype) @ self.stress_head(e).unsqueeze(-1)
            atoms = atoms + sum_to_target(torch.cat([vectors, tensors], 1).squeeze(-1), pairs, h.shape[0])
            n = batch.num_atoms.to(dtype)
            inverse = torch.linalg.inv_ex(batch.cell).inverse
            size = _power(batch.volume.clamp(min=1e-3), 1.0 / 3.0).view(-1, 1, 1)
            frac = torch.einsum("ni,nij->nj", atoms[:, :3], (inverse * size)[batch.batch_index])
            crystals = torch.zeros(batch.num_crystals, 5, dtype=dtype, device=h.device)
            stress = crystals.index_add(0, batch.batch_index, atoms[:, 3:]) / n.unsqueeze(-1)
            cell = traceless(stress) + self.context.read(batch, h)
        return Scores(frac, cell, logits)


class Block(nn.Module):
    """Directional sums, angles into the pairs, attention, and a feed-forward layer; time modulates the norms."""

    def __init__(self, sizes: TransformerConfig) -> None:
        super().__init__()
        width, moments = sizes.width, sizes.num_moments
        self.parts = [moments, sizes.num_heads, sizes.message_width, sizes.pair_hidden]
        self.num_heads = sizes.num_heads
        self.modulation = _zero(nn.Linear(width, 6 * width))
        self.pair_in = nn.Linear(sizes.pair_width, sum(self.parts))
        self.atom_in = nn.Linear(width, sizes.message_width + 2 * sizes.pair_hidden)
        self.angles = nn.Linear(4 * moments, sizes.pair_hidden, bias=False)
        self.pair_out = nn.Linear(sizes.pair_hidden, sizes.pair_width)
        self.atom_out = nn.Linear(sizes.message_width + 2 * moments, width)
        self.read = _zero(nn.Linear(width, 2 * moments))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.width, self.message_width, self.pair_hidden = width, sizes.message_width, sizes.pair_hidden

    def forward(
        self, h: Tensor, e: Tensor, crystal: Tensor, moments: Tensor, pairs: Pairs, batch: CrystalBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New h and e, and what the atoms' directional sums say of force and stress, ``(N, 8)``.

        Args:
            h, e: ``(N, width)`` and ``(P, pair_width)``.
            crystal: ``(B, width)``, which modulates the norms.
            moments: ``(P, 8, M)``, directions times radial functions of each pair.
        """
        modulation = self.modulation(F.silu(crystal)).to(h.dtype).index_select(0, batch.batch_index)
        scale, shift, gate, scale2, shift2, gate2 = modulation.chunk(6, -1)
        x = F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift
        weight, logits, channels, hidden = self.pair_in(F.layer_norm(e, e.shape[-1:])).split(self.parts, -1)
        values, first, second = (
            self.atom_in(x).to(h.dtype).split([self.message_width, self.pair_hidden, self.pair_hidden], -1)
        )
        sums = sum_to_target((moments * weight.unsqueeze(1)).flatten(1), pairs, h.shape[0])
        own, angles = self._angles(sums, moments, pairs)
        message = self._attend(logits, channels, values, pairs, h)
        h = h + (1 + gate) * self.atom_out(torch.cat([message, own], -1))
        hidden = hidden + gather(first, pairs.target, e) + gather(second, pairs.source, e) + self.angles(angles)
        e = e + self.pair_out(F.silu(hidden))
        x = F.layer_norm(h, h.shape[-1:]) * (1 + scale2) + shift2
        force, stress = self.read(x).to(h.dtype).unsqueeze(1).chunk(2, -1)
        by_atom = sums.view(-1, *moments.shape[1:])
        part = torch.cat([(by_atom[:, :3] * force).sum(-1), (by_atom[:, 3:] * stress).sum(-1)], -1)
        return h + (1 + gate2) * self.feed(x), e, part

    def _angles(self, sums: Tensor, moments: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Lengths of each atom's directional sums ``(N, 2M)``, and each pair's products with both ends' ``(P, 4M)``."""
        by_atom = (0.3 * sums).view(-1, *moments.shape[1:])
        squares = by_atom.square()
        own = torch.cat([squares[:, :3].sum(1), squares[:, 3:].sum(1)], -1)
        angles = []
        for end in (pairs.target, pairs.source):
            products = moments * gather(by_atom, end, moments)
            angles += [products[:, :3].sum(1), products[:, 3:].sum(1)]
        return (own + 1e-6).sqrt(), torch.cat(angles, -1)

    def _attend(self, logits: Tensor, channels: Tensor, values: Tensor, pairs: Pairs, h: Tensor) -> Tensor:
        """``(N, message_width)``: channel by channel, gated by the pair and weighted by a softmax over sources."""
        # The bound takes the place of the usual shift by the largest: exp(15) times any number of atoms is finite.
        weight = torch.exp(15.0 * torch.tanh(logits.to(h.dtype) / 15.0))
        total = sum_to_target(weight, pairs, h.shape[0])
        weight = (weight / total.index_select(0, pairs.target)).to(channels.dtype)
        message = channels * gather(values, pairs.source, channels)
        message = (message.unflatten(-1, (self.num_heads, -1)) * weight.unsqueeze(-1)).flatten(1)
        return sum_to_target(message, pairs, h.shape[0])


def gather(atoms: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Rows of ``atoms`` in the precision of ``like``; gradients are summed in the precision of ``atoms``."""
    return atoms.index_select(0, index).to(like.dtype)


def sum_to_target(values: Tensor, pairs: Pairs, num_atoms: int) -> Tensor:
    """``(P, C)`` -> ``(N, C)``, summed in float32 at least."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    zeros = torch.zeros(num_atoms, values.shape[1], dtype=wide.dtype, device=wide.device)
    return zeros.index_add(0, pairs.target, wide)


def _power(x: Tensor, exponent: float) -> Tensor:
    return torch.exp(exponent * x.log())


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
