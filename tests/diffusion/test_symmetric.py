"""Laws of the restricted process: symmetric in, symmetric out; what is free is as in the whole one."""

from __future__ import annotations

import collections

import pytest
import torch

from crystalsmith.contracts import Scores
from crystalsmith.diffusion.composition import CountBounds
from crystalsmith.diffusion.constraints import ConstrainedProcess
from crystalsmith.diffusion.noise import CrystalNoise
from crystalsmith.diffusion.orbit_counts import CountedProcess
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.diffusion.symmetric import SymmetricProcess, Symmetry
from crystalsmith.elements import MASK
from crystalsmith.symmetry.wyckoff import Template, bundled_templates

TEMPLATES = bundled_templates()
CHOSEN = list(TEMPLATES.counts)[::37]
PROCESS = Process(ProcessConfig())


def restricted(chosen=CHOSEN, base=PROCESS):
    sites = [TEMPLATES.sites(t) for t in chosen]
    num_atoms = torch.tensor([len(s) for s in sites])
    return SymmetricProcess(base, Symmetry.collate(sites, torch.float64)), num_atoms, sites


def noise(num_atoms, seed=0):
    return CrystalNoise(seed, torch.arange(len(num_atoms)), num_atoms, torch.float64)


def scores(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms, crystals = len(batch.frac_coords), batch.num_crystals
    frac = torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    cell = torch.randn(crystals, 3, 3, generator=generator, dtype=torch.float64)
    return Scores(frac, cell + cell.mT, torch.randn(atoms, 101, generator=generator, dtype=torch.float64))


def broken(process, batch) -> float:
    """How far a batch is from its symmetry: metrics, and atoms from where their representatives send them."""
    symmetry = process.symmetry
    metric = batch.cell @ batch.cell.mT
    cells = (symmetry.average_metric(metric) - metric).abs().max() / metric.abs().max()
    # An atom may have been wrapped: among the images of the representative one sends it there.
    shifts = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 3)
    images = batch.frac_coords[symmetry.first].unsqueeze(1) + shifts
    sent = torch.einsum("nij,nkj->nki", symmetry.slope, images) + symmetry.offset.unsqueeze(1)
    gap = sent - batch.frac_coords.unsqueeze(1)
    atoms = (gap - gap.round()).abs().amax(-1).amin(1).max()
    same = bool((batch.atomic_numbers == batch.atomic_numbers[symmetry.first]).all())
    return max(float(cells), float(atoms), 0.0 if same else 1.0)


def test_every_step_keeps_the_symmetry() -> None:
    process, num_atoms, _ = restricted()
    draws = noise(num_atoms)
    batch = process.prior(num_atoms, draws.at(0, 0))
    assert broken(process, batch) < 1e-9
    t = torch.linspace(0.05, 1.0, len(num_atoms), dtype=torch.float64)
    for step, t_next in enumerate((0.8 * t, 0.5 * t, 0.0 * t), start=1):
        settings = {"snr_frac_coords": 0.4, "snr_cell": 0.2, "batch_mean": False}
        batch = process.correct(batch, scores(batch, step), t, t_next, draws.at(step, 1), **settings)
        assert broken(process, batch) < 1e-9
        batch, mean = process.predict(batch, scores(batch, -step), t, t_next, draws.at(step, 2))
        assert broken(process, batch) < 1e-9
        assert broken(process, mean) < 1e-9
        t = t_next
    batch = batch.replace(atomic_numbers=torch.where(batch.atomic_numbers == MASK, 5, batch.atomic_numbers))
    t = torch.linspace(0.1, 0.9, len(num_atoms), dtype=torch.float64)
    for noisy in (
        process.corrupt(batch, t, draws.at(9, 0)),
        process.renoise(batch, t, t + 0.05, draws.at(10, 0)),
    ):
        assert broken(process, noisy) < 1e-9


def test_a_crystal_without_symmetry_is_sampled_as_ever() -> None:
    free = Template(1, "aaaa", (1, 0, 0, 0, 1, 0, 0, 0, 1))
    process, num_atoms, _ = restricted([free, free])
    draws = noise(num_atoms)
    ours, theirs = (p.prior(num_atoms, draws.at(0, 0)) for p in (process, PROCESS))
    t = torch.tensor([0.9, 0.4], dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(ours.frac_coords, theirs.frac_coords)
        torch.testing.assert_close(ours.cell, theirs.cell)
        assert torch.equal(ours.atomic_numbers, theirs.atomic_numbers)
        pairs = ((process, ours), (PROCESS, theirs))
        ours, theirs = (p.predict(b, scores(b), t, 0.7 * t, draws.at(1, 2))[0] for p, b in pairs)


def test_scores_of_a_symmetric_field_are_unchanged_and_averages_are_final() -> None:
    process, num_atoms, _ = restricted()
    symmetry = process.symmetry
    moved = torch.randn(int(num_atoms.sum()), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    once = symmetry.average(moved)
    torch.testing.assert_close(symmetry.average(once), once, atol=1e-12, rtol=0)
    torch.testing.assert_close(symmetry.carry(once), once, atol=1e-12, rtol=0)


def test_noise_along_free_directions_has_the_width_of_the_whole_process() -> None:
    """Rocksalt: the one free length of the cell; a general position: all three coordinates."""
    salt = next(t for t in TEMPLATES.counts if t.number == 225 and t.letters == "ab")
    process, num_atoms, _ = restricted([salt] * 4000)
    cells = process.prior(num_atoms, noise(num_atoms).at(0, 0)).cell
    # In the six numbers of a symmetric matrix, in which the noise is isotropic.
    upper = torch.ones(3, 3, dtype=torch.float64).triu()
    shape = cells.mean(0) / (upper * cells.mean(0).square()).sum().sqrt()
    length = (upper * cells * shape).sum((-1, -2))
    torch.testing.assert_close(cells, length.view(-1, 1, 1) * shape, atol=1e-9, rtol=0)
    expected = float(PROCESS.cell.limit_std(num_atoms[:1], torch.float64))
    assert float(length.std()) == pytest.approx(expected, rel=0.04)
    centre = float((PROCESS.cell.limit_mean(num_atoms[:1], torch.float64) * upper * shape).sum())
    assert float(length.mean()) == pytest.approx(centre, rel=0.02)


def test_elements_are_decided_by_orbits_within_bounds() -> None:
    chosen = [t for t in CHOSEN if len(t.letters) >= 3][:12]
    orbits = torch.tensor([len(t.letters) for t in chosen])
    low, high = torch.zeros(len(chosen), 100, dtype=torch.int64), torch.zeros(len(chosen), 100, dtype=torch.int64)
    low[:, [2, 7, 25]], high[:, [2, 7, 25]] = 1, orbits.unsqueeze(-1)
    base = ConstrainedProcess(PROCESS.config, CountBounds(low, high), torch.zeros(int(orbits.sum()), dtype=torch.int64))
    process, num_atoms, _ = restricted(chosen, base)
    draws = noise(num_atoms)
    batch = process.prior(num_atoms, draws.at(0, 0))
    t = torch.full((len(chosen),), 0.5, dtype=torch.float64)
    for made in process.predict(batch, certain(batch), t, 0 * t, draws.at(1, 2)):
        assert broken(process, made) < 1e-9
        for numbers in made.atomic_numbers.split(num_atoms.tolist()):
            assert set(numbers.tolist()) == {3, 8, 26}


def certain(batch) -> Scores:
    """Random scores that leave nothing in the mask."""
    made = scores(batch)
    made.species_logits[:, -1] = -30.0
    return made


def test_exact_compositions_fall_on_whole_orbits_with_the_models_probabilities() -> None:
    """Orbits of 1, 1 and 2 atoms for X2 Y2: conditioned on the counts, the product of the marginals."""
    sizes = torch.tensor([1, 1, 2]).repeat(4000)
    counts = [((3, 2), (8, 2))] * 4000
    process = CountedProcess(PROCESS.config, sizes, counts)
    num_orbits = torch.full((4000,), 3)
    batch = PROCESS.prior(num_orbits, noise(num_orbits).at(0, 0))
    prob = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], dtype=torch.float64).repeat(4000, 1)
    logits = torch.full((12000, 101), -30.0, dtype=torch.float64)
    logits[:, [2, 7]] = prob.log()
    given = Scores(torch.zeros(12000, 3).double(), torch.zeros(4000, 3, 3).double(), logits)
    t = torch.full((4000,), 0.5, dtype=torch.float64)
    drawn, likely = process.predict_species(batch, given, t, 0 * t, noise(num_orbits).at(1, 2))
    ways = {(3, 3, 8): 0.9 * 0.4 * 0.7, (8, 8, 3): 0.1 * 0.6 * 0.3}
    seen = collections.Counter(tuple(row) for row in drawn.view(-1, 3).tolist())
    assert set(seen) == set(ways)
    share = ways[3, 3, 8] / sum(ways.values())
    assert seen[3, 3, 8] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)
    assert {tuple(row) for row in likely.view(-1, 3).tolist()} == {(3, 3, 8)}


def test_the_loss_is_that_of_the_averages_over_orbits() -> None:
    process, num_atoms, _ = restricted()
    draws = noise(num_atoms)
    batch = process.prior(num_atoms, draws.at(0, 0))
    clean = batch.replace(atomic_numbers=3 + torch.arange(len(batch.frac_coords))[process.symmetry.first] % 80)
    t = torch.linspace(0.1, 0.9, len(num_atoms), dtype=torch.float64)
    noisy = process.corrupt(clean, t, draws.at(1, 0))
    given = scores(noisy)
    # What cancels in the average of an orbit costs nothing.
    other = scores(noisy, 1)
    change = other.frac_coords - process.symmetry.average(other.frac_coords)
    shifted = Scores(given.frac_coords + change, given.cell, given.species_logits)
    torch.testing.assert_close(process.loss(shifted, clean, noisy, t).total, process.loss(given, clean, noisy, t).total)
    assert (
        float((PROCESS.loss(shifted, clean, noisy, t).total - PROCESS.loss(given, clean, noisy, t).total).abs().max())
        > 0.1
    )


def test_a_flat_cell_that_moves_by_more_than_its_thickness_stays_of_its_size() -> None:
    """Strains of thousands amplify what single precision rounds off: a cell of 10 angstrom came out as one of 2,000."""
    triclinic = [t for t in TEMPLATES.counts if t.number == 2][:40]
    process, _, _ = restricted(triclinic)
    generator = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(40, 3, 3, generator=generator, dtype=torch.float64))
    flat = turn @ torch.diag(torch.tensor([4e-5, 7.0, 12.0], dtype=torch.float64)) @ turn.mT
    noisy = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    moved = flat + 0.5 * (noisy + noisy.mT)
    result = process.symmetry.move_cell(flat.float(), moved.float())
    assert float((result.flatten(1).norm(dim=1) / moved.flatten(1).norm(dim=1)).max()) < 1.5


def test_a_crystal_that_is_not_finite_stays_so_and_leaves_the_others_alone() -> None:
    process, num_atoms, _ = restricted()
    cell = process.prior(num_atoms, noise(num_atoms).at(0, 0)).cell
    moved = cell + 0.1 * torch.eye(3, dtype=torch.float64)
    expected = process.symmetry.move_cell(cell, moved)
    for value in (float("nan"), float("inf")):
        damaged = moved.clone()
        damaged[3] = value
        result = process.symmetry.move_cell(cell, damaged)
        assert bool(result[3].isnan().all())
        others = [k for k in range(len(cell)) if k != 3]
        torch.testing.assert_close(result[others], expected[others])
