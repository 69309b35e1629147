"""Lattices: parameters, volume, handedness, symmetric form, Niggli reduction and the primitive cell.

Rows of a cell are the lattice vectors in angstrom; Cartesian = frac_coords @ cell. Everything here is NumPy in float64,
batched over leading axes unless said otherwise; :func:`symmetric_polar` and :func:`volume` take torch tensors as well.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ArrayOrTensor = TypeVar("ArrayOrTensor", bound=Any)

NIGGLI_TOLERANCE = 1e-4
"""Elements of the metric tensor that differ by less than this times V^(2/3) count as equal in a Niggli reduction."""

PRIMITIVE_TOLERANCE = 0.1
"""Angstrom: how far an atom may lie from the translated image of its partner for the translation to count."""


def volume(cell: ArrayOrTensor) -> ArrayOrTensor:
    """Volumes in cubic angstrom, never negative, of cells ``(..., 3, 3)`` (NumPy or torch)."""
    if isinstance(cell, np.ndarray):
        return np.abs(np.linalg.det(cell))
    import torch

    return torch.linalg.det(cell).abs()


def symmetric_polar(cell: ArrayOrTensor) -> ArrayOrTensor:
    """The symmetric positive cell ``P = W S W^T`` of ``cell = W S V^T`` (left polar factor: ``cell = P U``).

    The fractional coordinates stay as they are. For a right-handed cell U is a rotation and the crystal is the same;
    a left-handed one would come out as its mirror image, so pass it through :func:`right_handed` first.

    Args:
        cell: ``(..., 3, 3)``, angstrom; NumPy array or torch tensor of any float type.

    Returns:
        Exactly symmetric cells of the same shape, type and kind. Tensors that are not finite give NaN (the
        decomposition would end the whole batch); arrays that are not finite raise ``LinAlgError``.
    """
    if isinstance(cell, np.ndarray):
        left, singular, _ = np.linalg.svd(cell)
        polar = (left * singular[..., None, :]) @ np.swapaxes(left, -1, -2)
        return 0.5 * (polar + np.swapaxes(polar, -1, -2))
    import torch

    finite = torch.isfinite(cell).all(-1).all(-1)[..., None, None]
    safe = torch.where(finite, cell, torch.eye(3, dtype=cell.dtype, device=cell.device))
    left, singular, _ = torch.linalg.svd(safe)
    polar = (left * singular[..., None, :]) @ left.mT
    polar = 0.5 * (polar + polar.mT)
    return polar.masked_fill(~finite, torch.nan)


def right_handed(frac_coords: Floats, cell: Floats) -> tuple[Floats, Floats]:
    """The same crystal with a positive determinant: all three lattice vectors and all coordinates change sign.

    Args:
        frac_coords: ``(n, 3)`` of one crystal.
        cell: ``(3, 3)``, angstrom.
    """
    if np.linalg.det(cell) < 0:
        return -frac_coords, -cell
    return frac_coords, cell


def cell_from_parameters(lengths: ArrayLike, angles: ArrayLike) -> Floats:
    """Cells from lengths ``(..., 3)`` in angstrom and angles ``(..., 3)`` (alpha, beta, gamma) in degrees.

    The first vector lies along x, the second in the xy plane, the third has positive z.

    Raises:
        ValueError: if a length is not positive or the angles do not close to a cell of positive volume.
    """
    sides = np.asarray(lengths, dtype=np.float64)
    degrees = np.asarray(angles, dtype=np.float64)
    if not (np.isfinite(sides).all() and np.isfinite(degrees).all() and (sides > 0).all()):
        raise ValueError("cell lengths must be positive and finite")
    if not ((degrees > 0) & (degrees < 180)).all():
        raise ValueError("cell angles must lie between 0 and 180 degrees")
    # Right angles are exact in most crystals; cos(90 degrees) in floating point is not.
    cosines = np.where(degrees == 90.0, 0.0, np.cos(np.radians(degrees)))
    cos_alpha, cos_beta, cos_gamma = np.moveaxis(cosines, -1, 0)
    sin_gamma = np.sqrt(1.0 - cos_gamma**2)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z_squared = 1.0 - cos_beta**2 - c_y**2
    if not (c_z_squared > 1e-12).all():
        raise ValueError("cell angles do not close to a cell of positive volume")
    zero = np.zeros_like(cos_alpha)
    directions = np.stack(
        [
            np.stack([zero + 1.0, zero, zero], -1),
            np.stack([cos_gamma, sin_gamma, zero], -1),
            np.stack([cos_beta, c_y, np.sqrt(c_z_squared)], -1),
        ],
        -2,
    )
    return directions * sides[..., :, None]


def cell_parameters(cell: ArrayLike) -> tuple[Floats, Floats]:
    """Lengths ``(..., 3)`` in angstrom and angles ``(..., 3)`` (alpha, beta, gamma) in degrees of cells."""
    vectors = np.asarray(cell, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1)
    unit = vectors / lengths[..., None]
    cosines = np.stack(
        [
            (unit[..., 1, :] * unit[..., 2, :]).sum(-1),
            (unit[..., 0, :] * unit[..., 2, :]).sum(-1),
            (unit[..., 0, :] * unit[..., 1, :]).sum(-1),
        ],
        -1,
    )
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def niggli_reduce(cell: Floats, tolerance: float = NIGGLI_TOLERANCE, max_rounds: int = 100) -> tuple[Floats, Integers]:
    """Niggli-reduced cells by the algorithm of Krivy and Gruber in its tolerant form.

    All cells go through the steps together. The tolerance decides ties (a right angle that rounding has made 90.0000004
    degrees) the same way for every crystal; moyopy reduces without one and returns acute or obtuse cells by chance.

    Args:
        cell: ``(C, 3, 3)``, angstrom.
        tolerance: relative to V^(2/3), see :data:`NIGGLI_TOLERANCE`.
        max_rounds: a cell that is not finished by then is returned as far as it came (still the same lattice).

    Returns:
        The reduced cells, of the same handedness as given, and integer matrices T ``(C, 3, 3)`` of determinant 1 with
        ``reduced = T @ cell``; coordinates follow as ``frac_coords @ inverse(T)``.

    Source: Grosse-Kunstleve, Sauter and Adams, Acta Cryst. A60, 1 (2004), steps A1 to A8.
    """
    transform = np.tile(np.eye(3, dtype=np.int64), (len(cell), 1, 1))
    epsilon = tolerance * np.cbrt(np.abs(np.linalg.det(cell))) ** 2
    active = np.arange(len(cell))
    for _ in range(max_rounds):
        moved = _niggli_round(cell[active], transform, active, epsilon[active])
        active = active[moved]
        if not len(active):
            break
    return transform @ cell, transform


def _metric(cell: Floats, transform: Integers) -> tuple[Floats, ...]:
    """A, B, C, xi, eta, zeta of the transformed cells (squared lengths and twice the scalar products)."""
    a, b, c = np.moveaxis(transform @ cell, -2, 0)
    products = [(a * a), (b * b), (c * c), 2 * (b * c), 2 * (a * c), 2 * (a * b)]
    return tuple(p.sum(-1) for p in products)


def _exchange(transform: Integers, rows: Integers, i: int, j: int) -> None:
    """Swap two lattice vectors and invert all, which keeps the handedness."""
    transform[rows[:, None], [i, j]] = transform[rows[:, None], [j, i]]
    transform[rows] *= -1


def _niggli_round(cell: Floats, transform: Integers, active: Integers, eps: Floats) -> NDArray[np.bool_]:
    """One pass of steps A1 to A8 over the active cells, in place; returns which of them changed in A2 or A5 to A8."""
    size_a, size_b, _, xi, eta, _ = _metric(cell, transform[active])
    swap = (size_a > size_b + eps) | ((np.abs(size_a - size_b) <= eps) & (np.abs(xi) > np.abs(eta) + eps))
    _exchange(transform, active[swap], 0, 1)  # A1
    _, size_b, size_c, _, eta, zeta = _metric(cell, transform[active])
    again = (size_b > size_c + eps) | ((np.abs(size_b - size_c) <= eps) & (np.abs(eta) > np.abs(zeta) + eps))
    _exchange(transform, active[again], 1, 2)  # A2

    _normalise_signs(cell, transform, active, eps)  # A3, A4
    size_a, size_b, size_c, xi, eta, zeta = _metric(cell, transform[active])

    def crosses(angle: Floats, size: Floats, tie_positive: Floats, tie_negative: Floats) -> NDArray[np.bool_]:
        return (
            (np.abs(angle) > size + eps)
            | ((np.abs(angle - size) <= eps) & (tie_positive < -eps))
            | ((np.abs(angle + size) <= eps) & (tie_negative < -eps))
        )

    total = xi + eta + zeta + size_a + size_b
    steps = [
        (crosses(xi, size_b, 2 * eta - zeta, zeta), 2, 1, xi),  # A5: c - sign(xi) b
        (crosses(eta, size_a, 2 * xi - zeta, zeta), 2, 0, eta),  # A6: c - sign(eta) a
        (crosses(zeta, size_a, 2 * xi - eta, eta), 1, 0, zeta),  # A7: b - sign(zeta) a
    ]
    free = ~again
    for applies, target, source, angle in steps:
        rows = np.flatnonzero(free & applies)
        signs = np.sign(angle[rows]).astype(np.int64)
        transform[active[rows], target] -= signs[:, None] * transform[active[rows], source]
        free[rows] = False
    last = (total < -eps) | ((np.abs(total) <= eps) & (2 * (size_a + eta) + zeta > eps))
    rows = np.flatnonzero(free & last)  # A8: a + b + c
    transform[active[rows], 2] += transform[active[rows], 0] + transform[active[rows], 1]
    free[rows] = False
    return ~free


def _normalise_signs(cell: Floats, transform: Integers, active: Integers, eps: Floats) -> None:
    """Flip pairs of lattice vectors until the three angles are all acute or all not acute (steps A3 and A4)."""
    angles = np.stack(_metric(cell, transform[active])[3:], -1)
    sign = np.where(np.abs(angles) <= eps[:, None], 0, np.sign(angles)).astype(np.int64)
    acute = sign.prod(-1) > 0
    # xi, eta, zeta carry the signs jk, ik, ij of the flips i, j, k of the vectors a, b, c.
    flips = np.where(acute[:, None], np.where(sign < 0, -1, 1), np.where(sign > 0, -1, 1))
    odd = flips.prod(-1) < 0
    # An odd number of flips would mirror the cell; a right angle (sign 0) may take the flip that is missing.
    spare = np.argmax(sign == 0, axis=-1)
    rows = np.flatnonzero(odd)
    flips[rows, spare[rows]] *= -1
    transform[active] *= flips[:, :, None]


def primitive_cell(
    frac_coords: Floats, cell: Floats, atomic_numbers: Integers, tolerance: float = PRIMITIVE_TOLERANCE
) -> tuple[Floats, Floats, Integers]:
    """The smallest cell that repeats one crystal; positions that become one atom are averaged.

    Translations are looked for among the vectors between atoms of the rarest element and accepted when every atom
    lands within ``tolerance`` of an atom of its element. They are then made exact fractions of the cell, so the lattice
    is not strained and the volume per atom stays as it was. A crystal that is primitive comes back as it is; one whose
    atom counts have no common divisor is known to be so without any search.

    Args:
        frac_coords: ``(n, 3)``.
        cell: ``(3, 3)``, angstrom.
        atomic_numbers: ``(n,)``.
        tolerance: angstrom. The published preparation allows 0.25 per coordinate, which also folds real distortions.
    """
    while True:
        found = _pure_translation(frac_coords, cell, atomic_numbers, tolerance)
        if found is None:
            return frac_coords, cell, atomic_numbers
        folded = _fold(frac_coords, cell, atomic_numbers, *found)
        if len(folded[2]) * found[1] != len(atomic_numbers):
            # Atoms closer together than the tolerance can pair up in circles of the wrong length: leave such a cell.
            return frac_coords, cell, atomic_numbers
        frac_coords, cell, atomic_numbers = folded


def _pure_translation(
    frac_coords: Floats, cell: Floats, atomic_numbers: Integers, tolerance: float
) -> tuple[Integers, int] | None:
    """Integers p (3,) and m such that p / m is a translation of order m of the crystal, or None."""
    _, counts = np.unique(atomic_numbers, return_counts=True)
    divisor = math.gcd(*counts.tolist())
    if divisor == 1:
        return None
    species = [np.flatnonzero(atomic_numbers == z) for z in np.unique(atomic_numbers)]
    species.sort(key=len)
    rarest = frac_coords[species[0]]
    candidates = rarest[1:] - rarest[0]
    for order in (m for m in range(2, divisor + 1) if divisor % m == 0):
        numerators = np.rint(candidates * order)
        snapped = numerators / order
        strain = np.linalg.norm((candidates - snapped) @ cell, axis=-1)
        for p, t in zip(numerators.astype(np.int64), snapped, strict=True):
            # A numerator that shares a factor with the order is a translation of a smaller order, tried before.
            if math.gcd(order, *p.tolist()) != 1 or strain[(snapped == t).all(-1)].min() > tolerance:
                continue
            if all(_maps_onto_itself(frac_coords[atoms], t, cell, tolerance) for atoms in species):
                return p % order, order
    return None


def _nearest(frac_coords: Floats, translation: Floats, cell: Floats) -> tuple[Integers, Floats, Floats]:
    """For each atom its partner after the translation: index, fractional offset of the partner, distance."""
    delta = frac_coords[None, :] - (frac_coords + translation)[:, None]
    delta -= np.rint(delta)
    distances = np.linalg.norm(delta @ cell, axis=-1)
    partner = distances.argmin(-1)
    atoms = np.arange(len(partner))
    return partner, delta[atoms, partner], distances[atoms, partner]


def _maps_onto_itself(frac_coords: Floats, translation: Floats, cell: Floats, tolerance: float) -> bool:
    partner, _, distance = _nearest(frac_coords, translation, cell)
    return bool(distance.max() <= tolerance) and len(set(partner.tolist())) == len(partner)


def _fold(
    frac_coords: Floats, cell: Floats, atomic_numbers: Integers, numerator: Integers, order: int
) -> tuple[Floats, Floats, Integers]:
    """The crystal in the cell that the translation ``numerator / order`` adds to the lattice, m times smaller."""
    translation = numerator / order
    partner = np.empty(len(frac_coords), dtype=np.int64)
    offset = np.empty_like(frac_coords)
    for z in np.unique(atomic_numbers):
        atoms = np.flatnonzero(atomic_numbers == z)
        nearest, delta, _ = _nearest(frac_coords[atoms], translation, cell)
        partner[atoms], offset[atoms] = atoms[nearest], delta
    kept, seen = [], np.zeros(len(frac_coords), dtype=bool)
    for atom in range(len(frac_coords)):
        if seen[atom]:
            continue
        drift, mean = np.zeros(3), np.zeros(3)
        image = atom
        for _ in range(order):
            seen[image] = True
            mean += drift / order
            drift = drift + offset[image]
            image = int(partner[image])
        kept.append((atom, frac_coords[atom] + mean))
    basis = _lattice_basis(np.vstack([order * np.eye(3, dtype=np.int64), numerator[None]])) / order
    coords = np.array([f for _, f in kept]) @ np.linalg.inv(basis)
    return coords, basis @ cell, atomic_numbers[[a for a, _ in kept]]


def _lattice_basis(generators: Integers) -> Integers:
    """Three integer rows of positive determinant that span the same lattice as all the rows given (Hermite form)."""
    rows = [[int(x) for x in row] for row in generators]
    basis = []
    for column in range(3):
        while True:
            live = sorted((r for r in rows if r[column]), key=lambda r: abs(r[column]))
            if len(live) <= 1:
                break
            pivot = live[0]
            for row in live[1:]:
                factor = row[column] // pivot[column]
                row[:] = [x - factor * y for x, y in zip(row, pivot, strict=True)]
        rows.remove(live[0])
        basis.append(live[0] if live[0][column] > 0 else [-x for x in live[0]])
    return np.array(basis, dtype=np.int64)
