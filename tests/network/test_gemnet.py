"""The blocks compute what the formulas say, although they multiply in another order (spec 4.2 to 4.7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.neighbors import EdgeTable, build_edges
from crystalsmith.network.gemnet import (
    AtomUpdate,
    BasisProjection,
    EdgeBasis,
    EdgeEmbedding,
    ForceHead,
    GemNetConfig,
    LatticeEmbedding,
    LatticeHead,
    TripletInteraction,
)
from crystalsmith.network.layers import scaled_silu

DT = torch.float64
CONFIG = GemNetConfig(
    width=10,
    num_blocks=1,
    cutoff=4.5,
    max_neighbors=8,
    num_radial=9,
    num_spherical=3,
    width_triplet=5,
    width_bilinear=4,
    width_rbf=6,
    width_cbf=3,
    head_residuals=2,
)


@pytest.fixture
def edges(make_batch: Callable[..., CrystalBatch]) -> EdgeTable:
    table = build_edges(make_batch([3, 1, 4], seed=9), CONFIG.cutoff, CONFIG.max_neighbors)
    assert table.num_edges > 20
    return table


def double(module: torch.nn.Module) -> torch.nn.Module:
    """In double precision, with scale factors that matter."""
    for index, buffer in enumerate(module.buffers()):
        if buffer.dim() == 0:
            buffer.fill_(1.5 + index)
    return module.double()


def values(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=DT)


@pytest.fixture
def projected(edges: EdgeTable) -> tuple[BasisProjection, Tensor, EdgeBasis]:
    torch.manual_seed(1)
    projection = BasisProjection(CONFIG).double()
    return projection, *projection(edges)


def test_edge_embedding_is_the_product_with_both_atoms_and_the_edge(edges: EdgeTable) -> None:
    torch.manual_seed(0)
    module = EdgeEmbedding(10, 7, 12).double()
    h, x = values(edges.shape[0], 10), values(edges.num_edges, 7, 1)
    expected = scaled_silu(torch.cat([h[edges.source], h[edges.target], x], -1) @ module.dense.weight.T)
    torch.testing.assert_close(module(h, x, edges), expected)


def test_lattice_embedding_is_the_product_with_edge_and_cosines(edges: EdgeTable) -> None:
    torch.manual_seed(0)
    module = LatticeEmbedding(10).double()
    m, cosines = values(edges.num_edges, 10), values(edges.num_edges, 3, 1)
    expected = module.linear2(torch.relu(module.linear1(torch.cat([m, cosines], -1))))
    torch.testing.assert_close(module(m, cosines), expected)


def test_projections_of_the_basis(edges: EdgeTable, projected: tuple[BasisProjection, Tensor, EdgeBasis]) -> None:
    projection, radial, basis = projected
    torch.testing.assert_close(radial, projection.radial(edges.distance))
    for name in ("triplet", "atom", "output", "lattice"):
        torch.testing.assert_close(getattr(basis, name), radial @ getattr(projection, name).weight.T)
    circular = torch.einsum("er,lri->eil", radial, projection.circular)
    torch.testing.assert_close(basis.circular, circular)


def test_heads_are_scalar_products(edges: EdgeTable, projected: tuple[BasisProjection, Tensor, EdgeBasis]) -> None:
    torch.manual_seed(0)
    _, _, basis = projected
    m = values(edges.num_edges, 10)
    force = double(ForceHead(CONFIG, 0))
    x = force.residuals(force.dense(m)) * (basis.output @ force.radial.weight.T) * force.scale
    torch.testing.assert_close(force(m, basis), (x @ force.out.weight.T).squeeze(-1))
    lattice = double(LatticeHead(CONFIG))
    y = scaled_silu(m @ lattice.dense1.weight.T) @ lattice.dense2.weight.T
    expected = ((y * (basis.lattice @ lattice.radial.weight.T)) @ lattice.out.weight.T).squeeze(-1)
    torch.testing.assert_close(lattice(m, basis), expected)


def test_atoms_sum_over_the_edges_that_reach_them(
    edges: EdgeTable, projected: tuple[BasisProjection, Tensor, EdgeBasis]
) -> None:
    torch.manual_seed(0)
    _, _, basis = projected
    module = double(AtomUpdate(CONFIG, 0))
    m = values(edges.num_edges, 10)
    weighted = m * (basis.atom @ module.radial.weight.T) * module.scale
    sums = torch.zeros(edges.shape[0], 10, dtype=DT)
    for edge, target in enumerate(edges.target.tolist()):
        sums[target] += weighted[edge]
    torch.testing.assert_close(module(m, basis, edges), module.residuals(module.dense(sums)))


def test_triplets_are_all_pairs_of_different_edges_of_one_atom(
    edges: EdgeTable, projected: tuple[BasisProjection, Tensor, EdgeBasis]
) -> None:
    torch.manual_seed(0)
    projection, radial, basis = projected
    module = double(TripletInteraction(CONFIG, 0))
    m = values(edges.num_edges, 10)
    x = module.dense(m) * (basis.triplet @ module.radial.weight.T) * module.scale_rbf
    x = module.down(x).detach()
    unit = (-edges.vector / edges.distance.unsqueeze(-1)).numpy()
    summed = torch.zeros(edges.num_edges, CONFIG.num_spherical, CONFIG.width_triplet, dtype=DT)
    for e, target in enumerate(edges.target.tolist()):
        for g in (edges.target == target).nonzero().view(-1).tolist():
            if g == e:
                continue
            cosine = float(unit[e] @ unit[g])
            for order in range(CONFIG.num_spherical):
                legendre = np.polynomial.legendre.Legendre.basis(order)(cosine)
                summed[e, order] += math.sqrt((2 * order + 1) / (4 * math.pi)) * legendre * x[g]
    w1 = torch.einsum("er,lri->eil", radial, projection.circular)
    out = module.scale_cbf * torch.einsum("eil,elj,jik->ek", w1, summed, module.bilinear)
    expected = (module.up(out) + module.up_mirror(out)[edges.mirror]) / math.sqrt(2)
    torch.testing.assert_close(module(m, basis, edges), expected)
