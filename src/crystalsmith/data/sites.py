"""The symmetry of every crystal of a prepared data set, found once and kept beside it."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.engine.run import Engine, in_order
from crystalsmith.errors import InputError, brief
from crystalsmith.files import replace_text, replacing
from crystalsmith.locks import locked
from crystalsmith.schema import NO_ARRAY

if TYPE_CHECKING:
    from crystalsmith.symmetry.wyckoff import Arranged

FILE, TEMPLATES = "symmetry.npz", "templates.json"
_CHUNK = 256


@dataclass(frozen=True)
class SiteTable:
    """The sites (:class:`crystalsmith.symmetry.wyckoff.Sites`) of C crystals with N atoms in all.

    Attributes:
        offsets: ``(C + 1,)``, the atoms of each crystal.
        first: ``(N,)``, counted within the crystal.
        slope, back: ``(N, 3, 3)`` float32.
        rotation_offsets: ``(C + 1,)``, the operations of each crystal.
        rotations: ``(G, 3, 3)`` int8.
    """

    offsets: NDArray[np.int64]
    first: NDArray[np.int64]
    slope: NDArray[np.float32]
    back: NDArray[np.float32]
    rotation_offsets: NDArray[np.int64]
    rotations: NDArray[np.int8]

    def batch(self, rows: NDArray[np.int64], keep: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The arrays of a ``diffusion.symmetric.Symmetry`` of a batch of rows, by name.

        Crystals that are not to ``keep`` their symmetry count as of none.
        """
        atoms, crystal = _ranges(self.offsets, rows)
        starts = np.cumsum(np.diff(self.offsets)[rows]) - np.diff(self.offsets)[rows]
        keeps = keep[crystal]
        first = np.where(keeps, self.first[atoms] + starts[crystal], np.arange(len(atoms)))
        eye = np.eye(3, dtype=np.float32)
        slope, back = (np.where(keeps[:, None, None], x[atoms], eye) for x in (self.slope, self.back))
        operations, owner = _ranges(self.rotation_offsets, rows)
        # The first operation of each crystal is the identity.
        wanted = keep[owner] | (np.diff(owner, prepend=-1) > 0)
        rotations = self.rotations[operations[wanted]].astype(np.float32)
        return {
            "first": first,
            "slope": slope,
            "back": back,
            "offset": np.zeros((len(atoms), 3), dtype=np.float32),
            "rotations": rotations,
            "crystal": owner[wanted],
            "owner": crystal,
        }


def _ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The entries of some rows, one row after the other, and which of the rows each is of."""
    count = np.diff(offsets)[rows]
    owner = np.repeat(np.arange(len(rows)), count)
    starts = np.cumsum(count) - count
    return np.arange(int(count.sum())) - starts[owner] + offsets[rows][owner], owner


def open_sites(dataset: Any) -> SiteTable:
    """The table that :func:`find_sites` left with a prepared data set.

    Raises:
        InputError: if there is none, or it is of other data.
    """
    dataset = getattr(dataset, "dataset", dataset)  # labelled
    path = Path(dataset.path) / FILE
    try:
        with np.load(path, allow_pickle=False) as data:
            table = SiteTable(**{name: data[name] for name in SiteTable.__dataclass_fields__})
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} does not hold the symmetry of its crystals; run 'crystalsmith data symmetry {path.parent}'."
        ) from None
    except (*NO_ARRAY, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"{path} is damaged ({brief(error)}); run 'crystalsmith data symmetry' again.") from None
    if not np.array_equal(table.offsets, dataset.offsets):
        raise InputError(f"{path} is of other data; run 'crystalsmith data symmetry' again.")
    atoms, crystals = len(dataset.atomic_numbers), len(dataset.offsets) - 1
    ends = table.rotation_offsets
    kinds = "".join(x.dtype.kind for x in (table.first, ends, table.rotations, table.slope, table.back))
    whole_numbers = kinds.replace("u", "i") == "iiiff"
    shapes = (
        (table.first.shape, (atoms,)),
        (table.slope.shape, (atoms, 3, 3)),
        (table.back.shape, (atoms, 3, 3)),
        (ends.shape, (crystals + 1,)),
        (table.rotations.shape[1:], (3, 3)),
    )
    if not whole_numbers or any(have != want for have, want in shapes):
        raise InputError(f"{path} is damaged (an array is of another shape); run 'crystalsmith data symmetry' again.")
    if ends[0] != 0 or (np.diff(ends) < 1).any() or ends[-1] != len(table.rotations):
        raise InputError(f"{path} is damaged (its rows do not add up); run 'crystalsmith data symmetry' again.")
    count = np.repeat(np.diff(dataset.offsets), np.diff(dataset.offsets))
    if (table.first < 0).any() or (table.first >= count).any() or not np.isfinite(table.slope).all():
        raise InputError(f"{path} is damaged (numbers out of range); run 'crystalsmith data symmetry' again.")
    return table


def find_sites(
    dataset: CrystalDataset, jobs: int = 0, *, source: str = "", progress: Callable[[int], None] = lambda rows: None
) -> tuple[int, int]:
    """Find the symmetry of every crystal; write it, and the templates of the training crystals, beside the data.

    A crystal without a symmetry that holds together keeps none.

    Args:
        dataset: a prepared data set.
        jobs: processes, 0 = one per core.
        source: what the file of templates says about its origin; the name of the data if empty.
        progress: hears how many crystals more are done.

    Returns:
        Crystals with more symmetry than their lattice, and templates.
    """
    with locked(dataset.path, "crystalsmith data symmetry"):
        return _find_sites(dataset, jobs, source, progress)


def _find_sites(dataset: CrystalDataset, jobs: int, source: str, progress: Callable[[int], None]) -> tuple[int, int]:
    from crystalsmith.symmetry.wyckoff import count_templates, free_sites

    found = arranged(dataset, dataset.rows(), jobs, progress)
    sites = [free_sites(int(n)) if one is None else one.sites for one, n in zip(found, dataset.num_atoms, strict=True)]
    orders = [len(one.rotations) for one in sites]
    table = SiteTable(
        offsets=np.asarray(dataset.offsets),
        first=np.concatenate([one.first for one in sites]),
        slope=np.concatenate([one.slope for one in sites]).astype(np.float32),
        back=np.concatenate([one.back for one in sites]).astype(np.float32),
        rotation_offsets=np.concatenate([[0], np.cumsum(orders)]),
        rotations=np.concatenate([_identity_first(one.rotations) for one in sites]).astype(np.int8),
    )
    counted = [found[row] for row in dataset.rows("train")]
    templates = count_templates(counted, source or f"training crystals of {dataset.path.name}")
    arrays = {name: getattr(table, name) for name in SiteTable.__dataclass_fields__}
    with replacing(dataset.path / FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    replace_text(dataset.path / TEMPLATES, templates.to_json())
    return sum(order > 1 for order in orders), len(templates.counts)


def arranged(
    dataset: CrystalDataset,
    rows: NDArray[np.int64],
    jobs: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Arranged | None]:
    """The symmetry of some crystals of a data set; arguments as in :func:`find_sites`."""
    tasks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
    engine = Engine(jobs or os.cpu_count() or 1).at_most(-(-len(rows) // _CHUNK))
    found: list[Arranged | None] = []
    for part in in_order(partial(_find_some, dataset), tasks, engine):
        found += part
        progress(len(part))
    return found


def _find_some(dataset: CrystalDataset, rows: NDArray[np.int64]) -> list[Arranged | None]:
    from crystalsmith.symmetry.wyckoff import template_of

    found = []
    for row in rows:
        atoms = slice(dataset.offsets[row], dataset.offsets[row + 1])
        frac, cell = np.array(dataset.frac_coords[atoms], dtype=float), np.array(dataset.cell[row], dtype=float)
        found.append(template_of(frac, cell, dataset.atomic_numbers[atoms].astype(np.int64)))
    return found


def _identity_first(rotations: NDArray[np.int64]) -> NDArray[np.int64]:
    identity = (rotations == np.eye(3, dtype=np.int64)).all((1, 2))
    return rotations[np.argsort(~identity, kind="stable")]
