"""Fingerprints do not see the choice of the cell; variety and coverage have known limits."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, CRYSTALS, FCC

from crystalsmith.evaluation.fingerprints import average_minimum_distances, fingerprints
from crystalsmith.evaluation.variety import coverage, variety, vendi, within


def crystal(name: str):
    frac, cell, numbers = CRYSTALS[name]
    return frac, cell, np.array(numbers)


def test_shells_of_rock_salt() -> None:
    found = average_minimum_distances(CORNERS, 5.64 * FCC, 26)
    expected = 2.82 * np.repeat([1, 2**0.5, 3**0.5], [6, 12, 8])
    assert found == pytest.approx(expected)


def test_supercells_and_moved_origins_are_the_same() -> None:
    rng = np.random.default_rng(0)
    frac, cell = rng.random((3, 3)), 4 * np.eye(3) + rng.random((3, 3))
    one = average_minimum_distances(frac, cell)
    double = np.concatenate([frac * [0.5, 1, 1], frac * [0.5, 1, 1] + [0.5, 0, 0]]) + 0.3
    assert average_minimum_distances(double, cell * [[2], [1], [1]]) == pytest.approx(one)


def test_small_moves_change_little() -> None:
    frac, cell, _ = crystal("nacl")
    moved = frac + np.array([[0.01, 0, 0], [0, 0, 0]])
    shift = np.linalg.norm(np.array([0.01, 0, 0]) @ cell)
    change = average_minimum_distances(moved, cell) - average_minimum_distances(frac, cell)
    assert 0 < np.abs(change).max() <= shift


def test_gaps_of_compositions() -> None:
    found, places = fingerprints([crystal("nacl"), crystal("kcl"), crystal("mgo")])
    assert places == [0, 1, 2]
    assert found.composition_gaps(found) == pytest.approx(np.array([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]]))
    assert np.diag(found.structure_gaps(found)) == pytest.approx(0)


def test_vendi_counts_what_is_wholly_different() -> None:
    assert vendi(np.eye(7)) == pytest.approx(7)
    assert vendi(np.ones((7, 7))) == pytest.approx(1)
    twice = np.kron(np.eye(3), np.ones((2, 2)))
    assert vendi(twice) == pytest.approx(3)
    assert variety([crystal("nacl")] * 5)["both"] == pytest.approx(1)
    assert variety([crystal("nacl"), crystal("mgo")] * 5)["composition"] == pytest.approx(2)
    assert variety([]) == {}


def test_a_set_covers_itself_and_not_another() -> None:
    rng = np.random.default_rng(0)

    def cloud(numbers, length):
        return [(CORNERS, (length + 0.2 * rng.random()) * FCC, np.array(numbers)) for _ in range(8)]

    salts, oxides = cloud([11, 17], 5.6), cloud([12, 8], 4.2)
    named = [(f"s{k}", arrays) for k, arrays in enumerate(salts)]
    same = coverage(salts, named)
    assert (same["precision"]["rate"], same["recall"]["rate"], same["rediscovered"]["rate"]) == (1, 1, 1)
    other = coverage(oxides, named)
    assert (other["precision"]["rate"], other["recall"]["rate"], other["rediscovered"]["rate"]) == (0, 0, 0)
    half, _ = fingerprints(salts[:3] + oxides[:3])
    assert within(half, fingerprints(salts)[0]) == [True] * 3 + [False] * 3
