"""Laws of the periodic neighbour lists: a brute-force search, the symmetries, and the table operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.neighbors import EdgeTable, build_edges

Make = Callable[..., CrystalBatch]
Edge = tuple[int, int, int, int, int]
"""Target, source, and the lattice translation of the source."""


def edge_set(table: EdgeTable, atoms: range | None = None) -> set[Edge]:
    """All edges, or those of a range of atoms with the atoms counted from its start."""
    columns = torch.cat([table.target[:, None], table.source[:, None], table.image], 1).tolist()
    if atoms is None:
        return {tuple(row) for row in columns}
    return {(t - atoms.start, s - atoms.start, *n) for t, s, *n in columns if t in atoms}


def vector_set(table: EdgeTable) -> set[tuple[int, ...]]:
    """Target, source and rounded vector: what is left when images are counted from another origin."""
    rows = zip(table.target.tolist(), table.source.tolist(), (table.vector * 1e5).round().long().tolist(), strict=True)
    return {(t, s, *v) for t, s, v in rows}


def candidates(
    frac: np.ndarray, cell: np.ndarray, cutoff: float, max_images: int | None = None
) -> list[tuple[int, int, tuple[int, ...], float]]:
    """Every (target, source, image, distance) within the cut-off, image by image in float64."""
    volume = abs(np.linalg.det(cell))
    reach = [int(np.ceil(cutoff * np.linalg.norm(np.cross(cell[k - 2], cell[k - 1])) / volume)) for k in range(3)]
    # Without a bound, one image more than is needed: the search under test must not miss any.
    reach = [r + 1 if max_images is None else min(r, max_images) for r in reach]
    found = []
    for image in itertools.product(*(range(-r, r + 1) for r in reach)):
        for i, j in itertools.product(range(len(frac)), repeat=2):
            distance = float(np.linalg.norm((frac[j] + image - frac[i]) @ cell))
            if 0.01 < distance <= cutoff:
                found.append((i, j, image, distance))
    return found


def brute_mutual(frac: np.ndarray, cell: np.ndarray, cutoff: float, max_neighbors: int) -> set[Edge]:
    near = candidates(frac, cell, cutoff)
    limit = np.full(len(frac), cutoff)
    for atom in range(len(frac)):
        distances = sorted(d for i, _, _, d in near if i == atom)
        if len(distances) > max_neighbors:
            limit[atom] = distances[max_neighbors] - 1e-3
    return {(i, j, *n) for i, j, n, d in near if d <= min(limit[i], limit[j])}


def brute_published(frac: np.ndarray, cell: np.ndarray, cutoff: float, max_neighbors: int) -> set[Edge]:
    near = candidates(frac, cell, cutoff, max_images=5)
    edges = set()
    for atom in range(len(frac)):
        nearest = sorted((d, j, n) for i, j, n, d in near if i == atom)[:max_neighbors]
        for _, j, n in nearest:
            if j < atom or (j == atom and n < (0, 0, 0)):
                edges |= {(atom, j, *n), (j, atom, *(-k for k in n))}
    return edges


def crystal(frac: list[list[float]], cell: list[list[float]]) -> CrystalBatch:
    return CrystalBatch.from_arrays([(frac, cell, [6] * len(frac))], torch.float64)


def special_cells() -> dict[str, CrystalBatch]:
    """Cells for which a search over a fixed number of images, or along the edges' lengths, goes wrong."""
    generator = torch.Generator().manual_seed(3)
    three = torch.rand(3, 3, generator=generator, dtype=torch.float64).tolist()
    return {
        "thin plate": crystal(three, [[1.7, 0, 0], [0.3, 8, 0], [0.1, 0.2, 7]]),
        "needle": crystal(three, [[1.5, 0, 0], [0.2, 1.8, 0], [0.1, 0.4, 19]]),
        "one atom": crystal([[0.3, 0.9, 0.1]], [[2.6, 0, 0], [0.4, 2.7, 0], [0.2, 0.5, 2.9]]),
        "sheared": crystal(three, [[4, 0, 0], [7.6, 3.5, 0], [-6.5, 5, 4.2]]),
        "left-handed": crystal(three, [[0, 4.1, 0.3], [4.5, 0.2, 0], [0.3, 0, 5]]),
    }


def all_cells(make_batch: Make) -> dict[str, CrystalBatch]:
    return {"ordinary": make_batch([7], seed=5), **special_cells()}


@pytest.mark.parametrize("max_neighbors", [8, 24, 1000])
@pytest.mark.parametrize("name", ["ordinary", *special_cells()])
def test_mutual_rule_is_the_brute_force_search(make_batch: Make, name: str, max_neighbors: int) -> None:
    batch = all_cells(make_batch)[name]
    expected = brute_mutual(batch.frac_coords.numpy(), batch.cell[0].numpy(), 5.5, max_neighbors)
    assert expected
    assert edge_set(build_edges(batch, 5.5, max_neighbors, max_images=9)) == expected


@pytest.mark.parametrize("max_neighbors", [8, 24, 1000])
@pytest.mark.parametrize("name", ["ordinary", "thin plate", "needle", "sheared", "left-handed"])
def test_published_rule_is_the_brute_force_search(make_batch: Make, name: str, max_neighbors: int) -> None:
    batch = all_cells(make_batch)[name]
    frac, cell = batch.frac_coords.numpy(), batch.cell[0].numpy()
    distances = [sorted(d for k, _, _, d in candidates(frac, cell, 5.5) if k == i) for i in range(len(frac))]
    # An atom sees its own images in pairs at +d and -d: move a limit that would leave the choice to a tie.
    while any(len(d) > max_neighbors and d[max_neighbors] - d[max_neighbors - 1] < 1e-6 for d in distances):
        max_neighbors += 1
    expected = brute_published(frac, cell, 5.5, max_neighbors)
    assert expected
    assert edge_set(build_edges(batch, 5.5, max_neighbors, "published")) == expected


def test_published_rule_searches_five_images_at_most(make_batch: Make) -> None:
    chain = crystal([[0, 0, 0]], [[0.9, 0, 0], [0, 20, 0], [0, 0, 20]])
    images = build_edges(chain, 7.0, 50, "published").image[:, 0].tolist()
    assert sorted(images) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    images = build_edges(chain, 7.0, 50, "published", max_images=9).image[:, 0].tolist()
    assert sorted(images) == [n for n in range(-7, 8) if n]


@pytest.mark.parametrize("rule", ["mutual", "published"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_edges_hold_together(make_batch: Make, rule: str, dtype: torch.dtype) -> None:
    batch = make_batch([1, 4, 9, 2, 12], seed=1).to(dtype=dtype)
    table = build_edges(batch, 6.0, 20, rule)  # type: ignore[arg-type]
    assert table.num_edges > 100
    assert (table.target.diff() >= 0).all()
    assert torch.equal(batch.batch_index[table.source], batch.batch_index[table.target])
    cell = batch.cell[batch.batch_index[table.target]]
    shift = batch.frac_coords[table.source] - batch.frac_coords[table.target] + table.image
    torch.testing.assert_close(table.vector, torch.einsum("ei,eij->ej", shift, cell), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(table.distance, table.vector.norm(dim=-1))
    # The mirror is an involution without fixed points that turns every edge round.
    mirror = table.mirror
    assert torch.equal(mirror[mirror], torch.arange(table.num_edges))
    assert (mirror != torch.arange(table.num_edges)).all()
    assert torch.equal(table.source[mirror], table.target)
    assert torch.equal(table.image[mirror], -table.image)
    assert torch.equal(table.vector[mirror], -table.vector)
    counts = torch.bincount(table.target, minlength=len(batch.frac_coords))
    assert torch.equal(table.first, counts.cumsum(0) - counts)
    assert torch.equal(table.mask.sum(1), counts)
    assert torch.equal(table.mask.view(-1).nonzero().view(-1), table.slot)


def test_mirrors_are_exact_in_float32_for_many_crystals(make_batch: Make) -> None:
    # Both ends of an edge must come to the same verdict at the cut-off and at the neighbour limit.
    for seed in range(20):
        table = build_edges(make_batch([3, 8, 5, 11] * 4, seed, torch.float32), 5.0, 12)
        assert torch.equal(table.source[table.mirror], table.target)
        assert torch.equal(table.image[table.mirror], -table.image)
        assert int(table.mask.sum(1).max()) <= 12


@pytest.mark.parametrize("seed", range(3))
def test_mutual_edges_do_not_depend_on_the_order_of_atoms(make_batch: Make, seed: int) -> None:
    batch = make_batch([9], seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    shuffled = batch.replace(frac_coords=batch.frac_coords[order], atomic_numbers=batch.atomic_numbers[order])
    back = order.tolist()
    renamed = {(back[t], back[s], *n) for t, s, *n in edge_set(build_edges(shuffled, 6.0, 14))}
    assert renamed == edge_set(build_edges(batch, 6.0, 14))


@pytest.mark.parametrize("rule", ["mutual", "published"])
def test_edges_do_not_depend_on_the_origin(make_batch: Make, rule: str) -> None:
    batch = make_batch([6, 3, 11], seed=2)
    expected = vector_set(build_edges(batch, 6.0, 14, rule))  # type: ignore[arg-type]
    shift = torch.tensor([0.37, -0.61, 0.93], dtype=torch.float64)
    moved = batch.replace(frac_coords=torch.remainder(batch.frac_coords + shift, 1.0))
    assert vector_set(build_edges(moved, 6.0, 14, rule)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["mutual", "published"])
def test_coordinates_may_lie_in_any_cell(make_batch: Make, rule: str) -> None:
    batch = make_batch([6, 3, 11], seed=2)
    table = build_edges(batch, 6.0, 14, rule)  # type: ignore[arg-type]
    jumps = torch.randint(-4, 5, batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    moved = batch.replace(frac_coords=batch.frac_coords + jumps)
    other = build_edges(moved, 6.0, 14, rule)  # type: ignore[arg-type]
    assert vector_set(other) == vector_set(table)
    # The image still says which periodic copy of the source is meant.
    shift = moved.frac_coords[other.source] - moved.frac_coords[other.target] + other.image
    cell = batch.cell[batch.batch_index[other.target]]
    torch.testing.assert_close(other.vector, torch.einsum("ei,eij->ej", shift, cell))


@pytest.mark.parametrize("rule", ["mutual", "published"])
def test_a_crystal_alone_has_the_edges_it_has_in_a_batch(make_batch: Make, rule: str) -> None:
    parts = [make_batch([5, 14, 1], seed=4), *special_cells().values()]
    batch = CrystalBatch.concatenate(parts)
    table = build_edges(batch, 5.5, 18, rule)  # type: ignore[arg-type]
    offsets = [0, *batch.num_atoms.cumsum(0).tolist()]
    for index, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = build_edges(batch.select([index]), 5.5, 18, rule)  # type: ignore[arg-type]
        assert edge_set(table, range(start, stop)) == edge_set(alone)


FCC = crystal([[0, 0, 0]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
ROCK_SALT = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("batch", "limit", "neighbors"),
    [
        (FCC, 12, 12),
        (FCC, 15, 12),  # 12 at a/sqrt(2), then 6 at a, which do not fit
        (FCC, 18, 18),
        (FCC, 41, 18),  # 24 at a sqrt(3/2)
        (FCC, 42, 42),
        (FCC, 11, 0),
        (ROCK_SALT, 6, 6),
        (ROCK_SALT, 17, 6),  # 6 at a/2, 12 at a/sqrt(2)
        (ROCK_SALT, 18, 18),
        (ROCK_SALT, 25, 18),  # 8 at a sqrt(3)/2
        (ROCK_SALT, 26, 26),
    ],
)
def test_a_shell_that_crosses_the_limit_is_dropped_whole(
    batch: CrystalBatch, limit: int, neighbors: int, dtype: torch.dtype
) -> None:
    table = build_edges(batch.to(dtype=dtype), 5.2, limit)
    assert table.mask.sum(1).tolist() == [neighbors] * len(batch.frac_coords)


@pytest.mark.parametrize("rule", ["mutual", "published"])
def test_a_batch_without_edges_is_an_empty_table(rule: str) -> None:
    far = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [[30, 0, 0], [0, 30, 0], [0, 0, 30]])
    table = build_edges(far, 6.0, 12, rule)  # type: ignore[arg-type]
    assert table.num_edges == 0
    assert not table.mask.any()
    x = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    sums = table.sum_to_target(x)
    assert torch.equal(sums, torch.zeros(2, 4, dtype=torch.float64))
    (table.unpad(table.pad(x)).sum() + table.swap(x).sum() + sums.sum()).backward()
    h = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    assert table.at_source(h).shape == table.at_target(h).shape == (0, 4)
    (table.at_source(h).sum() + table.at_target(h).sum()).backward()
    assert h.grad is not None
    assert not h.grad.any()


@pytest.fixture(scope="module")
def lonely_table() -> EdgeTable:
    """Edges with atoms that have none before, between and after those that do."""
    far = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [[30, 0, 0], [0, 30, 0], [0, 0, 30]])
    near = crystal([[0, 0, 0], [0.3, 0.2, 0.4]], [[3.1, 0, 0], [0, 3.3, 0], [0.5, 0, 3.2]])
    table = build_edges(CrystalBatch.concatenate([far, near, far, near, far]), 3.4, 12)
    assert table.num_edges > 10
    return table


def values(rows: int, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, channels, generator=generator, dtype=torch.float64, requires_grad=True)


def test_table_operations_are_plain_indexing(lonely_table: EdgeTable) -> None:
    table = lonely_table
    atoms, width = table.shape
    x, h = values(table.num_edges).detach(), values(atoms).detach()
    padded, sums = np.zeros((atoms, width, 2)), np.zeros((atoms, 2))
    rank = np.zeros(atoms, dtype=int)
    for edge, target in enumerate(table.target.tolist()):
        padded[target, rank[target]] = x[edge]
        sums[target] += x[edge].numpy()
        rank[target] += 1
    assert np.array_equal(table.pad(x).numpy(), padded)
    assert torch.equal(table.unpad(table.pad(x)), x)
    np.testing.assert_allclose(table.sum_to_target(x).numpy(), sums, atol=1e-14)
    assert torch.equal(table.swap(x), x[table.mirror])
    assert torch.equal(table.at_source(h), h[table.source])
    assert torch.equal(table.at_target(h), h[table.target])


@pytest.mark.parametrize("name", ["pad", "swap", "sum_to_target", "at_source", "at_target", "unpad"])
def test_table_operations_have_the_right_gradient(lonely_table: EdgeTable, name: str) -> None:
    atoms, width = lonely_table.shape
    if name == "unpad":
        x = values(atoms * width).detach().view(atoms, width, 2).requires_grad_()
    else:
        x = values(atoms if name.startswith("at_") else lonely_table.num_edges)
    assert torch.autograd.gradcheck(getattr(lonely_table, name), (x,))


@pytest.mark.parametrize("broken", ["cell", "position"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_crystal_that_is_not_finite_has_no_edges_and_leaves_the_others_alone(broken: str, value: float) -> None:
    rng = torch.Generator().manual_seed(0)
    sizes = [3, 4, 2]
    batch = CrystalBatch(
        torch.rand(9, 3, generator=rng),
        5.0 * torch.eye(3) + torch.rand(3, 3, 3, generator=rng),
        torch.full((9,), 8),
        torch.tensor(sizes),
    )
    whole = build_edges(batch, 6.0, 20)
    frac_coords, cell = batch.frac_coords.clone(), batch.cell.clone()
    if broken == "cell":
        cell[1] = value
    else:
        frac_coords[3:7] = value
    table = build_edges(batch.replace(frac_coords=frac_coords, cell=cell), 6.0, 20)
    assert not edge_set(table, range(3, 7))
    for atoms in (range(0, 3), range(7, 9)):
        assert edge_set(table, atoms) == edge_set(whole, atoms)
    assert torch.equal(table.mirror[table.mirror], torch.arange(len(table.mirror)))
