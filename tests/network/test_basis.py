"""Laws of the radial, angular and sinusoidal bases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crystalsmith.network.basis import RadialBasis, SinusoidalEncoding, envelope, zonal_harmonics
from crystalsmith.network.layers import Dense, Residual, he_orthogonal_, scaled_silu

DT = torch.float64


def test_envelope_falls_from_one_to_zero_with_two_flat_derivatives() -> None:
    assert envelope(torch.zeros(1, dtype=DT)).item() == 1.0
    assert not envelope(torch.tensor([1.0, 1.5], dtype=DT)).any()
    u = torch.linspace(0, 1, 101, dtype=DT)
    assert (envelope(u).diff() <= 0).all()
    edge = torch.tensor([1 - 1e-4], dtype=DT, requires_grad=True)
    (first,) = torch.autograd.grad(envelope(edge), edge, create_graph=True)
    (second,) = torch.autograd.grad(first, edge)
    # 105 (1 - u)^2 and 210 (1 - u) near the end
    assert abs(first.item()) < 1.1e-6 * 1.1
    assert abs(second.item()) < 0.05


def test_radial_basis_peaks_at_its_centres() -> None:
    basis = RadialBasis(16, 6.0).double()
    centres = torch.linspace(0, 6, 16, dtype=DT)
    values = basis(centres)
    expected = envelope(centres / 6.0)
    torch.testing.assert_close(values.diagonal(), expected, rtol=1e-6, atol=1e-12)
    # Neighbouring centres are one standard deviation apart.
    torch.testing.assert_close(values[3, 4] / values[3, 3], torch.tensor(math.exp(-0.5), dtype=DT), rtol=1e-5, atol=0)
    assert not basis(torch.tensor([6.0, 7.0], dtype=DT)).any()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_zonal_harmonics_are_orthonormal_on_the_sphere(count: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    y = torch.stack(zonal_harmonics(torch.from_numpy(nodes), count))
    assert len(y) == count
    overlap = 2 * math.pi * (y * torch.from_numpy(weights)) @ y.T
    torch.testing.assert_close(overlap, torch.eye(count, dtype=DT))
    pole = torch.stack(zonal_harmonics(torch.ones(1, dtype=DT), count))  # positive where the cosine is 1
    assert (pole > 0).all()


def test_sinusoidal_encoding_tells_times_apart_at_every_scale() -> None:
    encoding = SinusoidalEncoding(64).double()
    x = torch.tensor([0.0, 0.4, 1.0], dtype=DT)
    e = encoding(x)
    torch.testing.assert_close(e.square().sum(-1), torch.full((3,), 32.0, dtype=DT))
    torch.testing.assert_close(e[:, 0], x.sin())
    torch.testing.assert_close(e[:, 1], x.cos())
    slowest = float(encoding.frequency[-1])
    assert slowest == pytest.approx(10_000 ** (-62 / 64), rel=1e-5)


def test_he_orthogonal_rows_are_standardised() -> None:
    torch.manual_seed(0)
    weight = he_orthogonal_(torch.empty(48, 200, dtype=DT))
    var, mean = torch.var_mean(weight, dim=1)
    torch.testing.assert_close(mean, torch.zeros(48, dtype=DT))
    torch.testing.assert_close(var, torch.full((48,), 1 / 200, dtype=DT), rtol=1e-3, atol=0)
    rows = weight / weight.norm(dim=1, keepdim=True)
    assert (rows @ rows.T - torch.eye(48, dtype=DT)).abs().max() < 0.1
    cube = he_orthogonal_(torch.empty(5, 40, 8), (0, 1))
    torch.testing.assert_close(cube.var(dim=(0, 1)), torch.full((8,), 1 / 200), rtol=1e-2, atol=0)


def test_layers_keep_the_size_of_a_standard_normal() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 128)
    assert scaled_silu(x.clone()).square().mean().item() == pytest.approx(1.0, abs=0.05)
    for layer in (Dense(128, 64), Residual(128)):
        assert 0.7 < layer(x).detach().std().item() < 1.5
    before = x.clone()
    Residual(128)(x)
    assert torch.equal(x, before)  # the in-place products touch no input
