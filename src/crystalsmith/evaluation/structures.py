"""The crystals to be judged, from any file; what cannot be read stands in the ledger and counts as a failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.delimited import Delimited
from crystalsmith.data.readers import Heard, open_source
from crystalsmith.data.rows import Refused, Row
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.schema import read_json, say
from crystalsmith.tables import plain_cell

GENERATED = "crystalsmith-generation-"
"""How the format of a folder written by ``crystalsmith generate`` begins."""

DERIVED = {"space_group_symbol", "a", "b", "c", "alpha", "beta", "gamma"}
"""Columns of a run's table that are facts of the crystal and that an evaluation has no column for."""

MAX_UNMADE = 1_000_000
"""Crystals of an unfinished run that count as failed; more are refused, as each is a row of the results."""

MIN_LENGTH = 1e-3
"""Angstrom; a lattice vector shorter than this, or a cell without volume, is no crystal that could be described."""


@dataclass(frozen=True)
class Sample:
    """One crystal that was asked for.

    Attributes:
        id: unique within the set.
        frac_coords, cell, numbers: the crystal; empty arrays where there is none.
        failure: why there is none, a word from a short list; empty otherwise.
        detail: the same for a person.
        columns: what the table beside the crystals says of it (targets, seeds).
    """

    id: str
    frac_coords: NDArray[np.float64]
    cell: NDArray[np.float64]
    numbers: NDArray[np.int64]
    failure: str = ""
    detail: str = ""
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Fractional coordinates, cell and atomic numbers."""
        return self.frac_coords, self.cell, self.numbers


def failed(name: str, failure: str, detail: str, columns: dict[str, str] | None = None) -> Sample:
    """A crystal that does not exist."""
    nothing = np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(0, dtype=np.int64)
    return Sample(name, *nothing, failure, detail, columns or {})


def read_samples(path: Path, limit: int | None = None, disorder: str = "refuse") -> list[Sample]:
    """All crystals of an input, in its order.

    Args:
        path: a folder made by ``crystalsmith generate``, or anything that ``data prepare`` reads (``docs/data.md``).
        limit: read only this many.
        disorder: what becomes of partly occupied sites, as in :func:`crystalsmith.data.readers.open_source`.

    Raises:
        InputError: if there is no such input, none of the readers knows it, or nothing is in it.
    """
    samples: list[Sample] = []
    for sample in _generated(path) if _is_generated(path) else _foreign(path, disorder):
        if limit is not None and len(samples) >= limit:
            break
        samples.append(sample)
    if not samples:
        raise InputError(f"{path} holds no crystals; give a file or folder with at least one.")
    return _with_unique_names(samples)


def _foreign(path: Path, disorder: str = "refuse") -> Iterator[Sample]:
    count = 0
    try:
        source = open_source(path, disorder)
        heard = Heard(source)
        for chunk in source.chunks(256):
            for row in chunk.rows():
                count += 1
                if isinstance(row, Row):
                    heard.add(row.id, row.notes)
                yield sample_of(row)
        heard.tell()
    except InputError as error:
        # A file cut short gives what it has; one of which nothing can be read is the user's to mend.
        if not count:
            raise
        yield failed(f"{path.stem}:{count + 1}", "unreadable", f"the rest of the file cannot be read: {error}")


def sample_of(row: Row | Refused) -> Sample:
    """A row of an input as a crystal to be judged."""
    if isinstance(row, Refused):
        return failed(row.id, row.reason, row.detail)
    if not len(row.atomic_numbers):
        return failed(row.id, "no_atoms", "the structure is empty")
    if not (np.isfinite(row.frac_coords).all() and np.isfinite(row.cell).all()):
        return failed(row.id, "not_finite", "a coordinate or lattice vector is not a finite number")
    low, high = int(row.atomic_numbers.min()), int(row.atomic_numbers.max())
    if low < 1 or high > len(SYMBOLS):
        return failed(row.id, "unknown_element", f"there is no element {low if low < 1 else high} here")
    lengths = np.linalg.norm(row.cell, axis=1)
    if lengths.min() < MIN_LENGTH or abs(np.linalg.det(row.cell)) < 1e-9 * lengths.prod():
        return failed(row.id, "bad_cell", "the lattice vectors span no volume")
    columns = {name: f"{value:.6g}" for name, value in row.labels.items()}
    return Sample(row.id, row.frac_coords % 1.0, row.cell, row.atomic_numbers, columns=columns)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The ``manifest.json`` of a folder that one of our commands wrote; None where there is none."""
    try:
        manifest = read_json(path / "manifest.json")
    except InputError:
        return None
    return manifest if isinstance(manifest, dict) else None


def _is_generated(path: Path) -> bool:
    return str((read_manifest(path) or {}).get("format", "")).startswith(GENERATED)


def _generated(folder: Path) -> Iterator[Sample]:
    """The crystals of a generation run as generated, the failed and the unmade ones included."""
    table = _table(folder / "crystals.csv")
    geometries = folder / "crystals.extxyz"
    made = {}
    if geometries.is_file() and geometries.stat().st_size:
        made = {sample.id: sample for sample in _foreign(geometries)}
    for row in table:
        name = row.get("id", "")
        if name in made:
            sample = made[name]
            yield Sample(name, *sample.arrays, sample.failure, sample.detail, _asked(row))
        else:
            yield failed(name, "not_generated", row.get("note") or "there is no geometry of it", row)
    yield from (
        failed(f"unmade-{k}", "not_generated", "the run was not finished") for k in range(_unmade(folder, table))
    )


def _asked(row: dict[str, str]) -> dict[str, str]:
    """A row without what follows from the crystal itself."""
    return {name: value for name, value in row.items() if name not in DERIVED}


def _unmade(folder: Path, table: list[dict[str, str]]) -> int:
    settings = (read_manifest(folder) or {}).get("settings")
    asked = settings.get("num") if isinstance(settings, Mapping) else None
    unmade = max(0, asked - len(table)) if isinstance(asked, int) and not isinstance(asked, bool) else 0
    if unmade > MAX_UNMADE:
        raise InputError(
            f"{folder / 'manifest.json'} asks for {say(asked)} crystals, of which {len(table):,} are there; finish the "
            "run, or give crystals.extxyz alone to judge what there is."
        )
    return unmade


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} cannot be read; give the folder of a whole generation run.")
    return [{name: plain_cell(text) for name, text in row.items()} for row in Delimited.open(path).records()]


def _with_unique_names(samples: list[Sample]) -> list[Sample]:
    seen: dict[str, int] = {}
    unique = []
    for sample in samples:
        count = seen[sample.id] = seen.get(sample.id, 0) + 1
        if count > 1:
            name = f"{sample.id}#{count}"
            sample = Sample(name, *sample.arrays, sample.failure, sample.detail, sample.columns)
        unique.append(sample)
    return unique
