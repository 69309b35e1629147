"""A predicted property belongs to the crystal: no choice of cell, origin, orientation or order of atoms changes it."""

from __future__ import annotations

import numpy as np
import torch

from crystalsmith.checkpoints.predictor import batch_of
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.predictor import PropertyNetwork

SMALL = GemNetConfig(width=16, num_blocks=2, cutoff=4.5, max_neighbors=200, num_radial=8, num_spherical=3,
                     width_triplet=8, width_bilinear=8, width_rbf=4, width_cbf=4)  # fmt: skip


def value(network, *crystals) -> np.ndarray:
    with torch.no_grad():
        return network.double()(batch_of(crystals).to(dtype=torch.float64)).numpy()


def test_the_value_belongs_to_the_crystal_and_not_to_its_description() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = PropertyNetwork(SMALL)
    frac, cell, numbers = (
        rng.random((4, 3)),
        4.0 * np.eye(3) + 0.5 * rng.standard_normal((3, 3)),
        np.array([3, 8, 8, 26]),
    )
    plain = value(network, (frac, cell, numbers))[0]

    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    order = rng.permutation(4)
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])  # determinant 1: the same lattice
    images = np.array([[0, 0, 0], [1, 0, 0]])
    doubled = np.concatenate([(frac + shift) / [2, 1, 1] for shift in images])
    others = [
        (frac, cell @ turn, numbers),
        (frac[order], cell, numbers[order]),
        ((frac + rng.random(3)) % 1.0, cell, numbers),
        ((frac @ np.linalg.inv(basis)) % 1.0, basis @ cell, numbers),
        (doubled, cell * np.array([[2], [1], [1]]), np.tile(numbers, 2)),
    ]
    for other in others:
        np.testing.assert_allclose(value(network, other)[0], plain, atol=1e-5)
    np.testing.assert_allclose(value(network, *others), plain, atol=1e-5)
    assert abs(value(network, (frac, 1.1 * cell, numbers))[0] - plain) > 1e-4
    assert abs(value(network, (frac, cell, np.array([11, 8, 8, 26])))[0] - plain) > 1e-4


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    rng = np.random.default_rng(1)
    cells = [4.0 * np.eye(3) + 0.3 * rng.standard_normal((3, 3)) for _ in range(2)]
    batch = batch_of([(rng.random((3, 3)), cell, np.array([3, 8, 26])) for cell in cells])
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        network = PropertyNetwork(SMALL)
        network.checkpoint_activations = again
        network(batch).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
