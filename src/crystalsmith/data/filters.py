"""From parsed rows to prepared arrays: what is kept, and the published preparation of each crystal.

Runs in worker processes on a thousand rows at a time; the geometry is done for all of them at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crystalsmith.cells import PRIMITIVE_TOLERANCE, niggli_reduce, primitive_cell, right_handed, symmetric_polar
from crystalsmith.data.rows import SPLITS, Chunk, Refused, Row, RowError
from crystalsmith.data.sense import closeness, overlap_text, volume_problem
from crystalsmith.elements import SYMBOLS


@dataclass(frozen=True)
class Rules:
    """What preparation does; the defaults are the published ones.

    Attributes:
        max_atoms: most atoms in the (primitive) cell; None for no limit.
        elements: atomic numbers that may occur; None for all up to Fm.
        max_energy_above_hull: eV/atom, inclusive, where the label exists; None for no limit.
        primitive: find the primitive cell.
        primitive_tolerance: angstrom, see :func:`crystalsmith.cells.primitive_cell`.
        niggli: Niggli-reduce the cell.
        keep_splits: splits to keep; None for all.
        split_fractions: train, val, test shares of the rows whose split the input does not say.
    """

    max_atoms: int | None = 20
    elements: frozenset[int] | None = None
    max_energy_above_hull: float | None = 0.1
    primitive: bool = True
    primitive_tolerance: float = PRIMITIVE_TOLERANCE
    niggli: bool = True
    keep_splits: frozenset[str] | None = None
    split_fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)


@dataclass
class Prepared:
    """C prepared crystals of one chunk with N atoms, and the rows that were refused.

    Attributes:
        numbers: ``(C,)`` row numbers in the input, from 1.
        odd: by label, the crystals (0 to C - 1) and texts of the cells that are no plain numbers.
        fingerprints: ``(C, 8)``, the same for the same crystal; see :func:`fingerprints`.
        noted: what is strange about rows that were kept.
        split_from_hash: how many of the splits were assigned here.
    """

    ids: list[str]
    numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float32]
    cell: NDArray[np.float32]
    atomic_numbers: NDArray[np.uint8]
    num_atoms: NDArray[np.int64]
    split: NDArray[np.uint8]
    labels: dict[str, NDArray[np.float32]]
    odd: dict[str, list[tuple[int, str]]]
    fingerprints: NDArray[np.float64]
    refused: list[Refused] = field(default_factory=list)
    noted: list[Refused] = field(default_factory=list)
    split_from_hash: int = 0
    left_handed: int = 0
    folded: int = 0


def prepare_chunk(chunk: Chunk, rules: Rules) -> Prepared:
    """Parse, check, reduce and symmetrise the rows of one chunk."""
    kept: list[Row] = []
    refused: list[Refused] = []
    tally = {"left_handed": 0, "folded": 0, "split_from_hash": 0}
    for row in chunk.rows():
        if isinstance(row, Refused):
            refused.append(row)
            continue
        try:
            kept.append(_prepare_row(row, rules, tally))
        except RowError as error:
            refused.append(Refused(row.number, row.id, error.reason, error.detail))
    prepared = _stack(kept, rules)
    near = {k: overlap_text(*pair) for k, pair in enumerate(prepared[1].tolist())}
    near = {k: detail for k, detail in near.items() if detail}
    for k, detail in near.items():
        refused.append(Refused(kept[k].number, kept[k].id, "overlapping_atoms", detail))
    kept = [row for k, row in enumerate(kept) if k not in near]
    result = prepared[0] if not near else _stack(kept, rules)[0]
    result.noted = [Refused(row.number, row.id, *note) for row in kept for note in row.notes]
    result.refused = sorted(refused, key=lambda r: r.number)
    result.left_handed, result.folded = tally["left_handed"], tally["folded"]
    result.split_from_hash = tally["split_from_hash"]
    return result


def _prepare_row(row: Row, rules: Rules, tally: dict[str, int]) -> Row:
    """The checks in order of their cost, then the primitive cell; raises RowError for a row to drop."""
    split = row.split
    if split is None:
        split = hash_split(row.id, rules.split_fractions)
    if rules.keep_splits is not None and split not in rules.keep_splits:
        raise RowError("split_not_kept", split)
    _check_numbers(row)
    _check_elements(row.atomic_numbers, rules.elements)
    problem = volume_problem(row.cell, row.atomic_numbers)
    if problem:
        raise RowError("bad_cell", problem)
    energy = row.labels.get("energy_above_hull")
    if rules.max_energy_above_hull is not None and energy is not None and energy > rules.max_energy_above_hull:
        raise RowError("above_hull", f"{energy:.4f} eV/atom above the hull")
    _check_size(row.atomic_numbers, rules)
    left_handed = np.linalg.det(row.cell) < 0
    frac, cell = right_handed(row.frac_coords, row.cell)
    numbers = row.atomic_numbers
    frac = frac - np.floor(frac)
    if rules.primitive:
        frac, cell, numbers = primitive_cell(frac, cell, numbers, rules.primitive_tolerance)
    if rules.max_atoms is not None and len(numbers) > rules.max_atoms:
        raise RowError("too_many_atoms", f"{len(numbers)} atoms")
    tally["left_handed"] += bool(left_handed)
    tally["folded"] += len(numbers) < len(row.atomic_numbers)
    tally["split_from_hash"] += row.split is None
    return dataclasses.replace(row, frac_coords=frac, cell=cell, atomic_numbers=numbers, split=split)


def _check_numbers(row: Row) -> None:
    if not len(row.atomic_numbers):
        raise RowError("no_atoms", "the crystal has no atoms")
    if not np.isfinite(row.frac_coords).all():
        raise RowError("not_finite", "a coordinate is NaN or infinite")
    if not np.isfinite(row.cell).all():
        raise RowError("not_finite", "a lattice vector is NaN or infinite")


def _check_elements(numbers: NDArray[np.int64], allowed: frozenset[int] | None) -> None:
    present = set(numbers.tolist())
    unknown = [z for z in present if not 1 <= z <= len(SYMBOLS)]
    if unknown:
        raise RowError("unknown_element", f"there is no element {min(unknown)} (1 to {len(SYMBOLS)} are known)")
    if allowed is not None and not present <= allowed:
        names = " ".join(SYMBOLS[z - 1] for z in sorted(present - allowed))
        raise RowError("element_not_allowed", names)


def _check_size(numbers: NDArray[np.int64], rules: Rules) -> None:
    """Refuse before any search what cannot fit: a cell folds at most by the common divisor of its atom counts."""
    if rules.max_atoms is None or len(numbers) <= rules.max_atoms:
        return
    divisor = math.gcd(*np.unique(numbers, return_counts=True)[1].tolist()) if rules.primitive else 1
    if len(numbers) > rules.max_atoms * divisor or len(numbers) > 50 * rules.max_atoms:
        raise RowError("too_many_atoms", f"{len(numbers)} atoms")


def hash_split(name: str, fractions: tuple[float, float, float]) -> str:
    """The split of a material by its id alone: the same on every machine and in every selection of rows."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < fractions[0]:
        return "train"
    return "val" if draw < fractions[0] + fractions[1] else "test"


def _stack(rows: list[Row], rules: Rules) -> tuple[Prepared, NDArray[np.float64]]:
    """All rows as arrays in reduced, symmetric form, and the shortest distances in each crystal."""
    count = np.array([len(r.atomic_numbers) for r in rows], dtype=np.int64)
    frac = np.concatenate([np.zeros((0, 3)), *(r.frac_coords for r in rows)])
    cell = np.array([r.cell for r in rows]).reshape(-1, 3, 3)
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(r.atomic_numbers for r in rows)])
    if rules.niggli and len(rows):
        cell, transform = niggli_reduce(cell)
        inverse = np.rint(np.linalg.inv(transform.astype(np.float64)))
        frac = np.einsum("ni,nij->nj", frac, np.repeat(inverse, count, axis=0))
    cell = symmetric_polar(cell)
    wrapped = (frac - np.floor(frac)).astype(np.float32)
    # Just below 1 in float64 can round to 1 in float32.
    wrapped[wrapped >= 1.0] = 0.0
    names = sorted({name for r in rows for name in r.labels})
    odd = sorted({name for r in rows for name in r.odd})
    prints, shortest = fingerprints(wrapped.astype(np.float64), cell, numbers, count)
    prepared = Prepared(
        ids=[r.id for r in rows],
        numbers=np.array([r.number for r in rows], dtype=np.int64),
        frac_coords=wrapped,
        cell=cell.astype(np.float32),
        atomic_numbers=numbers.astype(np.uint8),
        num_atoms=count,
        split=np.array([SPLITS[r.split or "train"] for r in rows], dtype=np.uint8),
        labels={n: np.array([r.labels.get(n, np.nan) for r in rows], dtype=np.float32) for n in names},
        odd={n: [(k, r.odd[n]) for k, r in enumerate(rows) if n in r.odd] for n in odd},
        fingerprints=prints,
    )
    return prepared, shortest


def fingerprints(
    frac_coords: NDArray[np.float64], cell: NDArray[np.float64], numbers: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eight numbers ``(C, 8)`` that agree for the same crystal whatever its origin and order of atoms, and the shortest
    distances ``(C, 2)``: in angstrom, and as a share of the sum of the covalent radii.

    The eight are a hash of the composition, the elements of the metric tensor in size order (rounding may exchange axes
    of equal length) and the mean distance of nearest images, plain and weighted by atomic numbers. The nearest image is
    taken by rounding, which is exact for atoms that overlap.
    """
    metric = cell @ np.swapaxes(cell, -1, -2)
    scale = np.cbrt(np.abs(np.linalg.det(cell)))
    lengths = np.sort(np.sqrt(np.diagonal(metric, axis1=-2, axis2=-1)), axis=-1)
    products = np.sort(np.abs(np.stack([metric[:, 0, 1], metric[:, 0, 2], metric[:, 1, 2]], -1)), axis=-1)
    mean, weighted = np.zeros(len(count)), np.zeros(len(count))
    shortest = np.stack([lengths[:, 0], np.full(len(count), np.inf)], -1)
    for crystals, atoms in _same_size(count):
        delta = frac_coords[atoms][:, :, None] - frac_coords[atoms][:, None, :]
        delta -= np.rint(delta)
        distance = np.linalg.norm(delta @ cell[crystals][:, None], axis=-1)
        z = numbers[atoms].astype(np.float64)
        pair = z[:, :, None] * z[:, None, :]
        mean[crystals] = distance.mean((1, 2))
        weighted[crystals] = (distance * pair).sum((1, 2)) / pair.sum((1, 2))
        n = atoms.shape[1]
        distance[:, np.arange(n), np.arange(n)] = np.inf
        shortest[crystals, 0] = np.minimum(shortest[crystals, 0], distance.min((1, 2)))
        if n > 1:
            shortest[crystals, 1] = closeness(distance, numbers[atoms])
    starts = np.cumsum(count) - count
    # A sum over atoms of a scrambled square is a composition hash that does not depend on order.
    scrambled = np.sin(numbers * 12.9898) * 43758.5453 % 1.0
    composition = np.add.reduceat(scrambled, starts) if len(count) else np.zeros(0)
    columns = [composition, *lengths.T, *(products / scale[:, None]).T, mean + weighted]
    return np.stack(columns, -1), shortest


def _same_size(count: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Groups of crystals of equal size: their indices ``(G,)`` and those of their atoms ``(G, n)``."""
    starts = np.cumsum(count) - count
    for n in np.unique(count):
        crystals = np.flatnonzero(count == n)
        # At most about a million distances at a time.
        for part in np.array_split(crystals, max(1, len(crystals) * int(n) ** 2 // 2**20)):
            yield part, starts[part][:, None] + np.arange(n)
