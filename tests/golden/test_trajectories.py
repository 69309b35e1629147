"""The sampler "published", step by step, with every random number of a recorded run."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import bind_conditions
from crystalsmith.diffusion.solvers import CORRECTOR, PREDICTOR, PRIOR, published, schedule

CASES = [
    ("trajectory_small_base", "small_base_o1", "first3", 3),
    ("trajectory_small_base", "small_base_o1", "last3", 3),
    ("trajectory_small_mag_cfg2", "small_mag_o1", "first2", 2),
    ("trajectory_small_mag_cfg2", "small_mag_o1", "last2", 2),
]


def recorded(file, steps, recorded_draw, recorded_noise):
    """All draws by step and stage; of the two classes that are drawn per step the published code drops the first."""
    draws = [file[name] for name in sorted(n for n in file.names() if n.startswith("draw"))]
    stages = {}
    if len(draws) > 6 * steps:
        stages[0, PRIOR] = recorded_draw(frac=draws[1], lattice=draws[0])
        draws = draws[2:]
    for step in range(steps):
        frac, cell, frac_next, cell_next, _, species = draws[6 * step : 6 * step + 6]
        stages[step + 1, CORRECTOR] = recorded_draw(frac=frac, lattice=cell)
        stages[step + 1, PREDICTOR] = recorded_draw(frac=frac_next, lattice=cell_next, species=species)
    return recorded_noise(stages)


def close(batch, file, prefix, tolerance, open_crystals=()):
    """The state is the recorded one; ``open_crystals`` need not be, and the rest, by the common step, only nearly."""
    tolerance = 1e-3 if open_crystals else tolerance
    kept = torch.tensor([i not in open_crystals for i in range(len(batch.num_atoms))])
    atoms = kept[batch.batch_index]
    distance = (batch.frac_coords - file[f"{prefix}.pos"])[atoms].abs()
    assert float(torch.minimum(distance, (1 - distance).abs()).max()) < tolerance, prefix
    torch.testing.assert_close(batch.cell[kept], file[f"{prefix}.cell"][kept], rtol=tolerance, atol=tolerance)
    assert torch.equal(batch.atomic_numbers, file[f"{prefix}.atomic_numbers"])


def undecided(denoiser, batch, t):
    """Crystals whose scores jump as the state moves by its last bits: their neighbour limit falls between equals."""
    with torch.no_grad():
        first = denoiser(batch, t).frac_coords
        jumps = torch.zeros(len(batch.num_atoms))
        for seed in range(8):
            shift = torch.randn(batch.cell.shape, generator=torch.Generator().manual_seed(seed))
            moved = batch.replace(cell=batch.cell * (1 + 1e-7 * shift))
            change = (denoiser(moved, t).frac_coords - first).abs().amax(-1) / first.abs().max()
            jumps = jumps.scatter_reduce(0, batch.batch_index, change, "amax")
    return [i for i, jump in enumerate(jumps.tolist()) if jump > 1e-4]


def guided(model, values):
    return model.denoiser if values is None else bind_conditions(model.denoiser, {"dft_mag_density": values}, 2.0)


def state(file, prefix):
    return CrystalBatch(*(file[f"{prefix}.{n}"] for n in ("pos", "cell", "atomic_numbers")), file["num_atoms"])


@pytest.mark.parametrize(("arrays", "checkpoint", "part", "steps"), CASES)
@pytest.mark.usefixtures("same_sort")
def test_every_step(arrays, checkpoint, part, steps, golden, imported, recorded_draw, recorded_noise):
    """Each corrector and each predictor, from the recorded state before it to the recorded state after it."""
    file, model = golden(arrays).at(f"{part}/"), imported(checkpoint)
    noise = recorded(file, steps, recorded_draw, recorded_noise)
    denoiser = guided(model, golden(arrays)["dft_mag_density"].view(-1) if "cfg2" in arrays else None)
    first = part.startswith("first")
    if first:
        prior = model.process.prior(file["num_atoms"], noise.at(0, PRIOR))
        close(prior, file, "record00", 1e-5)
    times = torch.cat([schedule(1000), torch.zeros(1)])
    start = 0 if first else 1000 - steps
    ratios = {"snr_frac_coords": 0.4, "snr_cell": 0.2, "batch_mean": True}
    for step in range(steps):
        t, t_next = (times[start + step + k].expand(len(file["num_atoms"])) for k in (0, 1))
        before = state(file, f"record{2 * step:02d}")
        with torch.no_grad():
            corrected = model.process.correct(
                before, denoiser(before, t), t, t_next, noise.at(step + 1, CORRECTOR), **ratios
            )
        ties = undecided(denoiser, before, t)
        assert len(ties) <= 4 if first else not ties  # of six
        close(corrected, file, f"record{2 * step + 1:02d}", 5e-5, ties)
        between = state(file, f"record{2 * step + 1:02d}")
        with torch.no_grad():
            sample, mean = model.process.predict(
                between, denoiser(between, t), t, t_next, noise.at(step + 1, PREDICTOR), scalar_cell_noise=True
            )
        if step + 1 < steps:
            close(sample, file, f"record{2 * step + 2:02d}", 5e-5, undecided(denoiser, between, t))
        else:
            close(sample, file, "final_sample", 5e-5)
            close(mean, file, "final_mean", 5e-5)


@pytest.mark.parametrize(("arrays", "checkpoint", "part", "steps"), [case for case in CASES if "last" in case[2]])
@pytest.mark.usefixtures("same_sort")
def test_free_run(arrays, checkpoint, part, steps, golden, imported, recorded_draw, recorded_noise):
    """The solver left to itself, to the end at t = 0.

    (From t = 1 it cannot follow: a limit of 50 neighbours that falls between an atom's images +N and -N is decided by
    the last bit of the coordinates, in the published code as here.)
    """
    file, model = golden(arrays).at(f"{part}/"), imported(checkpoint)
    noise = recorded(file, steps, recorded_draw, recorded_noise)
    denoiser = guided(model, golden(arrays)["dft_mag_density"].view(-1) if "cfg2" in arrays else None)
    seen = []
    result = published(
        denoiser,
        model.process,
        state(file, "record00"),
        schedule(1000)[-steps:],
        noise,
        lambda *args: seen.append(args),
    )
    assert len(seen) == steps
    close(result, file, "final_mean", 5e-5)
    close(seen[-1][1], file, "final_sample", 5e-5)
