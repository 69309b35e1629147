"""What the scalar cell noise of the published sampler does, on a case whose answer is known.

The published ancestral step draws one Gaussian per crystal for the whole cell (diagonal elements z, off-diagonal ones
sqrt(2) z) where an independent symmetric matrix is meant. Here the cells of the data are independent Gaussians, so the
score is known exactly and every deviation of the final moments is the sampler's own.

    python benchmarks/published_cell_noise.py [--crystals 2000] [--steps 1000]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.coordinates import wrapped_score
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.solvers import PRIOR, SOLVERS, schedule

DATA_STD = 0.15
"""Standard deviation of every element of the cell in the data, in units of n^(1/3) angstrom."""

ELEMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def exact_denoiser(process: Process) -> Denoiser:
    """Scores of data with Gaussian cells about the limit mean, all atoms at the origin, and hydrogen only."""

    def denoiser(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        n, cell = batch.num_atoms, process.cell
        a2 = cell.signal(t).square().view(-1, 1, 1)
        scale = n.to(t.dtype).view(-1, 1, 1) ** (1 / 3)
        std = cell.std(t, n)
        output = -(batch.cell - cell.limit_mean(n, t.dtype)) * std / (a2 * (DATA_STD * scale) ** 2 + std.square())
        atom_std = process.coordinates.std(t, n)[batch.batch_index].unsqueeze(-1)
        frac = atom_std * wrapped_score(batch.frac_coords, torch.zeros_like(batch.frac_coords), atom_std)
        logits = torch.full((len(batch.frac_coords), 101), -30.0, dtype=t.dtype)
        logits[:, 0] = 30.0
        return Scores(frac, output, logits)

    return denoiser


def sample_cells(solver: str, crystals: int, steps: int, seed: int = 0, scalar_noise: bool = False) -> Tensor:
    """Final cells ``(B, 3, 3)`` about their mean over the standard deviation of the data; one atom each."""
    process = Process(replace(ProcessConfig.published(), scalar_cell_noise=scalar_noise))
    sizes = torch.ones(crystals, dtype=torch.int64)
    noise = CrystalNoise(seed, torch.arange(crystals), sizes)
    start = process.prior(sizes, noise.at(0, PRIOR))
    batch = SOLVERS[solver](exact_denoiser(process), process, start, schedule(steps), noise)
    return (batch.cell - process.cell.limit_mean(sizes, torch.float32)) / DATA_STD


def moments(cells: Tensor) -> dict[str, float]:
    """Mean, variances and correlations of the six elements; the exact values are 0, 1, 1, 0, 0, 0."""
    x = torch.stack([cells[:, i, j] for i, j in ELEMENTS], -1).double()
    covariance = torch.cov(x.T)
    correlation = covariance / covariance.diagonal().sqrt().outer(covariance.diagonal().sqrt())

    def mean_of(rows: range, columns: range) -> float:
        return float(torch.stack([correlation[i, j] for i in rows for j in columns if i != j]).mean())

    diagonal, off_diagonal = range(3), range(3, 6)
    return {
        "mean": float(x.mean()),
        "variance_diagonal": float(covariance.diagonal()[:3].mean()),
        "variance_off_diagonal": float(covariance.diagonal()[3:].mean()),
        "correlation_diagonal": mean_of(diagonal, diagonal),
        "correlation_off_diagonal": mean_of(off_diagonal, off_diagonal),
        "correlation_mixed": mean_of(diagonal, off_diagonal),
    }


def main() -> None:
    """Print one row per sampler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    runs = {
        "exact": None,
        "predictor_corrector (ours)": ("predictor_corrector", False),
        "published": ("published", False),
        "ancestral": ("ancestral", False),
        "ancestral, scalar noise": ("ancestral", True),
    }
    print(f"{arguments.crystals} crystals, {arguments.steps} steps, elements in units of the data's standard deviation")
    names = ("mean", "var diag", "var off", "corr diag", "corr off", "corr mixed")
    print(f"{'sampler':28}" + "".join(f"{name:>12}" for name in names))
    for title, run in runs.items():
        if run is None:
            values = [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
        else:
            cells = sample_cells(run[0], arguments.crystals, arguments.steps, scalar_noise=run[1])
            values = list(moments(cells).values())
        print(f"{title:28}" + "".join(f"{value:12.3f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
