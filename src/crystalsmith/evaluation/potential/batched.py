"""Potentials that compute many crystals in one call.

A potential of the user's own can be one as well: what its ``module:factory`` returns needs an attribute ``device`` and
a method ``evaluate``, see :class:`BatchPotential`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.evaluation.potential.potentials import Potential, make_calculator
from crystalsmith.neighbors import build_edges

_ALL = 10**9
"""Neighbours of an atom and images of a cell are not limited: the potential's cut-off alone decides."""


@dataclass(frozen=True)
class Evaluated:
    """What a potential says of B crystals with N atoms in all.

    Attributes:
        energy: ``(B,)`` total, eV per cell.
        forces: ``(N, 3)`` eV/angstrom.
        stress: ``(B, 3, 3)`` symmetric, eV/cubic angstrom; the derivative of the energy by strain over the volume.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor

    @staticmethod
    def concatenate(parts: Sequence[Evaluated]) -> Evaluated:
        """What was said of the crystals of several batches, in order."""
        return Evaluated(*(torch.cat([getattr(p, f) for p in parts]) for f in ("energy", "forces", "stress")))

    def select(self, batch: CrystalBatch, crystals: Sequence[int]) -> Evaluated:
        """What was said of the named crystals of the batch."""
        rows = torch.tensor(list(crystals), dtype=torch.int64, device=self.energy.device)
        return Evaluated(self.energy[rows], self.forces[batch.atoms_of(crystals)], self.stress[rows])

    @staticmethod
    def nothing(batch: CrystalBatch) -> Evaluated:
        """NaN for every crystal."""
        like = batch.cell.new_full((), torch.nan)
        return Evaluated(like.expand(len(batch)), like.expand_as(batch.frac_coords), like.expand_as(batch.cell))


@runtime_checkable
class BatchPotential(Protocol):
    """A potential that computes many crystals in one call.

    Attributes:
        device: where it computes.

    A mapping ``type_map`` whose keys are the atomic numbers it knows is optional; crystals with others are not given.
    """

    device: torch.device

    def evaluate(self, batch: CrystalBatch) -> Evaluated:
        """Energies, forces and stresses of a batch in float64 on :attr:`device`.

        What it says of a crystal must not depend on the others of the batch. It may raise; the crystals are then tried
        in smaller batches.
        """
        ...


class SevenNetBatch:
    """SevenNet: the model of its ASE calculator, with the edges of a batch found on the device."""

    def __init__(self, calculator: Any) -> None:
        self.device: torch.device = calculator.device
        self.type_map: dict[int, int] = calculator.type_map
        self._cutoff = float(calculator.cutoff)
        self._model = calculator.model
        self._model.set_is_batch_data(True)

    def evaluate(self, batch: CrystalBatch) -> Evaluated:
        """See :class:`BatchPotential`; the model computes in float32."""
        from sevenn import _keys as key

        edges = build_edges(batch, self._cutoff, _ALL, max_images=_ALL)
        output = self._model(
            {
                key.ATOMIC_NUMBERS: batch.atomic_numbers,
                key.NODE_FEATURE: batch.atomic_numbers,
                key.EDGE_IDX: torch.stack([edges.target, edges.source]),
                key.EDGE_VEC: edges.vector.float(),
                key.CELL_VOLUME: batch.volume.float(),
                key.NUM_ATOMS: batch.num_atoms,
                key.BATCH: batch.batch_index,
            }
        )
        # Its order is xx, yy, zz, xy, yz, zx, and its sign that of a pressure.
        stress = -output[key.PRED_STRESS].detach().double()[:, [0, 3, 5, 3, 1, 4, 5, 4, 2]].view(-1, 3, 3)
        energy = output[key.PRED_TOTAL_ENERGY].detach().double().view(-1)
        return Evaluated(energy, output[key.PRED_FORCE].detach().double(), stress)


_ADAPTERS: dict[str, Callable[[Any], BatchPotential]] = {"sevenn": SevenNetBatch}
"""By package, from the ASE calculator."""


def computes_batches(potential: Potential) -> bool:
    """Whether a potential by name computes many crystals in one call; one of the user's own is not asked."""
    return potential.package in _ADAPTERS


def make_batch_potential(potential: Potential, device: str | None = None) -> BatchPotential:
    """A potential that computes many crystals in one call, on a GPU where there is one.

    Raises:
        InputError: if it cannot, its package is not installed or does not load.
    """
    calculator = make_calculator(potential, device)
    if isinstance(calculator, BatchPotential):
        return calculator
    if not computes_batches(potential):
        raise InputError(
            f"The potential {potential.name} does not compute several crystals at once; leave --batch-relax out."
        )
    return _ADAPTERS[potential.package](calculator)
