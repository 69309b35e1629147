"""The search for space groups ends, whatever the cell."""

from __future__ import annotations

import numpy as np
import pytest

from crystalsmith.symmetry.groups import space_group, symmetrise

NEEDLE = np.array([[2.592, 0.745, 0.020], [0.666, 2.550, 0.571], [19.92, -68.89, 306.91]])
SKEW = np.array([[1, 0, 0], [0, 1, 0], [30, 20, 1]])


@pytest.mark.parametrize("transform", [np.eye(3, dtype=int), SKEW, np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]])])
def test_a_needle_has_no_space_group_and_takes_no_memory(transform) -> None:
    places = np.random.default_rng(0).random((12, 3))
    for symprec in (1e-2, 0.1):
        assert space_group(places, transform @ NEEDLE, np.full(12, 74), symprec) is None
    assert symmetrise(places, transform @ NEEDLE, np.full(12, 74), 0.1) is None


def test_long_vectors_of_an_ordinary_lattice_are_no_needle() -> None:
    cell = SKEW @ (4.2 * np.eye(3))
    assert np.linalg.norm(cell, axis=1).max() > 100
    assert space_group(np.zeros((1, 3)), cell, np.array([84]), 0.01) == 221
    assert space_group(np.zeros((1, 3)), np.diag([3.0, 3.0, 120.0]), np.array([84]), 0.01) == 123


@pytest.mark.parametrize("cell", [np.full((3, 3), np.inf), 60 * np.ones((3, 3)), np.zeros((3, 3))])
def test_no_cell_at_all_has_no_space_group(cell) -> None:
    assert space_group(np.zeros((1, 3)), cell, np.array([84]), 0.1) is None
