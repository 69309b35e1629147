"""Laws of Muon: orthogonal steps, the size of an AdamW step, and AdamW itself for the rest."""

from __future__ import annotations

import torch

from crystalsmith.training.config import OptimizerSettings
from crystalsmith.training.muon import Muon, orthogonalised
from crystalsmith.training.optimizer import make_optimizer


def test_singular_values_come_near_one_and_directions_stay() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert (torch.einsum("kri,krc,kic->ki", u, found, v) > 0.5).all()


def test_tall_matrices_are_the_transpose_of_wide_ones() -> None:
    matrices = torch.randn(2, 48, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonalised(matrices), orthogonalised(matrices.mT).mT)


def test_vectors_and_tables_move_as_by_adamw() -> None:
    generator = torch.Generator().manual_seed(2)
    start, gradients = torch.randn(7, generator=generator), torch.randn(5, 7, generator=generator)
    ends = []
    for kind in (Muon, torch.optim.AdamW):
        parameter = torch.nn.Parameter(start.clone())
        group = [{"params": [parameter], "weight_decay": 0.1}]
        optimizer = kind(group, lr=0.01, betas=(0.9, 0.99), eps=1e-8)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append(parameter.detach())
    assert torch.allclose(ends[0], ends[1], atol=1e-7)


def test_only_hidden_matrices_are_orthogonalised_and_their_step_has_the_size_of_adamws() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = {"blocks.0.weight": (32, 32), "species_head.weight": (101, 32), "blocks.0.bias": (32,), "scale": (32, 4)}
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    names = {p: f"network.{name}" for name, p in parameters.items()}
    settings = OptimizerSettings(name="muon", lr=0.01)
    optimizer = make_optimizer(list(parameters.values()), settings, names)
    orthogonal = [names[p] for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]]
    assert orthogonal == ["network.blocks.0.weight"]
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    # One Adam step moves each number by lr; Muon's root mean square is 0.2 lr, that of a long-run Adam step.
    assert abs(parameters["blocks.0.weight"].detach().square().mean().sqrt() - 0.002) < 0.0005
    assert torch.allclose(parameters["species_head.weight"].detach().abs(), torch.tensor(0.01), atol=1e-5)
