"""What is written about a crystal agrees with what pymatgen and ASE read back."""

from __future__ import annotations

import io

import numpy as np
import pytest

from crystalsmith.elements import ALLOWED, MASK, NUMBERS
from crystalsmith.formats import complete_frames, extxyz_frame
from crystalsmith.generation.describe import COLUMNS, Crystal, describe

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
QUARTZ = [[0.47, 0, 2 / 3], [0, 0.47, 1 / 3], [0.53, 0.53, 0]]
QUARTZ_O = [
    [0.415, 0.266, 0.786],
    [0.734, 0.149, 0.786 - 2 / 3 + 1],
    [0.851, 0.585, 0.786 - 1 / 3],
    [0.266, 0.415, 1 - 0.786],
    [0.149, 0.734, 2 / 3 - 0.786 + 1],
    [0.585, 0.851, 1 / 3 - 0.786 + 1],
]
HEX = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1]])

KNOWN = {
    "rock salt": (5.64 * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], "Na Cl", 225, "NaCl", 2.163),
    "diamond": (3.567 * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], "C C", 227, "C", 3.516),
    "perovskite": (
        3.905 * np.eye(3),
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        "Sr Ti O O O",
        221,
        "SrTiO3",
        5.116,
    ),
    "wurtzite": (
        HEX * [[3.82], [3.82], [6.26]],
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]],
        "Zn Zn S S",
        186,
        "ZnS",
        4.091,
    ),
    "quartz": (HEX * [[4.913], [4.913], [5.405]], QUARTZ + QUARTZ_O, "Si Si Si O O O O O O", None, "SiO2", 2.649),
    "triclinic": (
        np.array([[4.0, 0, 0], [1.1, 5.2, 0], [0.7, 0.9, 6.1]]),
        [[0.02, 0.11, 0.2], [0.55, 0.43, 0.71], [0.31, 0.83, 0.47]],
        "Li Fe O",
        1,
        "LiFeO",
        None,
    ),
}


def crystal(name: str, seed: int = 3, index: int = 7) -> Crystal:
    cell, frac, symbols = KNOWN[name][:3]
    numbers = np.array([NUMBERS[s] for s in symbols.split()])
    return Crystal(seed, index, np.array(frac, dtype=float), np.array(cell, dtype=float), numbers, ALLOWED)


def read_cif(text: str):
    from pymatgen.io.cif import CifParser

    return CifParser(io.StringIO(text)).parse_structures(primitive=False)[0]


def structure_of(item: Crystal):
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(item.cell), item.numbers.tolist(), item.frac_coords)


@pytest.mark.parametrize("name", KNOWN)
def test_known_crystals(name):
    item = crystal(name)
    row = describe(item).row
    _, _, _, group, formula, density = KNOWN[name]
    assert tuple(row) == COLUMNS
    assert row["formula"] == formula
    assert row["num_atoms"] == len(item.numbers)
    assert row["valid"] is True
    assert row["id"] == "s3-000007"
    if group is not None:
        assert row["space_group_0.01"] == row["space_group_0.1"] == group
    if density is not None:
        assert row["density"] == pytest.approx(density, rel=2e-3)
    assert row["volume_per_atom"] == pytest.approx(structure_of(item).volume / len(item.numbers), rel=1e-5)
    parameters = [row[name] for name in ("a", "b", "c", "alpha", "beta", "gamma")]
    assert parameters == pytest.approx(structure_of(item).lattice.parameters, rel=1e-5)
    if group is not None:
        from pymatgen.symmetry.groups import sg_symbol_from_int_number

        assert row["space_group_symbol"] == sg_symbol_from_int_number(group)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_cif_is_the_crystal_again(name, shift):
    """Read back, the symmetrised CIF matches the crystal as generated; shaken ones come out exactly symmetric."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    rng = np.random.default_rng(0)
    item = crystal(name)
    shaken = Crystal(
        item.seed,
        item.index,
        item.frac_coords + shift * rng.normal(size=item.frac_coords.shape) @ np.linalg.inv(item.cell),
        item.cell + shift * rng.normal(size=(3, 3)) / 2,
        item.numbers,
        ALLOWED,
    )
    described = describe(shaken)
    read, made = read_cif(described.cif), structure_of(shaken)
    assert read.composition.reduced_formula == described.row["formula"]
    assert StructureMatcher(primitive_cell=True, scale=False).fit(read, made)
    assert read.volume / len(read) == pytest.approx(made.volume / len(made), rel=1e-2)
    if described.row["space_group_0.1"] > 1:
        assert f"_space_group_IT_number {described.row['space_group_0.1']}\n" in described.cif
        assert describe(_from_structure(read)).row["space_group_0.01"] == described.row["space_group_0.1"]


def _from_structure(structure) -> Crystal:
    numbers = np.array(structure.atomic_numbers)
    return Crystal(0, 0, structure.frac_coords, structure.lattice.matrix, numbers, ALLOWED)


def test_frame_is_read_by_ase_and_agrees_with_the_row():
    from ase.io import read

    for name in KNOWN:
        item = crystal(name)
        described = describe(item)
        atoms = read(io.StringIO(described.frame), format="extxyz")
        assert atoms.info["id"] == described.row["id"]
        assert atoms.pbc.all()
        np.testing.assert_array_equal(atoms.numbers, item.numbers)
        np.testing.assert_allclose(atoms.cell.array, item.cell, atol=1e-7)
        np.testing.assert_allclose(atoms.positions, item.frac_coords @ item.cell, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cell": np.full((3, 3), np.nan)}, "not finite"),
        ({"frac_coords": np.array([[0, 0, np.inf], [0, 0, 0]])}, "not finite"),
        ({"numbers": np.array([11, MASK])}, "masked"),
        ({"numbers": np.array([11, 43])}, "atomic number 43"),
    ],
)
def test_a_failed_crystal_leaves_a_note_and_no_geometry(change, why):
    import dataclasses

    described = describe(dataclasses.replace(crystal("rock salt"), **change))
    assert described.cif is None
    assert described.frame is None
    assert described.row["valid"] is False
    assert not described.row["file"]
    assert why in described.row["note"]


@pytest.mark.parametrize(
    ("cell", "distance", "valid"),
    [
        (np.diag([0.51, 5, 5]), 0.51, True),
        (np.diag([0.49, 5, 5]), 0.49, False),
        (np.diag([1, 1, 1e-5]), None, False),
        (np.zeros((3, 3)), 0.0, False),
        (np.full((3, 3), 1e30), 0.0, False),
    ],
)
def test_validity_is_the_published_criterion(cell, distance, valid):
    described = describe(Crystal(0, 0, np.zeros((1, 3)), np.array(cell, dtype=float), np.array([26]), ALLOWED))
    assert described.row["valid"] is valid
    assert bool(described.row["note"]) is not valid
    if distance is not None:
        assert described.row["shortest_distance"] == pytest.approx(distance)


def test_a_text_cut_anywhere_yields_whole_frames_only():
    items = [crystal(name, index=k) for k, name in enumerate(KNOWN)]
    frames = [describe(item).frame for item in items]
    text = "".join(frames)
    ends = np.cumsum([len(frame) for frame in frames]).tolist()
    for cut in range(0, len(text) + 1, 7):
        found = [end for _, end in complete_frames(text[:cut])]
        assert found == [end for end in ends if end <= cut]


def test_masked_atoms_are_x_and_flagged():
    from ase.io import read

    frame = extxyz_frame(np.zeros((2, 3)), np.eye(3), np.array([MASK, 8]), {"step": 0}, masked=True)
    atoms = read(io.StringIO(frame), format="extxyz")
    assert atoms.numbers.tolist() == [0, 8]
    assert atoms.arrays["masked"].tolist() == [True, False]
