"""Corruption, losses and gradients with the random draws of the published code."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.checkpoints.published.mattergen import our_names
from crystalsmith.checkpoints.published.names import PREFIX
from crystalsmith.contracts import Scores


def corrupt(file, model, clean, recorded_draw):
    draw = recorded_draw(
        frac=file["draw3_randn_like"], lattice=file["draw2_randn_like"], species=file["draw1_categorical"]
    )
    return model.process.corrupt(clean, file["t"], draw)


@pytest.mark.parametrize("case", ["t0.3", "tmixed"])
def test_corruption(case, golden, imported, recorded_draw):
    file = golden("loss").at(f"{case}/")
    noisy = corrupt(file, imported("small_base"), file.batch("x0."), recorded_draw)
    apart = (noisy.frac_coords - file["noisy.pos"]).abs()
    assert float(torch.minimum(apart, 1 - apart).max()) < 3e-6
    torch.testing.assert_close(noisy.cell, file["noisy.cell"], rtol=3e-6, atol=3e-6)
    assert torch.equal(noisy.atomic_numbers, file["noisy.atomic_numbers"])


@pytest.mark.parametrize("case", ["t0.3", "tmixed"])
def test_losses_of_given_outputs(case, golden, imported, difference):
    file = golden("loss").at(f"{case}/")
    scores = Scores(file["model_out.pos"], file["model_out.cell"], file["model_out.atomic_numbers"])
    clean, noisy, t = file.batch("x0."), file.batch("noisy."), file["t"]
    process = imported("small_base").process
    losses = process.loss(scores, clean, noisy, t)
    # At t = 1e-5 the published target of the cell is a difference of nearly equal float32 numbers.
    cell = 2e-5 if case == "t0.3" else 2e-3
    assert difference(losses.frac_coords, file["loss_per_sample.pos"]) < 2e-5
    assert difference(losses.cell, file["loss_per_sample.cell"]) < cell
    assert difference(losses.species, file["loss_per_sample.atomic_numbers"]) < 2e-5
    total = float(losses.total.mean())
    assert total == pytest.approx(float(file["loss_total"]), rel=cell)


@pytest.mark.parametrize("case", ["t0.3", "tmixed"])
def test_species_loss_per_atom(case, golden, imported):
    file = golden("loss").at(f"{case}/")
    process = imported("small_base").process.species
    t = file["t"].repeat_interleave(file["num_atoms"])
    numbers = file["x0.atomic_numbers"], file["noisy.atomic_numbers"]
    hybrid, cross_entropy = process.loss(file["model_out.atomic_numbers"], *numbers, t)
    torch.testing.assert_close(hybrid, file["d3pm_per_atom.loss"], rtol=2e-5, atol=2e-6)
    weighted = process.cross_entropy_weight * cross_entropy  # what the published code files under this name
    torch.testing.assert_close(weighted, file["d3pm_per_atom.kl/hybrid_loss"], rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(hybrid - weighted, file["d3pm_per_atom.kl/base_loss"], rtol=1e-3, atol=2e-6)


@pytest.mark.usefixtures("same_sort")
def test_loss_of_the_network_and_its_gradients(golden, imported, difference):
    expected = golden("grad_small_base_t0.3")
    file = golden("loss").at("t0.3/")
    model = imported("small_base_o1")
    # The recorded coordinates to the bit: rounding decides ties at the neighbour limit (see neighbors._published).
    clean, noisy = file.batch("x0."), file.batch("noisy.")
    model.network.zero_grad()
    loss = model.process.loss(model.denoiser(noisy, file["t"]), clean, noisy, file["t"]).total.mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected["loss"]), rel=1e-5)
    names = our_names(model.network.config, model.network)
    compared = 0
    for name, parameter in model.network.named_parameters():
        title = f"grad.{PREFIX}{names[name]}"
        if title not in expected:
            continue
        assert parameter.grad is not None, name
        assert difference(parameter.grad, expected[title]) < 2e-5, name
        compared += 1
    assert compared == len(expected.names()) - 1, "every recorded gradient has its parameter"
    model.network.zero_grad()
