"""What preparation gathers, and how it becomes files: arrays, statistics and the manifest."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crystalsmith
from crystalsmith.data.dataset import FORMAT, SPLIT_CODES
from crystalsmith.data.filters import Prepared
from crystalsmith.data.labels import Column, Reading
from crystalsmith.data.rows import Refused
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.files import replace_text, sha256_of

AboveHull = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]], NDArray[np.float64]]
"""From atomic numbers ``(N,)``, numbers of atoms ``(C,)`` and formation energies ``(C,)`` to eV/atom above a hull."""

SAME_CRYSTAL = 1e-3
"""Angstrom within which two fingerprints are those of the same crystal."""

SMALLEST_CLASS = 50
"""Crystals that a number of atoms needs for a cell variance of its own."""


class Collected:
    """Prepared chunks as they come in, some 300 bytes per crystal of ten atoms."""

    def __init__(self) -> None:
        self._parts: list[Prepared] = []
        self._keep: NDArray[np.bool_] | None = None
        self.dropped: Counter[str] = Counter()
        self.rows = 0
        self.tally: Counter[str] = Counter()
        self._odd: dict[str, Column] = {}
        self.columns: list[Reading] = []
        self.left_out: dict[str, str] = {}
        self.noted: Counter[str] = Counter()
        self.files_left_out: list[dict[str, Any]] = []

    def add(self, part: Prepared) -> None:
        """Take one chunk."""
        before = sum(len(p.ids) for p in self._parts)
        for name, cells in part.odd.items():
            column = self._odd.setdefault(name, Column(name))
            for place, text in cells:
                column.add(before + place, text)
        part.odd = {}
        self.rows += len(part.ids) + len(part.refused)
        self.dropped.update(r.reason for r in part.refused)
        for name in ("left_handed", "folded", "split_from_hash"):
            self.tally[name] += getattr(part, name)
        self.noted.update(note.reason for note in part.noted)
        part.refused, part.noted = [], []
        self._parts.append(part)

    @property
    def kept(self) -> int:
        """Crystals kept."""
        return sum(len(p.ids) for p in self._parts) if self._keep is None else int(self._keep.sum())

    def duplicates(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which crystals ``(C,)`` carry an id that came before, and which are a crystal that came before."""
        ids = [name for p in self._parts for name in p.ids]
        seen: set[str] = set()
        same_id = np.zeros(len(ids), dtype=bool)
        for k, name in enumerate(ids):
            same_id[k] = name in seen
            seen.add(name)
        prints = np.concatenate([np.zeros((0, 8)), *(p.fingerprints for p in self._parts)])
        return same_id, same_crystal(prints)

    def settle_labels(self, asked: Mapping[str, str], limit: float | None) -> list[Refused]:
        """Give the cells that are no plain numbers their values, now that whole columns are known.

        Args:
            asked: label to kind (``data.labels.KINDS``), where the user said it.
            limit: eV/atom; crystals whose ``energy_above_hull`` is read only now and lies above it are left out.

        Raises:
            InputError: if a kind asked for cannot be, or belongs to no column.
        """
        if unknown := sorted(set(asked) - set(self._odd) - {n for p in self._parts for n in p.labels}):
            raise InputError(f"--label {unknown[0]}: no column of that name holds anything; check its spelling.")
        late: dict[int, float] = {}
        for name, column in sorted(self._odd.items()):
            labelled = [p.labels[name] for p in self._parts if name in p.labels]
            numbers = np.concatenate([np.zeros(0, dtype=np.float32), *labelled])
            reading, values = column.settle(numbers[np.isfinite(numbers)], asked.get(name, ""))
            self.columns.append(reading)
            self._fill(name, values)
            if name == "energy_above_hull" and limit is not None:
                late = {place: value for place, value in values.items() if value > limit}
        self._odd = {}
        if not late:
            return []
        keep = self._kept()
        keep[list(late)] = False
        self._keep = keep
        rows, ids = np.concatenate([p.numbers for p in self._parts]), [name for p in self._parts for name in p.ids]
        self.dropped["above_hull"] += len(late)
        return [
            Refused(int(rows[k]), ids[k], "above_hull", f"{value:.4f} eV/atom above the hull")
            for k, value in sorted(late.items())
        ]

    def _fill(self, name: str, values: Mapping[int, float]) -> None:
        first = 0
        for part in self._parts:
            last = first + len(part.ids)
            here = {place - first: value for place, value in values.items() if first <= place < last}
            if here:
                array = part.labels.get(name, np.full(len(part.ids), np.nan, dtype=np.float32))
                array[list(here)] = list(here.values())
                part.labels[name] = array
            first = last

    def label_above_hull(self, above_hull: AboveHull, limit: float | None) -> list[Refused]:
        """Give each crystal with a formation energy its ``energy_above_hull``; those above the limit are left out.

        Raises:
            InputError: if no crystal has a formation energy.
        """
        if not self._parts:
            return []
        energies = [p.labels.get("formation_energy_per_atom") for p in self._parts]
        known = [
            np.full(len(p.ids), np.nan, dtype=np.float32) if e is None else e
            for p, e in zip(self._parts, energies, strict=True)
        ]
        if not any(np.isfinite(e).any() for e in known):
            raise InputError(
                "No row has a formation energy to compute energies above the hull from; give a column "
                "formation_energy_per_atom (eV/atom), or leave --reference out."
            )
        numbers = np.concatenate([p.atomic_numbers for p in self._parts])
        sizes = np.concatenate([p.num_atoms for p in self._parts])
        found = above_hull(numbers, sizes, np.concatenate(known))
        bounds = np.cumsum([len(p.ids) for p in self._parts])[:-1]
        for part, values in zip(self._parts, np.split(found.astype(np.float32), bounds), strict=True):
            part.labels["energy_above_hull"] = values
        above = np.zeros(len(found), dtype=bool) if limit is None else np.nan_to_num(found, nan=-np.inf) > limit
        self._keep = self._kept() & ~above
        rows, ids = np.concatenate([p.numbers for p in self._parts]), [name for p in self._parts for name in p.ids]
        refused = [
            Refused(int(rows[k]), ids[k], "above_hull", f"{found[k]:.4f} eV/atom above the hull")
            for k in np.flatnonzero(above)
        ]
        self.dropped.update(r.reason for r in refused)
        return refused

    def _kept(self) -> NDArray[np.bool_]:
        total = sum(len(p.ids) for p in self._parts)
        return np.ones(total, dtype=bool) if self._keep is None else self._keep

    def drop_duplicates(self) -> list[Refused]:
        """Leave the duplicates out; returns them for the ledger."""
        same_id, same = self.duplicates()
        ids = [name for p in self._parts for name in p.ids]
        numbers = np.concatenate([p.numbers for p in self._parts]) if self._parts else np.zeros(0, dtype=np.int64)
        same_id, same = same_id & self._kept(), same & ~same_id & self._kept()
        self._keep = self._kept() & ~(same_id | same)
        refused = [
            Refused(int(numbers[k]), ids[k], "duplicate_id" if same_id[k] else "duplicate_crystal", "came before")
            for k in np.flatnonzero(same_id | same)
        ]
        self.dropped.update(r.reason for r in refused)
        return refused

    def arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
        """All arrays of the format by name, and the labels."""
        parts = self._parts
        names = sorted({n for p in parts for n in p.labels})
        labels = {
            n: np.concatenate([p.labels.get(n, np.full(len(p.ids), np.nan, dtype=np.float32)) for p in parts])
            for n in names
        }
        count = np.concatenate([p.num_atoms for p in parts])
        arrays: dict[str, NDArray[Any]] = {
            "frac_coords": np.concatenate([p.frac_coords for p in parts]),
            "cell": np.concatenate([p.cell for p in parts]),
            "atomic_numbers": np.concatenate([p.atomic_numbers for p in parts]),
            "split": np.concatenate([p.split for p in parts]),
            "ids": _fixed_width([name for p in parts for name in p.ids]),
        }
        if self._keep is not None:
            atoms = np.repeat(self._keep, count)
            arrays = {k: v[atoms if k in ("frac_coords", "atomic_numbers") else self._keep] for k, v in arrays.items()}
            labels = {n: values[self._keep] for n, values in labels.items()}
            count = count[self._keep]
        arrays["offsets"] = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(count)])
        return arrays, {n: v for n, v in labels.items() if np.isfinite(v).any()}


def same_crystal(fingerprints: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows ``(C,)`` of fingerprints ``(C, 8)`` agree with an earlier row.

    Rows are sorted by composition and by the sum of the rest, and each compared with the few that follow; in a long run
    of nearly equal crystals a pair can be missed, which is why this counts and never decides unless asked to.
    """
    order = np.lexsort((fingerprints[:, 1:].sum(-1), np.round(fingerprints[:, 0], 6)))
    ordered = fingerprints[order]
    duplicate = np.zeros(len(order), dtype=bool)
    for shift in range(1, min(8, len(order))):
        close = (np.abs(ordered[shift:] - ordered[:-shift]) < SAME_CRYSTAL).all(-1)
        later = np.maximum(order[shift:], order[:-shift])[close]
        duplicate[later] = True
    return duplicate


def _fixed_width(names: list[str]) -> NDArray[Any]:
    try:
        return np.array([name.encode("ascii") for name in names])
    except UnicodeEncodeError:
        return np.array(names)


def write_dataset(
    collected: Collected, folder: Path, name: str, source: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write arrays and manifest into a folder; returns the manifest."""
    same_id, same = collected.duplicates()
    arrays, labels = collected.arrays()
    places = label_files(labels)
    (folder / "labels").mkdir()
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array, allow_pickle=False)
    for key, values in labels.items():
        np.save(folder / "labels" / f"{places[key]}.npy", values, allow_pickle=False)
    files = [*(f"{key}.npy" for key in arrays), *(f"labels/{key}.npy" for key in places.values()), "ledger.csv"]
    files += ["notes.csv"] if collected.noted else []
    split = arrays["split"]
    manifest = {
        "format": FORMAT,
        "version": crystalsmith.__version__,
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": source.name,
        "source_sha256": sha256_of(source),
        "settings": settings,
        "counts": {
            "rows": collected.rows,
            "kept": len(split),
            "dropped": dict(collected.dropped.most_common()),
            "noted": dict(collected.noted.most_common()),
            **{key: int((split == code).sum()) for key, code in SPLIT_CODES.items()},
            "atoms": int(arrays["offsets"][-1]),
            "duplicate_ids": int(same_id.sum()),
            "duplicate_crystals": int(same.sum()),
            **{key: collected.tally[key] for key in ("left_handed", "folded", "split_from_hash")},
        },
        **_with_readings(statistics(arrays, labels), places, collected.columns),
        "columns": {reading.name: reading.facts() for reading in collected.columns},
        "columns_left_out": collected.left_out,
        "files_left_out": collected.files_left_out,
        "sha256": {file: sha256_of(folder / file) for file in files},
    }
    replace_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{k}" for kind in ("com", "lpt") for k in range(1, 10))})


def label_files(names: Iterable[str]) -> dict[str, str]:
    """A file name for each label, whatever characters its column has; no two alike, in any case of letters.

    Names that are devices on Windows (``aux``, ``com1.5``) get an underscore before them.
    """
    taken: set[str] = set()
    places = {}
    for name in names:
        plain = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "label"
        plain = f"_{plain}" if plain.split(".")[0].lower() in DEVICES else plain
        k, place = 1, plain
        while place.lower() in taken:
            k, place = k + 1, f"{plain}_{k + 1}"
        taken.add(place.lower())
        places[name] = place
    return places


def _with_readings(found: dict[str, Any], places: Mapping[str, str], columns: Sequence[Reading]) -> dict[str, Any]:
    """The statistics with what else there is to know of each label: its file, its classes, its unit."""
    readings = {reading.name: reading for reading in columns}
    for name, facts in found["labels"].items():
        if places[name] != name:
            facts["file"] = places[name]
        if (reading := readings.get(name)) is not None:
            facts |= {k: v for k, v in reading.facts().items() if k in ("classes", "first", "unit")}
            facts |= {"kind": "category"} if reading.kind in ("category",) else {}
    return found


def statistics(arrays: dict[str, NDArray[Any]], labels: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
    """Histogram of sizes, mean density, cell variances, label and element statistics of the train split.

    Where there is no train split (a set kept for evaluation) they are those of all rows; ``statistics_over`` tells.
    """
    train = arrays["split"] == SPLIT_CODES["train"]
    over = "train" if train.any() else "all"
    rows = train if over == "train" else np.ones(len(train), dtype=bool)
    count = np.diff(arrays["offsets"])
    numbers = arrays["atomic_numbers"][np.repeat(rows, count)]
    cell = arrays["cell"][rows].astype(np.float64)
    sizes = count[rows]
    density = float((sizes / np.linalg.det(cell)).mean())
    elements, occurrences = np.unique(numbers, return_counts=True)
    return {
        "statistics_over": over,
        "num_atoms_histogram": {str(n): int(k) for n, k in zip(*np.unique(sizes, return_counts=True), strict=True)},
        "mean_density": density,
        "cell_variance": cell_variance(cell, sizes, density),
        "labels": {
            name: _label_statistics(values[rows], int(np.isfinite(values).sum())) for name, values in labels.items()
        },
        "elements": {
            SYMBOLS[z - 1]: int(n)
            for z, n in sorted(zip(elements.tolist(), occurrences.tolist(), strict=True), key=lambda e: -e[1])
        },
    }


def cell_variance(cell: NDArray[np.float64], sizes: NDArray[np.int64], density: float) -> dict[str, list[float]]:
    """Second moments of symmetric cells ``(C, 3, 3)`` about the limit mean (n/rho)^(1/3) I of the cell process.

    In units of n^(2/3), diagonal and off-diagonal elements apart: for all crystals, and for each number of atoms that
    has :data:`SMALLEST_CLASS` of them.
    """
    limit = np.cbrt(sizes / density)[:, None, None] * np.eye(3)
    squares = (cell - limit) ** 2 / np.cbrt(sizes)[:, None, None] ** 2
    diagonal = squares[:, range(3), range(3)].mean(-1)
    off_diagonal = squares[:, [0, 0, 1], [1, 2, 2]].mean(-1)
    groups = {"all": np.ones(len(sizes), dtype=bool)}
    groups.update({str(n): sizes == n for n in np.unique(sizes) if (sizes == n).sum() >= SMALLEST_CLASS})
    return {key: [float(diagonal[g].mean()), float(off_diagonal[g].mean())] for key, g in groups.items()}


def _label_statistics(values: NDArray[np.float32], labelled_in_all: int) -> dict[str, Any]:
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return {"count": 0, "count_all": labelled_in_all, **dict.fromkeys(("mean", "std", "min", "max"), None)}
    q01, q50, q99 = np.quantile(known, (0.01, 0.5, 0.99))
    summary = {"mean": known.mean(), "std": known.std(), "min": known.min(), "max": known.max()}
    summary.update({"q01": q01, "q50": q50, "q99": q99})
    return {"count": len(known), "count_all": labelled_in_all, **{k: float(v) for k, v in summary.items()}}
