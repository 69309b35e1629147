"""The process restricted to crystals of given symmetry: every state keeps the operations exactly.

The noise of an orbit is that of its representative, projected onto its Wyckoff position and carried to the other atoms
by the operations; scores are averaged back the same way; an orbit has one element; cells keep their Bravais type. Any
network will do: one that sees the choice of lattice vectors, as GemNet does, answers an orbit's atoms differently, and
the average is what counts, in training as well. (Jiao et al., "Space group constrained crystal generation" (DiffCSP++),
ICLR 2024, restrict the process of a model trained for it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crystalsmith.cells import symmetric_polar
from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.diffusion.noise import Draw, sample_by_uniform
from crystalsmith.diffusion.process import Losses, Process

_RANK = 1e-5
"""Eigenvalues below this share of the largest count as zero where allowed changes of a cell are told from others."""


@dataclass(frozen=True)
class Orbits:
    """The M orbits of B crystals with N atoms in all.

    Attributes:
        atoms: ``(M,)``, the representative of each.
        of: ``(N,)``, the orbit of each atom.
        count: ``(B,)``, orbits of each crystal.
    """

    atoms: Tensor
    of: Tensor
    count: Tensor


@dataclass(frozen=True)
class Symmetry:
    """The symmetry of B crystals with N atoms in all.

    Attributes:
        first: ``(N,)``, the atom that represents each atom's orbit.
        slope: ``(N, 3, 3)``: a displacement d of the representative moves atom j by ``slope[j] @ d``, within its
            Wyckoff position.
        back: ``(N, 3, 3)``: the same the other way.
        offset: ``(N, 3)``: atom j stands at ``slope[j] @ u + offset[j]``, u the same for the whole orbit.
        rotations: ``(G, 3, 3)``, the point groups of all crystals one after the other, on column vectors of fractional
            coordinates.
        crystal: ``(G,)``, whose they are.
        owner: ``(N,)``, the crystal of each atom.
    """

    first: Tensor
    slope: Tensor
    back: Tensor
    offset: Tensor
    rotations: Tensor
    crystal: Tensor
    owner: Tensor

    @staticmethod
    def collate(sites: Sequence[Any], dtype: torch.dtype = torch.float32) -> Symmetry:
        """The symmetry of a batch from each crystal's :class:`crystalsmith.symmetry.wyckoff.Sites`."""
        starts, total = [], 0
        for one in sites:
            starts.append(total)
            total += len(one.first)
        first = torch.cat([torch.as_tensor(one.first) + start for one, start in zip(sites, starts, strict=True)])
        slope, back, offset, rotations = (
            torch.cat([torch.as_tensor(getattr(one, name)) for one in sites]).to(dtype)
            for name in ("slope", "back", "offset", "rotations")
        )
        crystal, owner = (
            torch.cat([torch.full((len(getattr(one, name)),), i) for i, one in enumerate(sites)])
            for name in ("rotations", "first")
        )
        return Symmetry(first, slope, back, offset, rotations, crystal, owner)

    @property
    def trivial(self) -> Tensor:
        """``(B, 1, 1)`` bool: crystals of no symmetry but the lattice's."""
        return (self.num_operations == 1).view(-1, 1, 1)

    @cached_property
    def num_operations(self) -> Tensor:
        """``(B,)``; counted once, as counting makes the host wait for a GPU."""
        return torch.bincount(self.crystal)

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> Symmetry:
        """The symmetry from NumPy arrays by name."""
        return Symmetry(**{name: torch.from_numpy(x) for name, x in arrays.items()})

    def to(self, device: torch.device | str) -> Symmetry:
        """The same on another device."""
        return Symmetry(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def orbits(self) -> Orbits:
        """The orbits, crystal by crystal."""
        atoms, of = torch.unique(self.first, return_inverse=True)
        return Orbits(atoms, of, torch.bincount(self.owner[atoms], minlength=len(self.trivial)))

    def carry(self, displacements: Tensor) -> Tensor:
        """``(N, 3)``: every atom moves as its representative does, which keeps to its Wyckoff position."""
        return (self.slope @ displacements[self.first].unsqueeze(-1)).squeeze(-1)

    def average(self, displacements: Tensor) -> Tensor:
        """``(N, 3)``: displacements averaged over each orbit; those that keep the symmetry are unchanged."""
        moved = (self.back @ displacements.unsqueeze(-1)).squeeze(-1)
        ones = torch.ones_like(moved[:, :1])
        total = torch.zeros_like(moved).index_add(0, self.first, moved)
        count = torch.zeros_like(ones).index_add(0, self.first, ones)
        return self.carry(total / count.clamp(min=1))

    def place(self, frac_coords: Tensor) -> Tensor:
        """``(N, 3)`` in [0, 1): atoms put onto their Wyckoff positions, free coordinates from the representatives."""
        return wrap(self.carry(frac_coords) + self.offset)

    def average_metric(self, metric: Tensor) -> Tensor:
        """``(B, 3, 3)``: quadratic forms averaged over the point group, W^T G W."""
        rotations = self.rotations.to(metric.dtype)
        turned = rotations.mT @ metric[self.crystal] @ rotations
        count = self.num_operations.to(metric.dtype).view(-1, 1, 1)
        return torch.zeros_like(metric).index_add(0, self.crystal, turned) / count

    def move_cell(self, cell: Tensor, moved: Tensor) -> Tensor:
        """Cells ``(B, 3, 3)`` of the right Bravais type for ``moved``, seen from ``cell``; all three are symmetric.

        Of the change, what leads out of the cells with this point group is taken away, at right angles in the six
        numbers that the noise of a cell has (each of unit variance), so that noise is as wide along them as ever. The
        strain that remains commutes with the operations and is applied in full, without the swelling that a root of
        averaged metrics would bring. That root is taken only for strains above 1, where a nearly flat cell moves by
        more than its thickness: a first order means nothing there, and amplifies rounding. Crystals that are not finite
        give NaN.
        """
        eye = torch.eye(3, dtype=cell.dtype, device=cell.device)
        finite = (cell.isfinite() & moved.isfinite()).all(-1).all(-1).view(-1, 1, 1)
        cell, moved = torch.where(finite, cell, eye), torch.where(finite, moved, eye)
        change = self._along(cell, moved - cell)
        inverse = torch.linalg.inv_ex(cell).inverse
        strain = 0.5 * (inverse @ change + change @ inverse)
        # Rounding would add up over many steps: the metric is averaged as well, which changes nothing else.
        metric = cell @ (eye + 2.0 * strain) @ cell
        strain = 0.5 * (inverse @ self.average_metric(metric) @ inverse - eye)
        strained = symmetric_polar(cell + cell @ strain)
        rooted = _root(self.average_metric(moved.double() @ moved.double())).to(cell.dtype)
        far = strain.flatten(1).norm(dim=1).view(-1, 1, 1) > 1.0
        kept = torch.where(self.trivial, moved, torch.where(far, rooted, strained))
        return kept.masked_fill(~finite, torch.nan)

    def _along(self, cell: Tensor, change: Tensor) -> Tensor:
        """The orthogonal projection of changes of cells onto those that keep the symmetry to first order.

        These are the X with L X + X L = S for metrics S that the point group leaves alone, of which the averages of
        the six elementary ones are a (redundant) basis.
        """
        crystals = len(cell)
        pairs = torch.triu_indices(3, 3, device=cell.device)
        elementary = torch.zeros(6, 3, 3, dtype=torch.float64, device=cell.device)
        elementary[torch.arange(6), pairs[0], pairs[1]] = elementary[torch.arange(6), pairs[1], pairs[0]] = 1.0
        metrics = torch.stack([self.average_metric(one.expand(crystals, 3, 3)) for one in elementary], 1)
        values, vectors = torch.linalg.eigh(cell.double())
        vectors = vectors.unsqueeze(1)
        sums = (values.unsqueeze(-1) + values.unsqueeze(-2)).unsqueeze(1)
        allowed = vectors @ ((vectors.mT @ metrics @ vectors) / sums) @ vectors.mT
        spanning = allowed[..., pairs[0], pairs[1]]
        size, axes = torch.linalg.eigh(spanning.mT @ spanning)
        axes = axes * (size > _RANK * size[:, -1:]).unsqueeze(-2)
        kept = (axes @ (axes.mT @ change.double()[:, pairs[0], pairs[1], None])).squeeze(-1)
        result = torch.zeros_like(change)
        result[:, pairs[0], pairs[1]] = result[:, pairs[1], pairs[0]] = kept.to(change.dtype)
        return result


class SymmetricProcess(Process):
    """A process whose states keep a symmetry; what they start from must have it (:meth:`prior` does).

    Args:
        base: the process to restrict; if it is a ``ConstrainedProcess``, its bounds and fixed elements are those of
            orbits, not of atoms.
        symmetry: of the crystals that will be sampled.
    """

    def __init__(self, base: Process, symmetry: Symmetry) -> None:
        super().__init__(base.config)
        self.base, self.symmetry = base, symmetry
        self.orbits = symmetry.orbits()

    def prior(self, num_atoms: Tensor, draw: Draw, atomic_numbers: Tensor | None = None) -> CrystalBatch:
        """See :meth:`Process.prior`."""
        first = self.base.prior(num_atoms, draw, atomic_numbers)
        cell = self._about(self.cell.limit_mean(num_atoms, first.cell.dtype), first.cell)
        return first.replace(frac_coords=self.symmetry.place(first.frac_coords), cell=cell)

    def move(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[CrystalBatch, CrystalBatch]:
        """See :meth:`Process.move`."""
        moved = self.base.move(batch, self._shared(scores), t, t_next, _OrbitDraw(draw, self.symmetry), **settings)
        sample, mean = (x.replace(cell=self.symmetry.move_cell(batch.cell, x.cell)) for x in moved)
        return sample, mean

    def correct(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> CrystalBatch:
        """See :meth:`Process.correct`."""
        moved = self.base.correct(batch, self._shared(scores), t, t_next, _OrbitDraw(draw, self.symmetry), **settings)
        return moved.replace(cell=self.symmetry.move_cell(batch.cell, moved.cell))

    def predict_species(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, draw: Draw, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Process.predict_species`: each orbit is one atom to the process that decides."""
        one = self.orbits
        chosen = batch.replace(
            frac_coords=batch.frac_coords[one.atoms],
            atomic_numbers=batch.atomic_numbers[one.atoms],
            num_atoms=one.count,
        )
        shared = Scores(scores.frac_coords[one.atoms], scores.cell, self._means(scores.species_logits))
        decide = _ChosenDraw(draw, one.atoms)
        drawn, likely = self.base.predict_species(chosen, shared, t, t_next, decide, **settings)
        return drawn[one.of], likely[one.of]

    def corrupt(self, clean: CrystalBatch, t: Tensor, draw: Draw, t_species: Tensor | None = None) -> CrystalBatch:
        """See :meth:`Process.corrupt`; the clean crystals have the symmetry."""
        noisy = self.base.corrupt(clean, t, _OrbitDraw(draw, self.symmetry), t_species)
        return noisy.replace(cell=self._about(self.cell.mean(clean.cell, t, clean.num_atoms), noisy.cell))

    def loss(
        self, scores: Scores, clean: CrystalBatch, noisy: CrystalBatch, t: Tensor, t_species: Tensor | None = None
    ) -> Losses:
        """See :meth:`Process.loss`; of what the reverse process uses, the averages over orbits."""
        shared = self._shared(scores)
        logits = self._means(shared.species_logits)[self.orbits.of]
        return self.base.loss(Scores(shared.frac_coords, shared.cell, logits), clean, noisy, t, t_species)

    def renoise(self, batch: CrystalBatch, t: Tensor, t_next: Tensor, draw: Draw) -> CrystalBatch:
        """See :meth:`Process.renoise`."""
        noisy = self.base.renoise(batch, t, t_next, _OrbitDraw(draw, self.symmetry))
        return noisy.replace(cell=self.symmetry.move_cell(batch.cell, noisy.cell))

    def _about(self, mean: Tensor, cell: Tensor) -> Tensor:
        """Cells that spread about the cell of this symmetry closest to ``mean`` as ``cell`` spreads about ``mean``."""
        shape = _root(self.symmetry.average_metric(mean @ mean.mT))
        upper = torch.ones(3, 3, dtype=mean.dtype, device=mean.device).triu()
        scale = (upper * shape * mean).sum((-1, -2)) / (upper * shape.square()).sum((-1, -2))
        centre = shape * scale.view(-1, 1, 1)
        return torch.where(self.symmetry.trivial, cell, self.symmetry.move_cell(centre, centre + cell - mean))

    def _means(self, logits: Tensor) -> Tensor:
        """``(M, 101)``, averages over each orbit of ``(N, 101)``."""
        total = torch.zeros_like(logits[self.orbits.atoms]).index_add(0, self.orbits.of, logits)
        ones = torch.ones_like(logits[:, :1])
        return total / torch.zeros_like(total[:, :1]).index_add(0, self.orbits.of, ones)

    def _shared(self, scores: Scores) -> Scores:
        return Scores(self.symmetry.average(scores.frac_coords), scores.cell, scores.species_logits)


class _ChosenDraw:
    """The random numbers of a draw for elements, of some atoms only."""

    def __init__(self, draw: Draw, atoms: Tensor) -> None:
        self.draw, self.chosen = draw, atoms

    def atoms(self) -> Tensor:
        return self.draw.atoms()[self.chosen]

    def cell(self) -> Tensor:
        return self.draw.cell()

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return sample_by_uniform(log_probs, self.uniform(word))

    def uniform(self, word: int) -> Tensor:
        return self.draw.uniform(word)[self.chosen]


class _OrbitDraw:
    """The random numbers of a draw with one share for each orbit."""

    def __init__(self, draw: Draw, symmetry: Symmetry) -> None:
        self.draw, self.symmetry = draw, symmetry

    def atoms(self) -> Tensor:
        return self.symmetry.carry(self.draw.atoms())

    def cell(self) -> Tensor:
        return self.draw.cell()

    def categorical(self, log_probs: Tensor, word: int = 0) -> Tensor:
        return sample_by_uniform(log_probs[self.symmetry.first], self.uniform(word))

    def uniform(self, word: int) -> Tensor:
        return self.draw.uniform(word)[self.symmetry.first]


def _root(metric: Tensor) -> Tensor:
    """The symmetric positive square root of metrics ``(B, 3, 3)``."""
    values, vectors = torch.linalg.eigh(metric)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT
