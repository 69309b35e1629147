"""GemNet-T blocks over an edge table (Gasteiger et al., "GemNet: universal directional graph neural networks", 2021).

Edge values are ``(E, width)``; triplets are a dense product over the neighbours x neighbours of each atom. The formulas
are those of the MatterGen variant (GemNet-dT with the lattice in its edges), reordered where the same function costs
less: products with concatenated atom vectors are taken on atoms before they are gathered to edges, and the heads are
folded into the projections next to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalsmith.errors import InputError
from crystalsmith.neighbors import EdgeRule, EdgeTable
from crystalsmith.network.basis import RadialBasis, zonal_harmonics
from crystalsmith.network.layers import Dense, Residual, half_sum, he_orthogonal_, scaled_silu, stack

_MAY_BE_ZERO = ("num_blocks", "head_residuals", "attention_heads")


@dataclass(frozen=True)
class GemNetConfig:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        width: of atom, edge, time and property vectors.
        num_blocks: interaction blocks.
        cutoff: angstrom.
        max_neighbors: see :mod:`crystalsmith.neighbors`.
        edge_rule: "mutual" or "published".
        max_images: lattice images searched per direction.
        num_radial, num_spherical: sizes of the bases.
        width_triplet, width_bilinear, width_rbf, width_cbf: inner widths of the interaction blocks.
        head_residuals: residual layers of each force head.
        crystal_context: let atoms know their crystal as a whole, see :mod:`crystalsmith.network.context` (not in the
            published model).
        attention_heads: of the attention among all atoms of a crystal (:mod:`crystalsmith.network.attention`); 0 = no
            attention, as in the published model.
    """

    width: int = 512
    num_blocks: int = 4
    cutoff: float = 7.0
    max_neighbors: int = 50
    edge_rule: EdgeRule = "mutual"
    max_images: int = 5
    num_radial: int = 128
    num_spherical: int = 7
    width_triplet: int = 64
    width_bilinear: int = 64
    width_rbf: int = 16
    width_cbf: int = 16
    head_residuals: int = 3
    crystal_context: bool = False
    attention_heads: int = 0

    def __post_init__(self) -> None:
        if self.edge_rule not in ("mutual", "published"):
            raise InputError(f"The network setting edge_rule is {self.edge_rule!r}; use mutual or published.")
        for entry in fields(self):
            value, may_be_zero = getattr(self, entry.name), entry.name in _MAY_BE_ZERO
            if isinstance(entry.default, bool | str):
                continue
            if not (value > 0 or (may_be_zero and value == 0)):
                raise InputError(f"The network setting {entry.name} is {value!r}; it must be positive.")
        if self.attention_heads and self.width % self.attention_heads:
            raise InputError(f"The network's width {self.width} is no multiple of attention_heads.")


# Scale factors of GemNet-dT for three interaction blocks; further blocks have 1 (published table).
_SCALE_RBF = (18.873615264892578, 16.10817527770996, 15.01930046081543)
_SCALE_CBF = (7.996850490570068, 7.614634037017822, 7.025179862976074)
_SCALE_ATOM = (1.220463752746582, 0.9690994620323181, 0.8903237581253052)
_SCALE_OUT = (16.161039352416992, 13.54678726196289, 12.754337310791016, 13.484951972961426)


def _scale(module: nn.Module, name: str, table: tuple[float, ...], index: int) -> None:
    module.register_buffer(name, torch.tensor(table[index] if index < len(table) else 1.0))


@dataclass(frozen=True)
class EdgeBasis:
    """What every block reads of the geometry.

    Attributes:
        triplet, atom, output, lattice: ``(E, width_rbf)`` projections of the radial basis.
        circular: ``(E, width_cbf, num_spherical)``.
        angular: ``(N, K * num_spherical, K)``: Y_l of the angle between edges e (row) and g (column) of one target
            atom, zero where e = g or either is missing.
    """

    triplet: Tensor
    atom: Tensor
    output: Tensor
    lattice: Tensor
    circular: Tensor
    angular: Tensor

    def repeat(self, copies: int) -> EdgeBasis:
        """The basis of a batch in which the same crystals stand ``copies`` times."""
        if copies == 1:
            return self
        tensors = (getattr(self, entry.name) for entry in fields(self))
        return EdgeBasis(*(x.repeat(copies, *[1] * (x.dim() - 1)) for x in tensors))


class BasisProjection(nn.Module):
    """Shared down-projections of the radial basis."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.config = config
        self.radial = RadialBasis(config.num_radial, config.cutoff)
        self.triplet, self.atom, self.output, self.lattice = (
            Dense(config.num_radial, config.width_rbf) for _ in range(4)
        )
        self.circular = nn.Parameter(torch.empty(config.num_spherical, config.num_radial, config.width_cbf))
        he_orthogonal_(self.circular, (0, 1))

    def forward(self, edges: EdgeTable) -> tuple[Tensor, EdgeBasis]:
        """Radial basis ``(E, num_radial)`` and its projections; the geometry is always in full precision."""
        config = self.config
        with torch.autocast(edges.vector.device.type, enabled=False):
            radial = self.radial(edges.distance)
            angular = self._angular(edges)
        weights = [layer.weight for layer in (self.triplet, self.atom, self.output, self.lattice)]
        circular_weight = self.circular.permute(2, 0, 1).reshape(-1, config.num_radial)  # (i, l) x radial
        sizes = [config.width_rbf] * 4 + [config.width_cbf * config.num_spherical]
        # One product with all projections; the radial basis is the widest thing that an edge carries.
        parts = F.linear(radial, torch.cat([*weights, circular_weight])).split(sizes, dim=-1)
        triplet, atom, output, lattice, circular = parts
        circular = circular.unflatten(-1, (config.width_cbf, config.num_spherical))
        return radial, EdgeBasis(triplet, atom, output, lattice, circular, angular)

    def _angular(self, edges: EdgeTable) -> Tensor:
        direction = edges.pad(-edges.vector / edges.distance.unsqueeze(-1))
        cosine = torch.clamp(direction @ direction.transpose(1, 2), -1, 1)
        width = cosine.shape[1]
        pairs = edges.mask.unsqueeze(1) & edges.mask.unsqueeze(2)
        pairs = pairs & ~torch.eye(width, dtype=torch.bool, device=cosine.device)
        harmonics = zonal_harmonics(cosine, self.config.num_spherical)
        return torch.stack([y * pairs for y in harmonics], dim=2).flatten(1, 2)


class EdgeEmbedding(nn.Module):
    """sigma(W [h_source; h_target; x]) with the atoms' part of the product taken on atoms."""

    def __init__(self, width_atom: int, width_x: int, width: int) -> None:
        super().__init__()
        self.width_atom = width_atom
        self.dense = Dense(2 * width_atom + width_x, width)

    def forward(self, h: Tensor, x: Tensor, edges: EdgeTable) -> Tensor:
        w_source, w_target, w_x = self.dense.weight.split(
            [self.width_atom, self.width_atom, self.dense.in_features - 2 * self.width_atom], dim=1
        )
        at_source, at_target = F.linear(h, w_source), F.linear(h, w_target)
        y = F.linear(x, w_x)
        y = y + edges.at_source(at_source.to(y.dtype)) + edges.at_target(at_target.to(y.dtype))
        return scaled_silu(y)


class LatticeEmbedding(nn.Module):
    """Signed cosines between an edge and the three lattice vectors enter the edges: A2 relu(A1 [m; c] + b1) + b2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width + 3, width), nn.Linear(width, width)

    def forward(self, m: Tensor, cosines: Tensor) -> Tensor:
        """``m (E, width)``, ``cosines (E, 3)``."""
        w_m, w_c = self.linear1.weight.split([m.shape[-1], 3], dim=1)
        return self.linear2(F.relu(F.linear(m, w_m, self.linear1.bias) + F.linear(cosines, w_c)))


class TripletInteraction(nn.Module):
    """Messages along the triplets (b -> a <- c), by a bilinear product of angles and edge values."""

    def __init__(self, config: GemNetConfig, index: int) -> None:
        super().__init__()
        self.dense = Dense(config.width, config.width, True)
        self.radial = Dense(config.width_rbf, config.width)
        self.down = Dense(config.width, config.width_triplet, True)
        self.bilinear = nn.Parameter(torch.empty(config.width_triplet, config.width_cbf, config.width_bilinear))
        he_orthogonal_(self.bilinear, (0, 1))
        self.up = Dense(config.width_bilinear, config.width, True)
        self.up_mirror = Dense(config.width_bilinear, config.width, True)
        self.scale_rbf: Tensor
        self.scale_cbf: Tensor
        _scale(self, "scale_rbf", _SCALE_RBF, index)
        _scale(self, "scale_cbf", _SCALE_CBF, index)

    def forward(self, m: Tensor, basis: EdgeBasis, edges: EdgeTable) -> Tensor:
        atoms, width = edges.shape
        x = self.dense(m) * F.linear(basis.triplet, self.radial.weight * self.scale_rbf)
        x = edges.pad(self.down(x))
        # S[e, l, :] = sum over the other edges g of e's target of Y_l(cos(e, g)) x[g, :]
        spherical = torch.bmm(basis.angular.to(x.dtype), x).view(atoms, width, -1)
        per_edge = edges.unpad(spherical).unflatten(-1, (-1, x.shape[-1]))
        mixed = torch.bmm(basis.circular.to(per_edge.dtype), per_edge)  # (E, i, j)
        kernel = (self.bilinear * self.scale_cbf).transpose(0, 1).flatten(0, 1)  # (i, j) x k
        out = mixed.flatten(1) @ kernel.to(mixed.dtype)
        return half_sum(self.up(out), edges.swap(self.up_mirror(out)))


class AtomUpdate(nn.Module):
    """Atoms from the edges that reach them."""

    def __init__(self, config: GemNetConfig, index: int) -> None:
        super().__init__()
        self.radial = Dense(config.width_rbf, config.width)
        self.dense = Dense(config.width, config.width, True)
        self.residuals = stack(3, config.width)
        self.scale: Tensor
        _scale(self, "scale", _SCALE_ATOM, index)

    def forward(self, m: Tensor, basis: EdgeBasis, edges: EdgeTable) -> Tensor:
        gathered = edges.sum_to_target(m * F.linear(basis.atom, self.radial.weight * self.scale))
        return self.residuals(self.dense(gathered))


class InteractionBlock(nn.Module):
    """One round of messages: edges from triplets, atoms from edges, edges from atoms."""

    def __init__(self, config: GemNetConfig, index: int) -> None:
        super().__init__()
        width = config.width
        self.dense = Dense(width, width, True)
        self.triplets = TripletInteraction(config, index)
        self.before_skip, self.after_skip = stack(1, width), stack(2, width)
        self.atom_update = AtomUpdate(config, index)
        self.concat = EdgeEmbedding(width, width, width)
        self.after_concat = Residual(width)

    def forward(self, h: Tensor, m: Tensor, basis: EdgeBasis, edges: EdgeTable) -> tuple[Tensor, Tensor]:
        x = half_sum(self.dense(m), self.triplets(m, basis, edges))
        m = self.after_skip(half_sum(m, self.before_skip(x)))
        h = half_sum(h, self.atom_update(m, basis, edges))
        return h, half_sum(m, self.after_concat(self.concat(h, m, edges)))


class ForceHead(nn.Module):
    """One scalar per edge along its direction: w . (x * (W rbf)) with x from residual layers on the edges."""

    def __init__(self, config: GemNetConfig, index: int) -> None:
        super().__init__()
        self.dense = Dense(config.width, config.width, True)
        self.residuals = stack(config.head_residuals, config.width)
        self.radial = Dense(config.width_rbf, config.width)
        self.out = Dense(config.width, 1)
        self.scale: Tensor
        _scale(self, "scale", _SCALE_OUT, index)

    def forward(self, m: Tensor, basis: EdgeBasis) -> Tensor:
        x = self.residuals(self.dense(m))
        folded = self.radial.weight * self.out.weight.view(-1, 1) * self.scale  # width x width_rbf
        return _row_dot(x, folded, basis.output)


class LatticeHead(nn.Module):
    """One scalar per edge for the cell: w . (y * (W rbf)), y = P1 sigma(P0 m)."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.dense1, self.dense2 = Dense(config.width, config.width, True), Dense(config.width, config.width)
        self.radial = Dense(config.width_rbf, config.width)
        self.out = Dense(config.width, 1)

    def forward(self, m: Tensor, basis: EdgeBasis) -> Tensor:
        folded = self.dense2.weight.t() @ (self.radial.weight * self.out.weight.view(-1, 1))
        return _row_dot(self.dense1(m), folded, basis.lattice)


def _row_dot(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """``((x @ weight) * y).sum(-1)`` with the sum in full precision, ``(E,)``."""
    product = x @ weight.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(x.dtype, torch.float32)
        return (product.to(wide) * y.to(wide)).sum(-1)
