"""Laws of the batch of crystals: its shape, its parts, and the way to other libraries and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.elements import MASK

Make = Callable[..., CrystalBatch]


def equal(a: CrystalBatch, b: CrystalBatch) -> bool:
    return (
        torch.equal(a.frac_coords, b.frac_coords)
        and torch.equal(a.cell, b.cell)
        and torch.equal(a.atomic_numbers, b.atomic_numbers)
        and torch.equal(a.num_atoms, b.num_atoms)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_is_the_coordinate_modulo_one_and_never_one(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e-12, -1e-9, 1.0, -3.0, 0.25, -0.25, 7.75, 1 - 1e-12, 0.0], dtype=dtype)
    wrapped = wrap(x)
    assert wrapped.min() >= 0
    assert wrapped.max() < 1
    difference = (wrapped - x).double()
    torch.testing.assert_close(difference, difference.round(), rtol=0, atol=1e-6)
    assert torch.equal(wrap(wrapped), wrapped)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (1, 3, 3), (3,), 1),
        ((3, 3), (2, 3, 3), (3,), 1),
        ((3, 3), (1, 3), (3,), 1),
        ((3, 3), (1, 3, 3), (2,), 1),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple) -> None:
    frac, cell, numbers, crystals = shapes
    with pytest.raises(ValueError, match="must be"):
        CrystalBatch(
            torch.zeros(frac), torch.zeros(cell), torch.ones(numbers, dtype=torch.int64), torch.full((crystals,), 3)
        )


def test_batch_index_counts_the_atoms(make_batch: Make) -> None:
    batch = make_batch([2, 1, 3])
    assert batch.batch_index.tolist() == [0, 0, 1, 2, 2, 2]
    assert len(batch) == batch.num_crystals == 3


def test_volume_is_positive_for_either_hand(make_batch: Make) -> None:
    batch = make_batch([2, 3])
    mirrored = batch.replace(cell=-batch.cell)
    torch.testing.assert_close(mirrored.volume, batch.volume)
    first = batch.cell[0]
    torch.testing.assert_close(batch.volume[0], torch.dot(first[0], torch.linalg.cross(first[1], first[2])).abs())


def test_select_and_concatenate_are_inverse(make_batch: Make) -> None:
    batch = make_batch([4, 1, 7, 2])
    parts = [batch.select([i]) for i in range(4)]
    assert equal(CrystalBatch.concatenate(parts), batch)
    assert equal(batch.select([2, 0, 2]), CrystalBatch.concatenate([parts[2], parts[0], parts[2]]))
    assert batch.select([]).num_crystals == 0


def test_arrays_round_trip(make_batch: Make) -> None:
    batch = make_batch([4, 1, 7])
    assert equal(CrystalBatch.from_arrays(batch.crystals(), torch.float64), batch)


@pytest.mark.parametrize("sizes", [[4, 1, 7], [1]])
def test_pymatgen_round_trip(make_batch: Make, sizes: list[int]) -> None:
    batch = make_batch(sizes)
    structures = batch.to_structures()
    assert equal(CrystalBatch.from_structures(structures, torch.float64), batch)
    for structure, (coords, cell, numbers) in zip(structures, batch.crystals(), strict=True):
        np.testing.assert_allclose(structure.cart_coords, coords @ cell, atol=1e-12)
        assert list(structure.atomic_numbers) == numbers.tolist()


def test_ase_round_trip(make_batch: Make) -> None:
    batch = make_batch([4, 1, 7])
    atoms = batch.to_atoms()
    assert all(a.pbc.all() for a in atoms)
    back = CrystalBatch.from_atoms(atoms, torch.float64)
    torch.testing.assert_close(back.frac_coords, batch.frac_coords)
    assert torch.equal(back.cell, batch.cell)
    assert torch.equal(back.atomic_numbers, batch.atomic_numbers)


def test_the_two_libraries_agree_on_a_known_crystal() -> None:
    # Rock salt, a = 5.64: density 2.16 g/cm3, nearest distance a / 2.
    a = 5.64
    cell = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    batch = CrystalBatch.from_arrays([([[0, 0, 0], [1.5, -0.5, 0.5]], cell, [11, 17])], torch.float64)
    structure, atoms = batch.to_structures()[0], batch.to_atoms()[0]
    assert structure.composition.reduced_formula == "NaCl"
    assert structure.density == pytest.approx(2.16, abs=0.02)
    assert structure.get_distance(0, 1) == pytest.approx(a / 2)
    assert atoms.get_distance(0, 1, mic=True) == pytest.approx(a / 2)
    assert float(batch.volume) == pytest.approx(a**3 / 4)


@pytest.mark.parametrize("method", ["to_structures", "to_atoms"])
def test_a_masked_atom_never_becomes_a_structure(make_batch: Make, method: str) -> None:
    batch = make_batch([2, 3])
    numbers = batch.atomic_numbers.clone()
    numbers[3] = MASK
    with pytest.raises(ValueError, match="masked"):
        getattr(batch.replace(atomic_numbers=numbers), method)()


def test_changing_precision_leaves_the_integers_alone(make_batch: Make) -> None:
    batch = make_batch([2, 3]).to(dtype=torch.float32)
    assert batch.frac_coords.dtype == batch.cell.dtype == torch.float32
    assert batch.atomic_numbers.dtype == batch.num_atoms.dtype == torch.int64
