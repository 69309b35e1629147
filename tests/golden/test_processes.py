"""Tables of the three corruption processes against the published code."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.cells import symmetric_polar
from crystalsmith.diffusion.cell import CellProcess, symmetric_noise
from crystalsmith.diffusion.coordinates import CoordinateProcess, wrapped_score
from crystalsmith.diffusion.solvers import schedule
from crystalsmith.diffusion.species import SpeciesProcess


def test_sampler_times_and_levels(golden):
    file = golden("d3pm")
    times = schedule(1000)
    torch.testing.assert_close(times, file["sampler_timesteps"], rtol=0, atol=1e-7)
    process = SpeciesProcess(levels=1000)
    levels = process._level(file["sampler_timesteps"])
    assert torch.equal(levels, file["sampler_disc_t"])
    assert torch.equal(process._level(file["cont_t"]), file["disc_t"])


def test_species_survival(golden):
    file = golden("d3pm")
    process = SpeciesProcess(levels=1000)
    t = (torch.arange(1000) + 0.5) / 999  # amid each level
    torch.testing.assert_close(process.survival(t[:999]), file["state"][1:1000], rtol=0, atol=5e-7)
    beta = 1 - file["state"][1:].double() / file["state"][:-1].double()
    torch.testing.assert_close(beta, file["beta"].double(), rtol=2e-4, atol=0)


def test_species_corruption_table(golden):
    file = golden("d3pm")
    process = SpeciesProcess(levels=1000)
    clean = file["x0_zero_based"] + 1
    elements = clean < 101
    for row, survived in enumerate(file["q_t"].tolist()):
        if survived == 0:  # before the first step; corruption begins with the state after it
            continue
        t = torch.full((len(clean),), (survived - 0.5) / 999)
        probs = process.corruption_logits(clean, t).exp()
        torch.testing.assert_close(probs[elements], file["q_xt_given_x0"][row][elements], rtol=0, atol=2e-6)


@pytest.mark.parametrize("levels", [1000, None])
def test_species_posterior(levels, golden):
    file = golden("d3pm")
    process = SpeciesProcess(levels=levels)
    noisy = file["post_xt_plus_1"] + 1
    clean = torch.softmax(file["post_x0_logits"], -1)
    for row, level in enumerate(file["post_t"].tolist()):
        t = torch.full((len(noisy),), (level + 1) / 1000)
        logits = process.posterior_logits(noisy, clean, t, torch.full_like(t, level / 1000))
        # At the last level every atom is masked; what the chain says of another state is the 1e-20 in its logarithms.
        possible = (noisy == 101) | (level < 999)
        expected = file["posterior_probs"][row][possible]
        torch.testing.assert_close(torch.softmax(logits, -1)[possible], expected, rtol=0, atol=3e-5)


def test_cell_coefficients(golden):
    file = golden("lattice_vpsde")
    process = CellProcess()
    n = file["num_atoms"]
    torch.testing.assert_close(process.signal(file["t"]), file["mean_coeff"].view(-1), rtol=2e-6, atol=0)
    torch.testing.assert_close(process.limit_mean(n, torch.float32), file["limit_mean"], rtol=2e-6, atol=0)
    variance = process.limit_std(n, torch.float32).square().expand(-1, 3, 3)
    torch.testing.assert_close(variance, file["limit_var"], rtol=2e-6, atol=0)
    for row, time in enumerate(file["t"].tolist()):
        t = torch.full((len(n),), time)
        mean = process.mean(file["x0"], t, n)
        torch.testing.assert_close(mean, file["marginal_mean"][row], rtol=2e-6, atol=2e-6)
        std = process.std(t, n).expand(-1, 3, 3)
        # 1 - a^2 cancels in float32 for small t.
        torch.testing.assert_close(std, file["marginal_std"][row], rtol=1e-4 if time < 0.05 else 2e-6, atol=2e-6)


def test_cell_noise_and_polar_form(golden):
    file = golden("lattice_vpsde")
    torch.testing.assert_close(symmetric_noise(file["raw_noise"]), file["symmetric_noise"], rtol=1e-6, atol=1e-6)
    polar = symmetric_polar(file["polar_in"].double())
    torch.testing.assert_close(polar, file["polar_out_f64"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(symmetric_polar(file["polar_in"]), file["polar_out"], rtol=2e-5, atol=2e-5)


def test_cell_prior_statistics(golden):
    file = golden("lattice_vpsde")
    n = file["num_atoms"]
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([CellProcess().prior(n, torch.randn(6, 3, 3, generator=generator)) for _ in range(4000)])
    spread = file["limit_var"].sqrt()
    # Two independent means of 4000 differ by spread sqrt(2/4000); five standard deviations of that.
    assert bool(((draws.mean(0) - file["prior_sample_mean_4000"]).abs() < 5 * spread * (2 / 4000) ** 0.5).all())
    torch.testing.assert_close(draws.std(0), file["prior_sample_std_4000"], rtol=0.08, atol=0)


def test_coordinate_spread(golden):
    file = golden("wrapped_vesde")
    process = CoordinateProcess()
    n = file["num_atoms"]
    per_atom = n.repeat_interleave(n)
    for row, time in enumerate(file["t"].tolist()):
        std = process.std(torch.full((len(per_atom),), time), per_atom).unsqueeze(-1)
        expected = file["marginal_std"][row]
        if time > 0:
            torch.testing.assert_close(std, expected, rtol=3e-6, atol=0)
        one = process.std(torch.tensor([max(time, 1e-30)]), torch.tensor([1]))
        torch.testing.assert_close(one, file["sigma_unscaled"][row : row + 1], rtol=3e-6, atol=0)


def test_wrapped_normal_score(golden):
    file = golden("wrapped_vesde")
    arguments = [file["wn_x"], file["wn_mean"], file["wn_sigma"].unsqueeze(-1)]
    scaled = wrapped_score(*(x.double() for x in arguments)) * arguments[2].double()
    expected = file["wn_score_f64"] * arguments[2].double()
    torch.testing.assert_close(scaled, expected, rtol=1e-9, atol=1e-9)
    single = wrapped_score(*arguments) * arguments[2]
    torch.testing.assert_close(single, file["wn_score"] * arguments[2], rtol=1e-4, atol=1e-4)
