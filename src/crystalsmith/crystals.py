"""The value that travels through the whole package: a batch of crystals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crystalsmith.elements import MASK

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


@dataclass(frozen=True)
class CrystalBatch:
    """B crystals with N atoms in all, the atoms of one crystal standing together.

    Attributes:
        frac_coords: ``(N, 3)`` floating point, fractional coordinates in [0, 1).
        cell: ``(B, 3, 3)`` floating point, rows are the lattice vectors in angstrom; Cartesian = frac_coords @ cell.
        atomic_numbers: ``(N,)`` int64 in 1..100; 101 = masked.
        num_atoms: ``(B,)`` int64, atoms of each crystal.
        copies: how often the same crystals stand in the batch, one whole set after the other (see :meth:`repeat`).
    """

    frac_coords: Tensor
    cell: Tensor
    atomic_numbers: Tensor
    num_atoms: Tensor
    copies: int = 1

    def __post_init__(self) -> None:
        atoms, crystals = self.frac_coords.shape[0], self.num_atoms.shape[0]
        if self.frac_coords.shape != (atoms, 3) or self.cell.shape != (crystals, 3, 3):
            raise ValueError(
                f"frac_coords must be (N, 3) and cell (B, 3, 3), not {tuple(self.frac_coords.shape)} and "
                f"{tuple(self.cell.shape)} for {crystals} crystals."
            )
        if self.atomic_numbers.shape != (atoms,):
            raise ValueError(f"atomic_numbers must be ({atoms},), not {tuple(self.atomic_numbers.shape)}.")

    @property
    def num_crystals(self) -> int:
        """B, the number of crystals."""
        return self.num_atoms.shape[0]

    def __len__(self) -> int:
        return self.num_crystals

    @property
    def batch_index(self) -> Tensor:
        """``(N,)`` int64, the crystal that each atom belongs to."""
        # Kept by hand: torch.compile does not see through functools.cached_property, which takes a lock in Python 3.11.
        found: Tensor | None = getattr(self, "_batch_index", None)
        if found is None:
            crystals = torch.arange(self.num_crystals, device=self.num_atoms.device)
            found = torch.repeat_interleave(crystals, self.num_atoms, output_size=self.frac_coords.shape[0])
            object.__setattr__(self, "_batch_index", found)
        return found

    @property
    def volume(self) -> Tensor:
        """``(B,)``, cell volumes in cubic angstrom (not negative)."""
        return torch.linalg.det(self.cell).abs()

    @property
    def one(self) -> CrystalBatch:
        """The first of the :attr:`copies`."""
        if self.copies == 1:
            return self
        atoms, crystals = len(self.frac_coords) // self.copies, self.num_crystals // self.copies
        return CrystalBatch(
            self.frac_coords[:atoms], self.cell[:crystals], self.atomic_numbers[:atoms], self.num_atoms[:crystals]
        )

    def repeat(self, copies: int) -> CrystalBatch:
        """The same crystals ``copies`` times; what depends on them alone need be computed of :attr:`one` only."""
        return CrystalBatch(
            frac_coords=self.frac_coords.repeat(copies, 1),
            cell=self.cell.repeat(copies, 1, 1),
            atomic_numbers=self.atomic_numbers.repeat(copies),
            num_atoms=self.num_atoms.repeat(copies),
            copies=copies * self.copies,
        )

    def replace(self, **fields: Tensor) -> CrystalBatch:
        """The same batch with some fields exchanged; its copies, if it had any, count as crystals of their own."""
        return dataclasses.replace(self, copies=1, **fields)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalBatch:
        """The batch on another device and, for its floating-point fields, in another precision."""
        return CrystalBatch(
            frac_coords=self.frac_coords.to(device=device, dtype=dtype),
            cell=self.cell.to(device=device, dtype=dtype),
            atomic_numbers=self.atomic_numbers.to(device=device),
            num_atoms=self.num_atoms.to(device=device),
            copies=self.copies,
        )

    def select(self, crystals: Sequence[int]) -> CrystalBatch:
        """The named crystals, in the order given."""
        rows = torch.tensor(list(crystals), dtype=torch.int64, device=self.num_atoms.device)
        atoms = self.atoms_of(crystals)
        return CrystalBatch(self.frac_coords[atoms], self.cell[rows], self.atomic_numbers[atoms], self.num_atoms[rows])

    def atoms_of(self, crystals: Sequence[int]) -> Tensor:
        """Indices of the atoms of the named crystals, in the order given."""
        offsets = [0, *torch.cumsum(self.num_atoms, 0).tolist()]
        atoms = [a for c in crystals for a in range(offsets[c], offsets[c + 1])]
        return torch.tensor(atoms, dtype=torch.int64, device=self.num_atoms.device)

    @staticmethod
    def concatenate(batches: Sequence[CrystalBatch]) -> CrystalBatch:
        """All crystals of several batches, in order."""
        return CrystalBatch(
            frac_coords=torch.cat([b.frac_coords for b in batches]),
            cell=torch.cat([b.cell for b in batches]),
            atomic_numbers=torch.cat([b.atomic_numbers for b in batches]),
            num_atoms=torch.cat([b.num_atoms for b in batches]),
        )

    def crystals(self) -> list[tuple[Any, Any, Any]]:
        """Per crystal ``(frac_coords (n, 3), cell (3, 3), atomic_numbers (n,))`` as NumPy arrays in float64."""
        sizes = self.num_atoms.tolist()
        coords = self.frac_coords.detach().cpu().double().split(sizes)
        numbers = self.atomic_numbers.cpu().split(sizes)
        cells = self.cell.detach().cpu().double()
        return [(f.numpy(), c.numpy(), z.numpy()) for f, c, z in zip(coords, cells, numbers, strict=True)]

    def to_structures(self) -> list[Structure]:
        """Each crystal as a pymatgen ``Structure``.

        Raises:
            ValueError: if an atom is still masked.
        """
        from pymatgen.core import Lattice, Structure

        self._refuse_masked()
        return [Structure(Lattice(cell), numbers.tolist(), coords) for coords, cell, numbers in self.crystals()]

    def to_atoms(self) -> list[Atoms]:
        """Each crystal as an ASE ``Atoms`` with periodic boundary conditions.

        Raises:
            ValueError: if an atom is still masked.
        """
        from ase import Atoms

        self._refuse_masked()
        return [
            Atoms(numbers=numbers, scaled_positions=coords, cell=cell, pbc=True)
            for coords, cell, numbers in self.crystals()
        ]

    def _refuse_masked(self) -> None:
        if bool((self.atomic_numbers == MASK).any()):
            raise ValueError("The batch holds masked atoms; only finished crystals can become structures.")

    @staticmethod
    def from_arrays(crystals: Sequence[tuple[Any, Any, Any]], dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """A batch from per-crystal ``(frac_coords (n, 3), cell (3, 3), atomic_numbers (n,))``, wrapped."""
        # Copied by NumPy: pymatgen's arrays are read-only, which torch warns about.
        frac = torch.cat([torch.from_numpy(np.array(f, dtype=np.float64)).reshape(-1, 3) for f, _, _ in crystals])
        numbers = [torch.from_numpy(np.array(z, dtype=np.int64)).reshape(-1) for _, _, z in crystals]
        return CrystalBatch(
            frac_coords=wrap(frac.to(dtype)),
            cell=torch.from_numpy(np.stack([np.array(c, dtype=np.float64) for _, c, _ in crystals])).to(dtype),
            atomic_numbers=torch.cat(numbers),
            num_atoms=torch.tensor([len(z) for z in numbers], dtype=torch.int64),
        )

    @staticmethod
    def from_structures(structures: Sequence[Structure], dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """A batch from ordered pymatgen structures."""
        return CrystalBatch.from_arrays(
            [(s.frac_coords, s.lattice.matrix, list(s.atomic_numbers)) for s in structures], dtype
        )

    @staticmethod
    def from_atoms(atoms: Sequence[Atoms], dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """A batch from periodic ASE atoms."""
        return CrystalBatch.from_arrays([(a.get_scaled_positions(), a.cell.array, a.numbers) for a in atoms], dtype)


def wrap(frac_coords: Tensor) -> Tensor:
    """Fractional coordinates modulo 1, in [0, 1) also where rounding would give exactly 1."""
    wrapped = torch.remainder(frac_coords, 1.0)
    return torch.where(wrapped >= 1.0, torch.zeros_like(wrapped), wrapped)
