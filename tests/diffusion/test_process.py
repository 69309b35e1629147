"""Laws of the joint process: configuration, corruption, losses, preconditioning."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.coordinates import wrapped_score
from crystalsmith.diffusion.noise import CrystalNoise, GlobalNoise
from crystalsmith.diffusion.process import Process, ProcessConfig, langevin_step, sum_over_atoms
from crystalsmith.elements import MASK, NUM_CLASSES
from crystalsmith.errors import InputError

Make = Callable[..., CrystalBatch]
DT = torch.float64
VARIANCE = {"all": (0.05, 0.02), "4": (0.08, 0.01)}


def draw_for(batch: CrystalBatch, seed: int = 0) -> GlobalNoise:
    return GlobalNoise(torch.Generator().manual_seed(seed), batch.num_atoms, DT)


def exact_scores(process: Process, clean: CrystalBatch, noisy: CrystalBatch, t: torch.Tensor) -> Scores:
    """What a denoiser that knows the clean crystal predicts."""
    t_atom, n_atom = t[clean.batch_index], clean.num_atoms[clean.batch_index]
    std = process.coordinates.std(t_atom, n_atom).unsqueeze(-1)
    logits = torch.full((len(t_atom), NUM_CLASSES), -60.0, dtype=DT)
    logits[torch.arange(len(t_atom)), clean.atomic_numbers - 1] = 0.0
    return Scores(
        frac_coords=std * wrapped_score(noisy.frac_coords, clean.frac_coords, std),
        cell=-(noisy.cell - process.cell.mean(clean.cell, t, clean.num_atoms)) / process.cell.std(t, clean.num_atoms),
        species_logits=logits,
    )


@pytest.mark.parametrize(
    "config",
    [
        ProcessConfig(),
        ProcessConfig.published(),
        ProcessConfig(task="csp", sigma_max=2.0, cell_variance=VARIANCE, weight_cell=0.3),
    ],
)
def test_configuration_round_trips_through_json(config: ProcessConfig) -> None:
    assert ProcessConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sigma_mix": 1.0}, "sigma_mix"),
        ({"task": "dream"}, "dream"),
        ({"beta_max": 0.0}, "beta_max"),
        ({"sigma_min": float("nan")}, "sigma_min"),
        ({"cell_variance": {"4": (0.1, 0.1)}}, "all"),
    ],
)
def test_a_wrong_setting_is_named(entry: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProcessConfig.from_dict(entry)


def test_prior_has_the_shape_of_the_request() -> None:
    n = torch.tensor([1, 4, 7])
    batch = Process(ProcessConfig()).prior(n, CrystalNoise(0, torch.arange(3), n).at(0, 0))
    assert torch.equal(batch.num_atoms, n)
    assert (batch.atomic_numbers == MASK).all()
    assert batch.frac_coords.min() >= 0
    assert batch.frac_coords.max() < 1
    assert torch.equal(batch.cell, batch.cell.transpose(1, 2))


def test_corruption_at_time_zero_changes_nothing_and_at_one_masks_everything(make_batch: Make) -> None:
    process, clean = Process(ProcessConfig()), make_batch([3, 6])
    zero, one = torch.zeros(2, dtype=DT), torch.ones(2, dtype=DT)
    same = process.corrupt(clean, zero, draw_for(clean))
    torch.testing.assert_close(same.frac_coords, clean.frac_coords)
    torch.testing.assert_close(same.cell, clean.cell)
    assert torch.equal(same.atomic_numbers, clean.atomic_numbers)
    assert (process.corrupt(clean, one, draw_for(clean)).atomic_numbers == MASK).all()


def test_each_crystal_is_noised_to_its_own_time(make_batch: Make) -> None:
    process, clean = Process(ProcessConfig()), make_batch([200, 200])
    noisy = process.corrupt(clean, torch.tensor([0.1, 0.7], dtype=DT), draw_for(clean))
    masked = (noisy.atomic_numbers == MASK).double().view(2, 200).mean(1)
    assert abs(masked[0] - 0.1) < 0.09
    assert abs(masked[1] - 0.7) < 0.13
    kept = noisy.atomic_numbers != MASK
    assert torch.equal(noisy.atomic_numbers[kept], clean.atomic_numbers[kept])


def test_structure_prediction_leaves_the_elements_alone(make_batch: Make) -> None:
    process, clean = Process(ProcessConfig(task="csp")), make_batch([3, 6])
    t = torch.tensor([0.5, 1.0], dtype=DT)
    noisy = process.corrupt(clean, t, draw_for(clean))
    assert torch.equal(noisy.atomic_numbers, clean.atomic_numbers)
    prior = process.prior(clean.num_atoms, draw_for(clean), clean.atomic_numbers)
    assert torch.equal(prior.atomic_numbers, clean.atomic_numbers)
    scores = exact_scores(process, clean, noisy, t)
    sample, mean = process.predict(noisy, scores, t, t - 0.1, draw_for(clean))
    assert torch.equal(sample.atomic_numbers, clean.atomic_numbers)
    assert torch.equal(mean.atomic_numbers, clean.atomic_numbers)
    assert not process.loss(scores, clean, noisy, t).species.any()
    with pytest.raises(InputError, match="formula"):
        process.prior(clean.num_atoms, draw_for(clean))


@pytest.mark.parametrize("config", [ProcessConfig(), ProcessConfig.published()], ids=["ours", "published"])
def test_the_exact_denoiser_has_the_lowest_loss(make_batch: Make, config: ProcessConfig) -> None:
    process, clean = Process(config), make_batch([3, 6, 10])
    t = torch.tensor([0.2, 0.5, 0.9], dtype=DT)
    noisy = process.corrupt(clean, t, draw_for(clean))
    exact = exact_scores(process, clean, noisy, t)
    best = process.loss(exact, clean, noisy, t)
    assert best.total.abs().max() < 1e-6
    generator = torch.Generator().manual_seed(1)

    def shake(x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=generator, dtype=DT)

    wrong = [
        Scores(shake(exact.frac_coords), exact.cell, exact.species_logits),
        Scores(exact.frac_coords, shake(exact.cell), exact.species_logits),
        Scores(exact.frac_coords, exact.cell, exact.species_logits / 20),
    ]
    for scores in wrong:
        assert (process.loss(scores, clean, noisy, t).total > best.total + 1e-4).all()


def test_total_is_the_weighted_sum_and_per_atom_values_do_not_grow_with_the_cell(make_batch: Make) -> None:
    config = ProcessConfig(weight_frac_coords=0.3, weight_cell=2.0, weight_species=0.7)
    process, clean = Process(config), make_batch([5])
    t = torch.tensor([0.4], dtype=DT)
    noisy = process.corrupt(clean, t, draw_for(clean))
    scores = Scores(
        torch.full((5, 3), 0.5, dtype=DT), torch.zeros(1, 3, 3, dtype=DT), torch.zeros(5, NUM_CLASSES, dtype=DT)
    )
    losses = process.loss(scores, clean, noisy, t)
    torch.testing.assert_close(losses.total, 0.3 * losses.frac_coords + 2.0 * losses.cell + 0.7 * losses.species)
    torch.testing.assert_close(losses.per_atom["frac_coords"], losses.frac_coords / 5)
    torch.testing.assert_close(losses.per_atom["cell"], losses.cell)
    torch.testing.assert_close(losses.per_atom["species_nll"], torch.tensor([101.0], dtype=DT).log())


def test_the_loss_of_a_crystal_does_not_depend_on_the_batch(make_batch: Make) -> None:
    process, clean = Process(ProcessConfig()), make_batch([3, 6, 10])
    t = torch.tensor([0.2, 0.5, 0.9], dtype=DT)
    noisy = process.corrupt(clean, t, draw_for(clean))
    exact = exact_scores(process, clean, noisy, t)
    scores = Scores(exact.frac_coords * 0.7, exact.cell * 0.7, exact.species_logits * 0.1)
    together = process.loss(scores, clean, noisy, t)
    part = Scores(scores.frac_coords[3:9], scores.cell[1:2], scores.species_logits[3:9])
    alone = process.loss(part, clean.select([1]), noisy.select([1]), t[1:2])
    torch.testing.assert_close(alone.total, together.total[1:2])


def zero_network(batch: CrystalBatch, t: torch.Tensor, conditions: Conditions | None = None) -> Scores:
    return Scores(
        torch.zeros_like(batch.frac_coords),
        torch.zeros_like(batch.cell),
        torch.zeros(len(batch.frac_coords), NUM_CLASSES, dtype=DT),
    )


def test_preconditioning_adds_the_shared_score_to_the_cell_only(make_batch: Make) -> None:
    batch, t = make_batch([4, 6]), torch.tensor([0.3, 0.6], dtype=DT)
    plain = Process(ProcessConfig())
    assert plain.precondition(zero_network) is zero_network
    process = Process(ProcessConfig(cell_variance=VARIANCE))
    scores = process.precondition(zero_network)(batch, t)
    assert not scores.frac_coords.any()
    assert not scores.species_logits.any()
    torch.testing.assert_close(scores.cell, process.cell.gaussian_output(batch.cell, t, batch.num_atoms))
    # It pulls towards the limit mean.
    pull = ((process.cell.limit_mean(batch.num_atoms, DT) - batch.cell) * scores.cell).sum((1, 2))
    assert (pull > 0).all()


def test_own_langevin_step_is_the_ideal_one_and_independent_of_state_and_batch() -> None:
    std, snr = torch.tensor([0.1, 2.0], dtype=DT), 0.4
    alpha = torch.tensor([1.0, 0.9], dtype=DT)
    expected = 2 * alpha * (snr * std) ** 2
    for norms in (torch.tensor([3.0, 5.0], dtype=DT), torch.tensor([1e-9, 1e9], dtype=DT)):
        torch.testing.assert_close(langevin_step(norms, norms.flip(0), std, snr, alpha, False), expected)
    # For scores of norm |z| / std, the published formula gives the same to a crystal alone.
    z = torch.tensor([3.0], dtype=DT)
    step = langevin_step(z, z / std[:1], std[:1], snr, alpha[:1], True)
    torch.testing.assert_close(step, expected[:1])
    bounded = langevin_step(z, torch.zeros(1, dtype=DT), std[:1], snr, alpha[:1], True)
    assert bounded.item() == pytest.approx(1e6)


def test_sums_over_atoms_are_per_crystal(make_batch: Make) -> None:
    batch = make_batch([2, 1, 3])
    sums = sum_over_atoms(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), batch)
    assert sums.tolist() == [3.0, 4.0, 56.0]
