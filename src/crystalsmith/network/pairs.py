"""All ordered pairs of atoms of each crystal, and what their periodic images say of geometry.

No parameter is involved: the features are computed once per network call and need no gradient. Every pair (i, j), i = j
included, sums over the images of j around i; a sum over images of radial functions times harmonics lets any later layer
choose its own radial function as a linear map, as in moment tensor and cluster expansions (Shapeev 2016; Drautz 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.network.basis import envelope

_TINY = 1e-6  # square angstrom; keeps the direction of a vanishing vector finite (and zero)
_FAR = 20.0  # angstrom; more distant atoms are equally far


@dataclass(frozen=True)
class Pairs:
    """P = sum of n^2 ordered pairs, crystal by crystal, target by target.

    Attributes:
        target, source: ``(P,)`` atom indices.
        scalars: ``(P, F)``, see :func:`build_pairs`.
        vectors: ``(P, 3, R)``, radial functions times the unit vector from target to source, summed over images.
        tensors: ``(P, 5, R)``, the same with the traceless symmetric square of the unit vector (:func:`harmonics`).
    """

    target: Tensor
    source: Tensor
    scalars: Tensor
    vectors: Tensor
    tensors: Tensor


def num_scalars(num_radial: int, num_waves: int) -> int:
    """F, the number of scalar features of a pair."""
    return num_radial + 2 + 6 * num_waves


@torch.no_grad()
def build_pairs(batch: CrystalBatch, cutoff: float, num_radial: int, num_angular: int, num_waves: int) -> Pairs:
    """Pairs and their features, in the precision of the batch.

    Scalars: ``num_radial`` Gaussians of the distance, summed over images; the nearest distance and whether the pair is
    an atom and itself; sines and cosines of 2 pi k times the fractional difference, k = 1..``num_waves`` (Jiao et al.,
    DiffCSP, 2023). Images are those of the 27 nearest cells; their weight goes to zero where the set of images would
    jump (1.5 lattice vectors away) and at ``cutoff`` angstrom, so that all features are smooth and do not depend on
    which copy of an atom is given.
    """
    with torch.autocast(batch.cell.device.type, enabled=False):
        return _build(batch, cutoff, num_radial, num_angular, num_waves)


def _build(batch: CrystalBatch, cutoff: float, num_radial: int, num_angular: int, num_waves: int) -> Pairs:
    target, source = pair_indices(batch)
    crystal = batch.batch_index[target]
    difference = batch.frac_coords[source] - batch.frac_coords[target]
    difference = difference - difference.round()
    offsets = torch.cartesian_prod(*[torch.arange(-1, 2, device=difference.device)] * 3).to(difference.dtype)
    frac = difference.unsqueeze(1) + offsets  # (P, 27, 3)
    cartesian = frac @ batch.cell[crystal]
    square = cartesian.square().sum(-1)
    window = _window(frac.abs()).prod(-1)
    pair, image = ((square < cutoff**2) & (window > 0)).nonzero(as_tuple=True)
    vector, near = cartesian[pair, image], square[pair, image]
    weight = window[pair, image].unsqueeze(-1)
    distance = near.sqrt()
    directions = harmonics(vector * (near + _TINY).rsqrt().unsqueeze(-1))  # (E, 8)
    radial = _gaussians(distance, num_radial, cutoff) * weight
    angular = (_gaussians(distance, num_angular, cutoff) * weight).unsqueeze(1) * directions.unsqueeze(2)
    zeros = square.new_zeros
    count = target.shape[0]
    summed = zeros(count, num_radial).index_add(0, pair, radial)
    moments = zeros(count, 8, num_angular).index_add(0, pair, angular)
    nearest = square.amin(1).sqrt().clamp(max=_FAR) / 10.0
    alone = (target == source).to(summed.dtype)
    scalars = [summed, torch.stack([nearest, alone], -1)]
    for k in range(1, num_waves + 1):
        angle = 2.0 * math.pi * k * difference
        scalars += [angle.sin(), angle.cos()]
    return Pairs(target, source, torch.cat(scalars, -1), moments[:, :3], moments[:, 3:])


def harmonics(u: Tensor) -> Tensor:
    """``(E, 3)`` unit vectors -> ``(E, 8)``: u, and sqrt(3/2) (u u^T - |u|^2 / 3) in an orthonormal basis."""
    x, y, z = u.unbind(-1)
    root = 1.5**0.5
    second = [
        root * 2**0.5 * x * y,
        root * 2**0.5 * y * z,
        root * 2**0.5 * z * x,
        root * 0.5**0.5 * (x * x - y * y),
        root * 6**-0.5 * (2 * z * z - x * x - y * y),
    ]
    return torch.stack([x, y, z, *second], -1)


def traceless(components: Tensor) -> Tensor:
    """``(B, 5)`` in the basis of :func:`harmonics` -> symmetric traceless matrices ``(B, 3, 3)``."""
    a, b, c, d, e = (components * 0.5**0.5).unbind(-1)
    e = e * 3**-0.5
    rows = [torch.stack([d - e, a, c], -1), torch.stack([a, -d - e, b], -1), torch.stack([c, b, 2 * e], -1)]
    return torch.stack(rows, -2)


def pair_indices(batch: CrystalBatch) -> tuple[Tensor, Tensor]:
    """Target and source of each pair, both ``(P,)``."""
    n = batch.num_atoms
    per_atom = n[batch.batch_index]
    target = torch.repeat_interleave(torch.arange(len(per_atom), device=n.device), per_atom)
    first_pair = (per_atom.cumsum(0) - per_atom)[target]
    first_atom = (n.cumsum(0) - n)[batch.batch_index][target]
    rank = torch.arange(len(target), device=n.device) - first_pair
    return target, first_atom + rank


def _window(x: Tensor) -> Tensor:
    """1 up to 1, smoothly down to 0 at 1.5 (lattice vectors along one axis)."""
    u = ((1.5 - x) * 2.0).clamp(0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def _gaussians(distance: Tensor, number: int, cutoff: float) -> Tensor:
    """``(E,)`` -> ``(E, number)``, evenly spaced on [0, cutoff], times the envelope."""
    centres = torch.linspace(0, cutoff, number, dtype=distance.dtype, device=distance.device)
    width = cutoff / (number - 1)
    u = distance.unsqueeze(-1)
    return torch.exp(-0.5 * ((u - centres) / width).square()) * envelope(u / cutoff)
