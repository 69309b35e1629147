"""Laws of the padded network: padding changes nothing, and one graph serves a whole run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import bind_conditions
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.static import StaticDenoiser

Make = Callable[..., CrystalBatch]
DT = torch.float64


def network(rule: str = "mutual") -> GemNetDenoiser:
    config = GemNetConfig(
        width=16,
        num_blocks=1,
        cutoff=5.0,
        max_neighbors=9,
        edge_rule=rule,  # type: ignore[arg-type]
        num_radial=12,
        num_spherical=3,
        width_triplet=6,
        width_bilinear=5,
        width_rbf=4,
        width_cbf=3,
        head_residuals=1,
        crystal_context=True,
    )
    torch.manual_seed(0)
    model = GemNetDenoiser(DenoiserConfig(config, (ConditionConfig("gap"), ConditionConfig("system", "elements"))))
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.to(DT).eval()


def fields(scores: Scores) -> list[Tensor]:
    return [scores.frac_coords, scores.cell, scores.species_logits]


@pytest.mark.parametrize("rule", ["mutual", "published"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_padding_changes_no_score(make_batch: Make, rule: str, guidance: float) -> None:
    model = network(rule)
    static = StaticDenoiser(model, 40, 6)
    system = torch.zeros(3, 101, dtype=DT)
    system[0, [8, 26]] = 1.0
    conditions = {"gap": torch.tensor([1.0, torch.nan, 2.0], dtype=DT), "system": system}
    batch, t = make_batch([5, 1, 8], seed=2), torch.tensor([0.3, 0.9, 0.3], dtype=DT)
    with torch.no_grad():
        plain = bind_conditions(model, conditions, guidance)(batch, t)
        with torch.compiler.set_stance("force_eager"):  # the padding alone; compiling takes seconds
            padded = bind_conditions(static, conditions, guidance)(batch, t)
    for a, b in zip(fields(plain), fields(padded), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_one_graph_serves_batches_of_any_smaller_size(make_batch: Make) -> None:
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters["stats"]
    counts.clear()
    model = network()
    static = StaticDenoiser(model, 40, 6, backend="eager")
    for seed, sizes in enumerate(([5, 1, 8], [9, 9, 3, 2, 6], [1], [20, 2], [7, 7, 7])):
        batch = make_batch(sizes, seed=seed)
        t = torch.linspace(0.1, 1.0, len(sizes), dtype=DT)
        with torch.no_grad():
            plain = model(batch, t)
        for a, b in zip(fields(plain), fields(static(batch, t)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert counts["unique_graphs"] == 1


def test_a_batch_that_does_not_fit_is_refused(make_batch: Make) -> None:
    static = StaticDenoiser(network(), 10, 3, backend="eager")
    with pytest.raises(ValueError, match="does not fit"):
        static(make_batch([5, 5]), torch.tensor([0.5, 0.5], dtype=DT))
