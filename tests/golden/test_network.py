"""The network gives the published outputs: base, adapter, base-conditioned, sparse, with masked elements."""

from __future__ import annotations

import pytest
import torch

from crystalsmith.diffusion.guidance import allow_elements
from crystalsmith.elements import ALLOWED

FLOAT64, FLOAT32 = 1e-10, 1e-5

CASES = [
    ("small_base_f64", "small_base"),
    ("small_base_f32", "small_base"),
    ("small_base_sparse_f64", "small_base"),
    ("small_base_elementmask_f32", "small_base"),
    ("small_mag_f64", "small_mag"),
    ("small_mag_f32", "small_mag"),
    ("small_basecond_bandgap_f32", "small_basecond_bandgap"),
]


def conditions_of(file, dtype):
    """Property values with NaN where the reference was told to use the unconditional embedding."""
    found = {}
    for name in file.names():
        if name.startswith("prop."):
            values = file[name].to(dtype).view(-1)
            found[name.removeprefix("prop.")] = values.masked_fill(file["use_unconditional"].view(-1), float("nan"))
    return found


@pytest.mark.parametrize(("arrays", "checkpoint"), CASES)
def test_outputs(arrays, checkpoint, golden, imported, difference):
    file = golden(f"model_ckpt_{arrays}")
    dtype = torch.float64 if arrays.endswith("f64") else torch.float32
    tolerance = FLOAT64 if dtype is torch.float64 else FLOAT32
    model = imported(checkpoint, dtype)
    denoiser = allow_elements(model.denoiser, ALLOWED) if "elementmask" in arrays else model.denoiser
    batch = file.batch(dtype=dtype)
    times = sorted({name.split("/")[0] for name in file.names() if name.startswith("t=")})
    assert len(times) == 5
    for time in times:
        at = file.at(f"{time}/")
        t = at["t"].to(dtype)
        with torch.no_grad():
            scores = denoiser(batch, t, conditions_of(file, dtype))
        assert difference(scores.frac_coords, at["out.pos"]) < tolerance
        assert difference(scores.cell, at["out.cell"]) < tolerance
        assert difference(scores.species_logits, at["out.atomic_numbers"]) < tolerance
        free = at["out.atomic_numbers"] > -1e9
        assert difference(scores.species_logits[free], at["out.atomic_numbers"][free]) < tolerance
        std = model.process.coordinates.std(t, batch.num_atoms)[batch.batch_index].unsqueeze(-1)
        assert difference(scores.frac_coords / std, at["score.pos"]) < max(tolerance, 2e-6)
        assert difference(scores.cell / model.process.cell.std(t, batch.num_atoms), at["score.cell"]) < max(
            tolerance, 2e-6
        )


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_guided_scores(factor, golden, imported, difference):
    from crystalsmith.diffusion.guidance import bind_conditions

    file = golden("cfg_small_mag")
    model = imported("small_mag_o1")
    batch = file.batch("in.")
    denoiser = bind_conditions(model.denoiser, {"dft_mag_density": file["in.dft_mag_density"].view(-1)}, factor)
    for time in (0.3, 1.0):
        at = file.at(f"guidance={factor}/t={time}/score.")
        t = torch.full((len(batch),), time)
        with torch.no_grad():
            scores = denoiser(batch, t)
        std = model.process.coordinates.std(t, batch.num_atoms)[batch.batch_index].unsqueeze(-1)
        assert difference(scores.frac_coords / std, at["pos"]) < 2e-5
        assert difference(scores.cell / model.process.cell.std(t, batch.num_atoms), at["cell"]) < 2e-5
        assert difference(scores.species_logits, at["atomic_numbers"]) < 2e-5
