"""The atoms of a data block, and all their images in the cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.cif.blocks import UNKNOWN, Block, number
from crystalsmith.data.cif.groups import Group
from crystalsmith.data.rows import Note, RowError, element

MAX_SITES = 1000
"""Sites in one CIF; preparation wants small crystals, and one file must not hold up all others."""

MAX_ATOMS = 20 * MAX_SITES
"""Images of all sites under all operations."""

SAME_SITE = 0.1
"""Angstrom within which symmetry images of one site are one atom: files round coordinates to two digits."""

LOOSE_SITE = 0.4
"""The same where the file itself says (formula, multiplicity) that it has fewer atoms; no two atoms are so close."""

FULL = 1e-3
"""How far an occupancy may be off 1."""


@dataclass(frozen=True)
class Sites:
    """The listed atoms.

    Attributes:
        coords: ``(s, 3)`` fractional.
        numbers: ``(s,)`` atomic numbers.
        multiplicities: ``(s,)``, 0 where not said.
        resolved: whether partly occupied sites were decided here, so that no formula will agree.
        notes: what was left out.
    """

    coords: NDArray[np.float64]
    numbers: NDArray[np.int64]
    multiplicities: NDArray[np.int64]
    resolved: bool = False
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self, wanted: NDArray[np.bool_] | list[bool]) -> Sites:
        """Some of the sites."""
        chosen = np.asarray(wanted, dtype=bool)
        parts = self.coords[chosen], self.numbers[chosen], self.multiplicities[chosen]
        return Sites(*parts, self.resolved, self.notes)


def sites_of(block: Block, cell: NDArray[np.float64], disorder: str) -> Sites:
    """The sites of a block.

    Args:
        block: with ``_atom_site_fract_x``.
        cell: ``(3, 3)``.
        disorder: ``refuse``, or ``largest``: of what shares a place, the species of the largest occupancy is taken, and
            where a vacancy is the largest, none.

    Raises:
        RowError: if an atom lacks an element or a place, or is partly occupied.
    """
    count = len(block.column("_atom_site_fract_x"))
    if count > MAX_SITES:
        raise RowError("too_many_atoms", f"{count} sites in one CIF (at most {MAX_SITES} are read)")
    real = [flag.lower() != "dum" for flag in block.column("_atom_site_calc_flag")] or [True] * count
    columns = []
    for axis in "xyz":
        tag = f"_atom_site_fract_{axis}"
        if tag not in block:
            raise RowError("unreadable", f"the CIF has no {tag}")
        values = block.column(tag)
        if not len(values) == len(real) == count:
            raise RowError("bad_shape", "the columns of the atom loop differ in length")
        columns.append([number(value, tag) if here else 0.0 for value, here in zip(values, real, strict=True)])
    coords = np.array(columns).T.reshape(-1, 3)
    if not np.isfinite(coords).all() or (np.abs(coords) > 1e6).any():
        raise RowError("not_finite", "a coordinate is NaN, infinite or beyond any cell")
    numbers = _species(block, real)
    sites = Sites(coords, numbers, _multiplicities(block, count))
    if not all(real):
        sites = replace(sites, notes=(("dummy_atoms", f"{count - sum(real)} dummy atoms were left out"),))
    sites, occupancies = sites.keep(real), _occupancies(block, count)[np.array(real)]
    groups = [g for g, here in zip(_disorder_groups(block, count), real, strict=True) if here]
    return _ordered(sites, occupancies, groups, cell, disorder)


def _species(block: Block, real: list[bool]) -> NDArray[np.int64]:
    symbols, labels = block.column("_atom_site_type_symbol"), block.column("_atom_site_label")
    if not symbols and not labels:
        raise RowError("unreadable", "the CIF names no elements (_atom_site_type_symbol)")
    texts = symbols or labels
    if len(texts) != len(real) or (symbols and labels and len(labels) != len(symbols)):
        raise RowError("bad_shape", "the columns of the atom loop differ in length")
    if symbols and labels:
        texts = [label if symbol.strip() in UNKNOWN else symbol for symbol, label in zip(symbols, labels, strict=True)]
    return np.array([element(text) if here else 0 for text, here in zip(texts, real, strict=True)], dtype=np.int64)


def _multiplicities(block: Block, count: int) -> NDArray[np.int64]:
    for tag in ("_atom_site_site_symmetry_multiplicity", "_atom_site_symmetry_multiplicity"):
        values = block.column(tag)
        if len(values) == count:
            return np.array([int(v) if v.isascii() and v.isdigit() and len(v) < 5 else 0 for v in values])
    return np.zeros(count, dtype=np.int64)


def _occupancies(block: Block, count: int) -> NDArray[np.float64]:
    """``(count,)``; what is not said is 1."""
    tag = "_atom_site_occupancy"
    values = block.column(tag) or ["?"] * count
    if len(values) != count:
        raise RowError("bad_shape", "the columns of the atom loop differ in length")
    found = np.array([1.0 if value.strip() in UNKNOWN else number(value, tag) for value in values])
    if not (found > -FULL).all() or (found > 1.0 + 0.05).any():
        worst = found[np.argmax(np.abs(found - 0.5))]
        raise RowError("disordered", f"a site has occupancy {worst:g}")
    return found


def _disorder_groups(block: Block, count: int) -> list[tuple[str, str]]:
    """Assembly and group of each site; empty text where it belongs to none."""
    texts = []
    for tag in ("_atom_site_disorder_assembly", "_atom_site_disorder_group"):
        values = block.column(tag)
        texts.append(["" if v.strip() in UNKNOWN else v for v in values] if len(values) == count else [""] * count)
    return list(zip(*texts, strict=True))


def _ordered(
    sites: Sites,
    occupancies: NDArray[np.float64],
    groups: list[tuple[str, str]],
    cell: NDArray[np.float64],
    disorder: str,
) -> Sites:
    partial = np.abs(occupancies - 1.0) > FULL
    alternatives = len({group for group in groups if group[1]} - {("", "0")}) > 1
    if not partial.any() and not alternatives:
        return sites
    if disorder == "refuse":
        if partial.any():
            raise RowError("disordered", f"a site has occupancy {occupancies[partial][0]:g}")
        raise RowError("disordered", "atoms of several disorder groups, without occupancies")
    kept = occupancies >= 0.5 - FULL if not alternatives else _largest_groups(occupancies, groups)
    kept &= occupancies > FULL
    # Of several species on one place the largest stands for it, even below one half, unless a vacancy is larger still.
    delta = sites.coords[:, None] - sites.coords[None]
    delta -= np.rint(delta)
    together = np.linalg.norm(delta @ cell, axis=-1) < SAME_SITE
    for k in np.flatnonzero(partial):
        shared = np.flatnonzero(together[k])
        if len(shared) > 1:
            best = shared[np.argmax(occupancies[shared])]
            kept[k] = k == best and occupancies[k] >= 1.0 - occupancies[shared].sum()
    if not kept.any():
        raise RowError("disordered", "every site is mostly vacant")
    count = int(partial.sum())
    note = ("disorder_resolved", f"{count} partly occupied sites: the largest occupancy was taken")
    return replace(
        sites.keep(kept), resolved=True, notes=(*sites.notes, note), multiplicities=np.zeros(kept.sum(), int)
    )


def _largest_groups(occupancies: NDArray[np.float64], groups: list[tuple[str, str]]) -> NDArray[np.bool_]:
    """Of each assembly the group of the largest mean occupancy (the first of equals), and what belongs to none."""
    best: dict[str, tuple[float, str]] = {}
    for assembly, group in dict.fromkeys(g for g in groups if g[1]):
        mean = float(np.mean([o for o, g in zip(occupancies, groups, strict=True) if g == (assembly, group)]))
        if assembly not in best or mean > best[assembly][0] + 1e-6:
            best[assembly] = (mean, group)
    return np.array([not g[1] or best[g[0]][1] == g[1] for g in groups]) & (
        np.array([bool(g[1]) for g in groups]) | (occupancies >= 0.5 - FULL)
    )


@dataclass(frozen=True)
class Atoms:
    """All atoms of the cell.

    Attributes:
        coords: ``(n, 3)`` fractional.
        numbers: ``(n,)``.
        orbits: ``(s,)`` atoms of each site.
        repeated: sites that are images of earlier ones.
    """

    coords: NDArray[np.float64]
    numbers: NDArray[np.int64]
    orbits: NDArray[np.int64]
    repeated: int


def expand(sites: Sites, group: Group, cell: NDArray[np.float64], tolerance: float = SAME_SITE) -> Atoms:
    """Every image of every site, those that coincide once; a site near a symmetry element is moved onto it.

    Args:
        sites: the listed atoms.
        group: a group (a list that is closed).
        cell: ``(3, 3)``.
        tolerance: angstrom.

    Raises:
        RowError: if there are too many atoms.
    """
    if group.trivial:
        return Atoms(sites.coords, sites.numbers, np.ones(len(sites), dtype=np.int64), 0)
    if len(sites) * len(group) > MAX_ATOMS:
        raise RowError("too_many_atoms", f"{len(sites)} sites under {len(group)} symmetry operations")
    coords: list[NDArray[np.float64]] = []
    numbers: list[int] = []
    known: dict[int, NDArray[np.float64]] = {}
    orbits = np.zeros(len(sites), dtype=np.int64)
    for k, place in enumerate(sites.coords):
        images = _orbit(place, group, cell, tolerance)
        z = int(sites.numbers[k])
        if z in known and _near(images[:1], known[z], cell):
            continue
        known[z] = np.concatenate([known[z], images]) if z in known else images
        coords.append(images)
        numbers.append(z)
        orbits[k] = len(images)
    counts = [len(images) for images in coords]
    return Atoms(np.concatenate(coords), np.repeat(numbers, counts).astype(np.int64), orbits, len(sites) - len(coords))


def _orbit(
    place: NDArray[np.float64], group: Group, cell: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    images = group.rotations @ place + group.translations
    delta = images - place
    delta -= np.rint(delta)
    fixed = np.linalg.norm(delta @ cell, axis=-1) < tolerance
    if fixed.sum() > 1:
        # The mean of the images that should be one is where all of them are the same to the last digit.
        images = group.rotations @ (place + delta[fixed].mean(0)) + group.translations
    wrapped = np.round(images, 7) % 1.0
    wrapped[wrapped > 1.0 - 1e-6] = 0.0
    order = np.lexsort(np.round(wrapped, 5).T)
    different = np.ones(len(order), dtype=bool)
    different[1:] = np.abs(np.diff(wrapped[order], axis=0)).max(1) > 2e-5
    chosen = np.sort(order[different])
    if len(chosen) * fixed.sum() != len(group):
        chosen = _distinct(images, cell, tolerance)
    return images[chosen]


def _distinct(images: NDArray[np.float64], cell: NDArray[np.float64], tolerance: float) -> NDArray[np.int64]:
    """The first of each set of images that coincide, found one after another."""
    left, chosen = np.arange(len(images)), []
    while len(left):
        chosen.append(left[0])
        delta = images[left] - images[left[0]]
        delta -= np.rint(delta)
        left = left[np.linalg.norm(delta @ cell, axis=-1) >= tolerance]
    return np.array(chosen)


def _near(place: NDArray[np.float64], others: NDArray[np.float64], cell: NDArray[np.float64]) -> bool:
    delta = others - place
    delta -= np.rint(delta)
    return bool((np.linalg.norm(delta @ cell, axis=-1) < SAME_SITE).any())


def same_atoms(first: Atoms, second: Atoms, cell: NDArray[np.float64]) -> bool:
    """Whether two cells of atoms are the same, whatever their order."""
    if len(first.numbers) != len(second.numbers) or sorted(first.numbers) != sorted(second.numbers):
        return False
    for z in set(first.numbers.tolist()):
        a, b = first.coords[first.numbers == z], second.coords[second.numbers == z]
        for place in a:
            if not _near(place[None], b, cell):
                return False
    return True
