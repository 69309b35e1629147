"""Contacts across images, and what hangs together by them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, FCC

from crystalsmith.evaluation.contacts import contacts, dimensions
from crystalsmith.evaluation.plausible import (
    condensed,
    has_anion,
    oxidation_states_sum_to_zero,
    plausibility,
    sane_cell,
)

METHANE = 0.629 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]])
CARBON_AND_HYDROGEN = np.array([6, 1, 1, 1, 1])


def test_shells_of_the_cube() -> None:
    found = contacts(np.zeros((1, 3)), np.eye(3), 1.75)
    # Each pair once: half of the 6 + 12 + 8 neighbours of a simple cubic lattice.
    lengths, counts = np.unique(found.distance.round(6), return_counts=True)
    assert lengths == pytest.approx([1, 2**0.5, 3**0.5], abs=1e-6)
    assert counts.tolist() == [3, 6, 4]


def test_the_choice_of_the_cell_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    frac, cell = rng.random((5, 3)), 4 * np.eye(3) + rng.random((3, 3))
    skewed = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]])
    one = contacts(frac, cell, 6.0)
    other = contacts(frac @ np.linalg.inv(skewed), skewed @ cell, 6.0)
    assert np.allclose(np.sort(one.distance), np.sort(other.distance))


def test_every_pair_is_there() -> None:
    rng = np.random.default_rng(1)
    frac, cell = rng.random((4, 3)), np.diag([2.0, 3.5, 6.0]) + 0.3 * rng.random((3, 3))
    axes = np.arange(-6, 7)
    images = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)
    lengths = [
        np.linalg.norm((frac[b] - frac[a] + image) @ cell) for a in range(4) for b in range(4) for image in images
    ]
    expected = np.sort([d for d in lengths if 1e-9 < d <= 5.0])[::2]  # both directions of a pair are of one length
    assert np.sort(contacts(frac, cell, 5.0).distance) == pytest.approx(expected)


@pytest.mark.parametrize(("sides", "expected"), [((1, 1, 1), 3), ((1, 1, 9), 2), ((1, 9, 9), 1), ((9, 9, 9), 0)])
def test_directions(sides, expected) -> None:
    assert dimensions(contacts(np.zeros((1, 3)), np.diag(np.array(sides, float)), 1.1), 1) == (expected, 1)


def test_two_nets_that_do_not_touch_are_two_parts() -> None:
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    assert dimensions(contacts(frac, np.eye(3), 1.01), 2) == (3, 1)
    assert dimensions(
        contacts(frac, 3 * np.eye(3), 3.01).where(contacts(frac, 3 * np.eye(3), 3.01).distance > 2.9), 2
    ) == (
        3,
        2,
    )


def test_a_molecule_in_a_box_is_no_crystal_but_a_molecular_crystal_is() -> None:
    assert not condensed(METHANE / 8 % 1, 8 * np.eye(3), CARBON_AND_HYDROGEN)
    assert condensed(METHANE / 4.2 % 1, 4.2 * np.eye(3), CARBON_AND_HYDROGEN)
    assert plausibility(METHANE / 8 % 1, 8 * np.eye(3), CARBON_AND_HYDROGEN, True).doubts == ("not_condensed",)


def test_a_slab_in_a_vacuum_is_no_crystal_but_graphite_is() -> None:
    flat = np.array([[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 1.0]])
    for height, expected in ((6.7, True), (24.0, False)):
        cell = flat * np.array([[1], [1], [height]])
        graphite = np.array([[0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0.5], [2 / 3, 1 / 3, 0.5]])
        assert condensed(graphite, cell, np.full(4, 6)) is expected


def test_doubts_have_names() -> None:
    salt = np.array([11, 17])
    assert plausibility(CORNERS, 5.64 * FCC, salt, True).plausible
    assert "short_bond" in plausibility(np.array([[0, 0, 0], [0.15, 0, 0]]), 5.64 * np.eye(3), salt, True).doubts
    assert set(plausibility(CORNERS, 2.0 * FCC, np.array([78, 78]), True).doubts) >= {"density", "atomic_density"}
    assert not sane_cell(np.diag([0.6, 5.0, 5.0]))
    assert not sane_cell(np.diag([4.0, 5.0, 101.0]))
    # A doubled chloride of a metal that is +1: no neutral sum, and both tools have to say so.
    bad = CORNERS, 5.64 * FCC, np.array([11, 8])
    assert "charge" in plausibility(*bad, False).doubts or oxidation_states_sum_to_zero([11, 8])
    assert "charge" not in plausibility(*bad, True).doubts


def test_who_is_asked_for_charges() -> None:
    assert has_anion([11, 17])
    assert not has_anion([17, 17])
    assert not has_anion([26, 13])
    assert oxidation_states_sum_to_zero([11, 17]) is True
    assert oxidation_states_sum_to_zero([11, 17, 17, 17]) is False
    assert oxidation_states_sum_to_zero([26, 13]) is True


@pytest.mark.shared
def test_known_crystals_are_plausible(shared) -> None:
    """Of MP-20, layered and molecular ones included: what is refused are slabs in a vacuum and odd charges."""
    import pyarrow.parquet as pq

    from crystalsmith.evaluation.judge import charge_balanced

    table = pq.read_table(shared("data/mp20.parquet"), columns=["material_id", "frac", "lattice", "Z"])
    rows = table.take(np.random.default_rng(0).choice(table.num_rows, 150, replace=False)).to_pylist()
    found = []
    for row in rows:
        arrays = (np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3)), np.array(row["Z"]))
        found.append(plausibility(*arrays, charge_balanced(row["Z"])))
    doubts = [doubt for one in found for doubt in one.doubts]
    assert sum(one.plausible for one in found) >= 0.94 * len(found)
    assert not {"short_bond", "density", "atomic_density", "cell"} & set(doubts)
    layered_and_molecular = {
        "mp-23154": True,  # solid bromine
        "mp-23153": True,  # solid iodine
        "mp-1170": True,  # SnS2, layers
        "mp-571436": True,  # SnI4, molecules
        "mp-602": True,  # MoTe2, layers
        "mp-23216": True,  # SnBr4, molecules
        "mp-990448": False,  # one sheet of graphene in a vacuum
        "mp-849060": False,  # one layer of VS2
    }
    ids = table.column("material_id").to_pylist()
    for name, expected in layered_and_molecular.items():
        row = table.slice(ids.index(name), 1).to_pylist()[0]
        arrays = (np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3)), np.array(row["Z"]))
        assert condensed(*arrays) is expected, name
