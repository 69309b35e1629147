"""Laws of lattices: reduced, symmetric and primitive forms describe the crystal that went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystalsmith import cells

FACE_CENTRED = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def rock_salt() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frac = np.concatenate([FACE_CENTRED, FACE_CENTRED + [0.5, 0.5, 0.5]])
    return frac % 1, 5.64 * np.eye(3), np.array([11] * 4 + [17] * 4)


def diamond() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.concatenate([FACE_CENTRED, FACE_CENTRED + 0.25]), 3.567 * np.eye(3), np.full(8, 6)


def perovskite() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return frac, 3.905 * np.eye(3), np.array([38, 22, 8, 8, 8])


def triclinic() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frac = np.random.default_rng(3).random((4, 3))
    return frac, cells.cell_from_parameters([5.0, 6.1, 7.3], [81.0, 95.0, 103.0]), np.array([20, 14, 8, 8])


def supercell(crystal: tuple, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frac, cell, numbers = crystal
    structure = Structure(cell, numbers, frac).make_supercell(matrix, in_place=False)
    return structure.frac_coords, structure.lattice.matrix, np.array(structure.atomic_numbers)


def structure(crystal: tuple) -> Structure:
    return Structure(crystal[1], crystal[2], crystal[0])


def random_cells(count: int, seed: int = 0) -> np.ndarray:
    cell = np.random.default_rng(seed).normal(size=(count, 3, 3)) * 5
    return cell * np.sign(np.linalg.det(cell))[:, None, None]


CRYSTALS = {
    "rock salt": (rock_salt, 2),
    "diamond": (diamond, 2),
    "perovskite": (perovskite, 5),
    "triclinic": (triclinic, 4),
}


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("matrix", [np.eye(3), 2 * np.eye(3), [[1, 1, 0], [0, 3, 1], [1, 0, 2]]], ids=str)
def test_primitive_cell_of_known_crystals(name: str, matrix: np.ndarray) -> None:
    make, atoms = CRYSTALS[name]
    given = supercell(make(), np.asarray(matrix, dtype=int))
    frac, cell, numbers = cells.primitive_cell(*given)
    assert len(numbers) == atoms
    assert cells.volume(cell) / atoms == pytest.approx(cells.volume(given[1]) / len(given[2]), rel=1e-12)
    assert StructureMatcher(primitive_cell=True, stol=0.01, ltol=0.01).fit(
        structure(given), structure((frac, cell, numbers))
    )


def test_primitive_cell_averages_noise_and_keeps_distortions() -> None:
    frac, cell, numbers = supercell(rock_salt(), 2 * np.eye(3, dtype=int))
    noise = np.random.default_rng(0).normal(size=frac.shape)
    noise /= np.linalg.norm(noise @ cell, axis=-1, keepdims=True)
    assert len(cells.primitive_cell(frac + 0.03 * noise, cell, numbers)[2]) == 2
    shifted = frac.copy()
    shifted[0] += [0.3 / cell[0, 0], 0, 0]
    assert len(cells.primitive_cell(shifted, cell, numbers)[2]) == len(numbers)


def test_primitive_cell_agrees_with_pymatgen_on_random_supercells() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        base = (rng.random((3, 3)), random_cells(1, int(rng.integers(1000)))[0], np.array([3, 3, 8]))
        matrix = np.array([[1, rng.integers(3), 0], [0, 2, rng.integers(2)], [0, 0, rng.integers(1, 3)]])
        given = supercell(base, matrix)
        assert len(cells.primitive_cell(*given)[2]) == len(structure(given).get_primitive_structure(tolerance=0.1))


def test_niggli_cells_are_the_same_lattice_and_reduced() -> None:
    given = random_cells(500)
    reduced, transform = cells.niggli_reduce(given)
    assert np.array_equal(np.rint(np.linalg.det(transform)), np.ones(500))
    np.testing.assert_allclose(transform @ given, reduced, atol=1e-9)
    again, identity = cells.niggli_reduce(reduced)
    assert (identity == np.eye(3)).all()
    np.testing.assert_allclose(again, reduced)


def test_niggli_parameters_agree_with_pymatgen() -> None:
    for given, ours in zip(random_cells(100, 5), cells.niggli_reduce(random_cells(100, 5))[0], strict=True):
        theirs = Lattice(given).get_niggli_reduced_lattice()
        np.testing.assert_allclose(np.concatenate(cells.cell_parameters(ours)), theirs.parameters, rtol=1e-6)


def test_niggli_form_does_not_depend_on_the_cell_chosen() -> None:
    given = random_cells(200, 7)
    shear = np.array([[1, 2, -1], [0, 1, 3], [0, 0, 1]]) @ np.array([[1, 0, 0], [-2, 1, 0], [1, 1, 1]])
    ours, other = cells.niggli_reduce(given)[0], cells.niggli_reduce(shear @ given)[0]
    np.testing.assert_allclose(ours @ ours.mT, other @ other.mT, atol=1e-6)


def test_niggli_decides_right_angles_alike_whatever_the_rounding() -> None:
    noisy = np.array([[4, 0, 0], [0, 5, 0], [2, 2.5, 6]]) + 1e-7 * np.random.default_rng(0).normal(size=(200, 3, 3))
    lengths, angles = cells.cell_parameters(cells.niggli_reduce(noisy)[0])
    assert np.ptp(lengths, axis=0).max() < 1e-5
    assert np.ptp(angles, axis=0).max() < 1e-3


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_symmetric_polar_form_keeps_the_metric(kind: str) -> None:
    given = random_cells(50)
    polar = cells.symmetric_polar(given) if kind == "numpy" else cells.symmetric_polar(torch.tensor(given)).numpy()
    assert np.array_equal(polar, polar.mT)
    assert (np.linalg.eigvalsh(polar) > 0).all()
    # Row vectors: lengths and angles live in L L^T, which P U leaves as P P.
    np.testing.assert_allclose(polar @ polar.mT, given @ given.mT, atol=1e-9)


def test_symmetric_polar_form_of_a_symmetric_cell_is_itself() -> None:
    polar = cells.symmetric_polar(random_cells(20))
    np.testing.assert_allclose(cells.symmetric_polar(polar), polar, atol=1e-10)


def test_left_handed_cell_stays_the_same_crystal() -> None:
    frac, cell, _ = triclinic()
    left = frac[:, [1, 0, 2]], cell[[1, 0, 2]]
    assert np.linalg.det(left[1]) < 0
    turned_frac, turned = cells.right_handed(*left)
    assert np.linalg.det(turned) > 0
    # Chirality survives: signed volumes spanned by atoms are those of the original.
    original, after = frac @ cell, turned_frac @ turned
    np.testing.assert_allclose(after, original, atol=1e-12)
    polar = turned_frac @ cells.symmetric_polar(turned)
    spanned = [np.linalg.det(x[1:] - x[0]) for x in (original, polar)]
    assert spanned[0] == pytest.approx(spanned[1])


def test_parameters_round_trip_and_agree_with_pymatgen() -> None:
    lengths, angles = cells.cell_parameters(random_cells(50))
    back = cells.cell_parameters(cells.cell_from_parameters(lengths, angles))
    np.testing.assert_allclose(back[0], lengths)
    np.testing.assert_allclose(back[1], angles, atol=1e-6)
    theirs = Lattice.from_parameters(*lengths[0], *angles[0])
    assert cells.volume(cells.cell_from_parameters(lengths[0], angles[0])) == pytest.approx(theirs.volume)
    assert np.array_equal(cells.cell_from_parameters([2, 3, 4], [90, 90, 90]), np.diag([2.0, 3.0, 4.0]))


@pytest.mark.parametrize(
    ("lengths", "angles"),
    [([-5, 5, 5], [90, 90, 90]), ([5, 5, 0], [90, 90, 90]), ([5, 5, 5], [120, 120, 120]), ([5, 5, 5], [150, 20, 10])],
)
def test_impossible_parameters_are_refused(lengths: list[float], angles: list[float]) -> None:
    with pytest.raises(ValueError, match="cell"):
        cells.cell_from_parameters(lengths, angles)
