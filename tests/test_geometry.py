"""Shortest distances do not depend on the choice of the cell."""

from __future__ import annotations

import numpy as np
import pytest

from crystalsmith.geometry import reduce_cell, shortest_distance

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("cell", "frac", "expected"),
    [
        (5.64 * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], 5.64 / 2),  # rock salt
        (3.567 * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], 3.567 * 3**0.5 / 4),  # diamond
        (3.905 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], 3.905 / 2),
        (np.diag([1.1, 30.0, 30.0]), [[0, 0, 0], [0.5, 0.5, 0.5]], 1.1),  # a needle: the nearest atom is an image
        (np.diag([40.0, 40.0, 2.0]), [[0.01, 0, 0.95], [0.99, 0, 0.05]], (0.8**2 + 0.2**2) ** 0.5),  # a plate
        (np.eye(3) * 4.0, [[0, 0, 0]], 4.0),
    ],
)
def test_known_crystals(cell, frac, expected):
    assert shortest_distance(np.array(frac, dtype=float), cell) == pytest.approx(expected, rel=1e-6)


def test_agrees_with_a_sphere_search_in_thin_and_skewed_cells():
    from pymatgen.core import Lattice, Structure

    rng = np.random.default_rng(0)
    for _ in range(60):
        cell = rng.normal(size=(3, 3)) * rng.uniform(0.5, 8, size=(3, 1))
        cell[2] += rng.integers(-4, 5) * cell[0]
        if abs(np.linalg.det(cell)) < 0.5:
            continue
        frac = rng.random((rng.integers(1, 6), 3))
        found = shortest_distance(frac, cell)
        structure = Structure(Lattice(cell), ["H"] * len(frac), frac)
        neighbours = structure.get_all_neighbors(found * 1.01)
        assert min(n.nn_distance for site in neighbours for n in site) == pytest.approx(found, rel=1e-6)
        assert not any(structure.get_all_neighbors(found * 0.99))


def test_another_basis_of_the_same_lattice_changes_nothing():
    rng = np.random.default_rng(1)
    cell, frac = rng.normal(size=(3, 3)) * 4, rng.random((5, 3))
    change = np.array([[1, 3, 0], [0, 1, -5], [2, 6, 1]])  # determinant 1
    assert round(np.linalg.det(change)) == 1
    other = shortest_distance(frac @ np.linalg.inv(change), change @ cell)
    assert other == pytest.approx(shortest_distance(frac, cell), rel=1e-8)


def test_reduction_keeps_the_lattice():
    rng = np.random.default_rng(2)
    for _ in range(50):
        cell = rng.normal(size=(3, 3)) * rng.uniform(0.1, 20, size=(3, 1))
        change = reduce_cell(cell) @ np.linalg.inv(cell)
        np.testing.assert_allclose(change, np.round(change), atol=1e-6)
        assert abs(round(np.linalg.det(change))) == 1


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([5.0, 5.0, 0.0])])
def test_a_cell_without_volume_has_distance_zero(cell):
    assert shortest_distance(np.zeros((2, 3)), cell) == 0.0
