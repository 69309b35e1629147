"""FIRE for many crystals at once: positions, cell and symmetric strain, each crystal with its own time step and power.

Bitzek et al., Physical Review Letters 97, 170201 (2006), with the mixing before the step as in ASE. A crystal's degrees
of freedom are its atoms' displacements and a symmetric strain times the square root of the number of atoms, which is
about as stiff as an atom. Both count from the crystal as it is at each step, so that their forces are exactly those on
the atoms and minus stress times volume over that length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch

TIME_STEP = 0.2
"""At the start; time is in units where an atom's mass is one."""

LONGEST_TIME_STEP = 1.0

MIXING = 0.1
"""Share of the velocity that is turned towards the force (alpha of the paper) at the start and after going uphill."""

PATIENCE = 5
"""Steps downhill before the time step grows."""

GROWTH, SHRINKAGE, MIXING_DECAY = 1.1, 0.5, 0.99

LONGEST_MOVE = 0.2
"""Angstrom that an atom may move in one step; the whole step of its crystal is shortened to that."""


@dataclass(frozen=True)
class Walk:
    """B crystals on their way down.

    Attributes:
        batch: the crystals in float64.
        velocity: ``(N, 3)`` of the atoms.
        strain_velocity: ``(B, 3, 3)`` of the scaled strain, symmetric.
        time_step, mixing, downhill: ``(B,)``; the last counts steps downhill.
    """

    batch: CrystalBatch
    velocity: Tensor
    strain_velocity: Tensor
    time_step: Tensor
    mixing: Tensor
    downhill: Tensor

    @staticmethod
    def start(batch: CrystalBatch) -> Walk:
        """Crystals at rest."""
        one = torch.ones_like(batch.cell[:, 0, 0])
        return Walk(
            batch,
            torch.zeros_like(batch.frac_coords),
            torch.zeros_like(batch.cell),
            TIME_STEP * one,
            MIXING * one,
            0 * one,
        )

    def select(self, crystals: list[int]) -> Walk:
        """The named crystals, in the order given."""
        rows = torch.tensor(crystals, dtype=torch.int64, device=self.velocity.device)
        atoms = self.batch.atoms_of(crystals)
        return Walk(
            self.batch.select(crystals),
            self.velocity[atoms],
            self.strain_velocity[rows],
            self.time_step[rows],
            self.mixing[rows],
            self.downhill[rows],
        )

    def join(self, other: Walk) -> Walk:
        """These crystals and then the others."""
        both = ("velocity", "strain_velocity", "time_step", "mixing", "downhill")
        batch = CrystalBatch.concatenate([self.batch, other.batch])
        return Walk(batch, *(torch.cat([getattr(self, f), getattr(other, f)]) for f in both))


def pull(batch: CrystalBatch, stress: Tensor) -> Tensor:
    """``(B, 3, 3)``: minus stress (symmetric part) times volume, in eV."""
    return -0.5 * (stress + stress.transpose(1, 2)) * batch.volume.view(-1, 1, 1)


def largest_force(batch: CrystalBatch, forces: Tensor, stress: Tensor) -> Tensor:
    """``(B,)``: the largest force in eV/angstrom, where a row of stress times volume per atom counts as one."""
    longest = (pull(batch, stress) / batch.num_atoms.view(-1, 1, 1)).norm(dim=-1).amax(-1)
    on_atoms = forces.norm(dim=-1)
    found = longest.scatter_reduce(0, batch.batch_index, on_atoms, "amax")
    # A maximum may pass over a NaN, depending on the device; a sum does not.
    return found.index_add(0, batch.batch_index, 0.0 * on_atoms)


def step(walk: Walk, forces: Tensor, stress: Tensor) -> Walk:
    """One step of every crystal along its forces ``(N, 3)`` and stress ``(B, 3, 3)``, eV and angstrom."""
    batch, index = walk.batch, walk.batch.batch_index
    length = batch.num_atoms.to(forces.dtype).sqrt().view(-1, 1, 1)
    strain_force = pull(batch, stress) / length

    def dot(atoms: Tensor, other_atoms: Tensor, strain: Tensor, other_strain: Tensor) -> Tensor:
        own = (strain * other_strain).sum((1, 2))
        return own.index_add(0, index, (atoms * other_atoms).sum(-1))

    power = dot(forces, walk.velocity, strain_force, walk.strain_velocity)
    speed = dot(walk.velocity, walk.velocity, walk.strain_velocity, walk.strain_velocity).sqrt()
    force = dot(forces, forces, strain_force, strain_force).sqrt().clamp_min(torch.finfo(forces.dtype).tiny)
    uphill = power < 0

    grown = walk.downhill > PATIENCE
    time_step = torch.where(grown, (GROWTH * walk.time_step).clamp_max(LONGEST_TIME_STEP), walk.time_step)
    time_step = torch.where(uphill, SHRINKAGE * walk.time_step, time_step)
    mixing = torch.where(grown, MIXING_DECAY * walk.mixing, walk.mixing)
    mixing = torch.where(uphill, torch.full_like(mixing, MIXING), mixing)

    keep = torch.where(uphill, 0.0, 1.0 - walk.mixing)
    turn = torch.where(uphill, 0.0, walk.mixing * speed / force) + time_step
    velocity = keep[index, None] * walk.velocity + turn[index, None] * forces
    strain_velocity = keep.view(-1, 1, 1) * walk.strain_velocity + turn.view(-1, 1, 1) * strain_force

    move, strain = time_step[index, None] * velocity, time_step.view(-1, 1, 1) * strain_velocity
    longest = strain.norm(dim=-1).amax(-1).scatter_reduce(0, index, move.norm(dim=-1), "amax")
    shorten = LONGEST_MOVE / longest.clamp_min(LONGEST_MOVE)
    move, strain = shorten[index, None] * move, shorten.view(-1, 1, 1) * strain / length
    moved = torch.einsum("ni,nij->nj", move, torch.linalg.inv(batch.cell)[index])
    return Walk(
        batch.replace(frac_coords=batch.frac_coords + moved, cell=batch.cell @ torch.linalg.matrix_exp(strain)),
        velocity,
        strain_velocity,
        time_step,
        mixing,
        torch.where(uphill, 0.0, walk.downhill + 1.0),
    )
