"""A pair potential in torch that computes batches, for tests."""

from __future__ import annotations

import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.evaluation.potential.batched import Evaluated
from crystalsmith.neighbors import build_edges

SIGMA = {10: 2.4, 18: 2.6, 36: 2.9}
"""Angstrom, by atomic number; those of a pair are averaged. The depth is 0.2 eV."""


class LennardJones:
    """Energies, forces and stresses; with ``smooth``, energy and force go to zero at the cut-off (angstrom)."""

    def __init__(self, cutoff: float = 6.5, smooth: bool = True) -> None:
        self.device, self.type_map = torch.device("cpu"), dict.fromkeys(SIGMA, 0)
        self.cutoff, self.smooth, self.sizes = cutoff, smooth, []

    def evaluate(self, batch: CrystalBatch) -> Evaluated:
        self.sizes.append(len(batch))
        edges = build_edges(batch, self.cutoff, 10**9, max_images=10**9)
        sigma = torch.tensor([SIGMA[z] for z in batch.atomic_numbers.tolist()], dtype=torch.float64).to(
            batch.cell.device
        )
        mean = 0.5 * (sigma[edges.target] + sigma[edges.source])
        energy, slope = pair(edges.distance, mean)
        if self.smooth:
            cutoff = torch.full_like(mean, self.cutoff)
            last, last_slope = pair(cutoff, mean)
            energy, slope = energy - last - (edges.distance - cutoff) * last_slope, slope - last_slope
        force = (slope / edges.distance).unsqueeze(-1) * edges.vector
        crystal = batch.batch_index[edges.target]
        half = 0.5 * force.unsqueeze(-1) * edges.vector.unsqueeze(1)
        virial = torch.zeros_like(batch.cell).index_add(0, crystal, half)
        return Evaluated(
            energy=batch.cell.new_zeros(len(batch)).index_add(0, crystal, 0.5 * energy),
            forces=torch.zeros_like(batch.frac_coords).index_add(0, edges.target, force),
            stress=virial / batch.volume.view(-1, 1, 1),
        )


def pair(distance: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy of pairs, and its derivative by the distance."""
    power = (sigma / distance) ** 6
    return 0.8 * (power**2 - power), 0.8 * (6 * power - 12 * power**2) / distance


def make() -> LennardJones:
    """For ``--potential tests.evaluation.lennard_jones:make``."""
    return LennardJones()
