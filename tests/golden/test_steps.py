"""Single predictor and corrector steps with recorded random numbers."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.contracts import Scores

CASES = ["t1.0", "t0.5", "t0.002", "t0.001"]


def scores_of(file, process, batch):
    """Outputs of the network from the scores that the published steps were given."""
    t = file["t"]
    std = process.coordinates.std(t, batch.num_atoms)[batch.batch_index].unsqueeze(-1)
    cell = file["score.cell"] * process.cell.std(t, batch.num_atoms)
    return Scores(file["score.pos"] * std, cell, file["score.atomic_numbers"])


def apart(a, b):
    """Largest distance of fractional coordinates on the torus."""
    distance = (a - b).abs()
    return float(torch.minimum(distance, (1 - distance).abs()).max())


@pytest.mark.parametrize("case", CASES)
def test_predictor(case, golden, imported, recorded_draw):
    sizes = golden("loss").at("t0.3/")["num_atoms"]
    file = golden("sampler_single_steps").at(f"{case}/")
    process = imported("small_base").process
    batch = batch_of(file, sizes)
    draw = recorded_draw(
        frac=file["pred.pos.draw0_randn_like"],
        lattice=file["pred.cell.draw0_randn_like"],
        species=file["pred.atomic_numbers.draw1_categorical"],
    )
    scores = scores_of(file, process, batch)
    sample, mean = process.predict(batch, scores, file["t"], file["t"] + file["dt"], draw, scalar_cell_noise=True)
    assert apart(sample.frac_coords, file["pred.pos.sample"]) < 1e-5
    assert apart(mean.frac_coords, file["pred.pos.mean"]) < 1e-5
    torch.testing.assert_close(sample.cell, file["pred.cell.sample"], rtol=3e-5, atol=3e-5)
    torch.testing.assert_close(mean.cell, file["pred.cell.mean"], rtol=3e-5, atol=3e-5)
    assert torch.equal(sample.atomic_numbers, file["pred.atomic_numbers.sample"])
    assert torch.equal(mean.atomic_numbers, file["pred.atomic_numbers.mean"])


@pytest.mark.parametrize("case", CASES)
def test_species_transition(case, golden, imported):
    sizes = golden("loss").at("t0.3/")["num_atoms"]
    file = golden("sampler_single_steps").at(f"{case}/")
    batch = batch_of(file, sizes)
    t, t_next = (x[batch.batch_index] for x in (file["t"], file["t"] + file["dt"]))
    probs = torch.softmax(file["score.atomic_numbers"], -1)
    logits = imported("small_base").process.species.posterior_logits(batch.atomic_numbers, probs, t, t_next)
    expected = torch.softmax(file["pred.atomic_numbers.draw1_logits"], -1)
    torch.testing.assert_close(torch.softmax(logits, -1), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_corrector(case, golden, imported, recorded_draw, difference):
    sizes = golden("loss").at("t0.3/")["num_atoms"]
    file = golden("sampler_single_steps").at(f"{case}/")
    process = imported("small_base").process
    batch = batch_of(file, sizes)
    draw = recorded_draw(frac=file["corr.pos.draw0_randn_like"], lattice=file["corr.cell.draw0_randn_like"])
    corrected = process.correct(
        batch,
        scores_of(file, process, batch),
        file["t"],
        file["t"] + file["dt"],
        draw,
        snr_frac_coords=0.4,
        snr_cell=0.2,
        batch_mean=True,
    )
    assert apart(corrected.frac_coords, file["corr.pos.sample"]) < 2e-5
    assert difference(corrected.cell, file["corr.cell.sample"]) < 1e-5


def batch_of(file, sizes):
    from crystalsmith.crystals import CrystalBatch

    return CrystalBatch(file["x.pos"], file["x.cell"], file["x.atomic_numbers"], sizes)
