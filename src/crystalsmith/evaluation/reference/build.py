"""Building a reference set from structures and energies of any common format."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crystalsmith
from crystalsmith.data.dataset import FORMAT as DATASET_FORMAT
from crystalsmith.data.dataset import SPLIT_CODES, CrystalDataset
from crystalsmith.data.delimited import find_column
from crystalsmith.data.readers import Heard, Source, open_source
from crystalsmith.data.rows import Chunk, Note, Refused, Row
from crystalsmith.data.sense import problem
from crystalsmith.elements import SYMBOLS
from crystalsmith.engine.run import Engine, in_order
from crystalsmith.errors import InputError
from crystalsmith.evaluation.facts import density
from crystalsmith.evaluation.framework import framework
from crystalsmith.evaluation.reference.computed import holds_computed
from crystalsmith.evaluation.reference.energies import COMPOSITION_NAMES, SHOWN, Entries, column_names, read_entries
from crystalsmith.evaluation.reference.known import ADDED_ELEMENT, FORMAT, formula_text, parse_elements
from crystalsmith.evaluation.reference.schemes import pymatgen_release, scheme_name
from crystalsmith.files import replace_text, replacing_folder
from crystalsmith.locks import locked
from crystalsmith.progress import metered
from crystalsmith.schema import read_json

CHUNK = 500
"""Rows that a worker gets at a time."""

ENERGY_LABEL = "formation_energy_per_atom"


def build_reference(
    inputs: Sequence[Path],
    output: Path,
    *,
    hull: Path | None = None,
    corrections: str | None = None,
    elemental_energies: Path | None = None,
    splits: Sequence[str] | None = None,
    name: str | None = None,
    disorder: str = "refuse",
    jobs: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build a reference set.

    Args:
        inputs: structures (any format that ``data prepare`` reads, or a prepared data set); a table of compositions and
            energies alone is taken for the hull.
        output: folder to make; it appears when all is done.
        hull: table or JSON of computed entries for the hull; by default the formation energies of the inputs.
        corrections: the correction scheme of the energies, as ``mp2020`` or ``none``; must be said where there are any.
        elemental_energies: JSON ``{symbol: eV/atom}`` on the same scale, to place total energies; taken from the
            elements among computed entries otherwise.
        splits: take only these of train, val and test from inputs that have splits.
        name: name of the set (default: that of the folder).
        disorder: what becomes of partly occupied sites, as in :func:`crystalsmith.data.readers.open_source`.
        jobs: worker processes.
        overwrite: replace an earlier reference at ``output``.

    Returns:
        The manifest.

    Raises:
        InputError: if an input cannot be read, nothing is in it, or energies come without their correction scheme.
    """
    _check_output(output, overwrite)
    if splits is not None and not (splits and set(splits) <= set(SPLIT_CODES)):
        raise InputError(f"Splits are train, val and test, not {', '.join(splits) or 'none'}.")
    with locked(output, "crystalsmith reference build", beside=True):
        _check_output(output, overwrite)  # another process may have made it meanwhile
        arrays, manifest = _built(
            inputs, hull, corrections, elemental_energies, splits, name or output.name, disorder, jobs
        )
        _write(output, manifest, arrays)
    return manifest


def _built(
    inputs: Sequence[Path],
    hull: Path | None,
    corrections: str | None,
    elemental_energies: Path | None,
    splits: Sequence[str] | None,
    name: str,
    disorder: str,
    jobs: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and manifest; arguments as in :func:`build_reference`."""
    given = _elemental_energies(elemental_energies)
    hulls = [hull] if hull else []
    structures: list[Path] = []
    computed: set[Path] = set()
    for path in inputs:
        entry, crystals = holds_computed(path)
        if hull is not None and entry and not crystals:
            raise InputError(f"{path} holds computed entries without structures; leave --hull out, or give it there.")
        if hull is None and (entry or is_entry_table(path)):
            hulls.append(path)
            computed.add(path)
        if crystals or not (entry or (hull is None and is_entry_table(path))):
            structures.append(path)
    gathered = _Gathered()
    for path in structures:
        # The energies of computed entries are totals, which are placed by their elements.
        chosen = None if splits is None else frozenset(splits)
        _gather(path, chosen, disorder, jobs, gathered, energies=path not in computed)
    parts = [read_entries(hulls, given)] if hulls else []
    if hull is None and gathered.entries.names:
        parts.append(gathered.entries.checked(", ".join(str(path) for path in structures)))
    entries = Entries.join(parts) if parts else Entries([], [], [])
    if not gathered.ids and not entries.names:
        raise InputError(f"{inputs[0]} holds neither structures nor energies that can be used{gathered.why()}.")
    scheme = _scheme(scheme_name(corrections), entries)
    known = given if given is not None and entries.elemental_energies is None else entries.elemental_energies
    arrays = {**(gathered.arrays() if gathered.ids else {}), **_hull_arrays(entries)}
    manifest = {
        "format": FORMAT,
        "version": crystalsmith.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "name": name,
        "sources": [str(p) for p in [*structures, *hulls]],
        "splits": None if splits is None else list(splits),
        **({"disorder": disorder} if disorder != "refuse" else {}),
        "corrections": scheme,
        "pymatgen": pymatgen_release(),
        "elemental_energies": known,
        "hull_left_out": {reason: names[:SHOWN] for reason, names in sorted(entries.left_out.items())},
        "counts": {
            "structures": len(gathered.ids),
            "hull_entries": len(arrays.get("hull_energies", ())),
            "hull_left_out": {reason: len(names) for reason, names in sorted(entries.left_out.items())},
            "refused": gathered.refused,
        },
        "noted": gathered.noted,
        "files_left_out": gathered.files_left_out,
        "elements": sorted({SYMBOLS[z - 1] for c in entries.compositions for z in c}),
    }
    return arrays, manifest


@dataclass
class _Gathered:
    """Structures as they come in."""

    ids: list[str] = field(default_factory=list)
    crystals: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    formulas: list[bytes] = field(default_factory=list)
    density: list[float] = field(default_factory=list)
    space_group: list[int] = field(default_factory=list)
    frameworks: set[bytes] = field(default_factory=set)
    entries: Entries = field(default_factory=lambda: Entries([], [], []))
    refused: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    files_left_out: int = 0

    def why(self) -> str:
        """Of what was refused: the reasons, and what would help."""
        if not self.refused:
            return "; check the file"
        counts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sorted(self.refused.items()))
        help_ = "take the largest occupancies by --disorder largest" if "disordered" in self.refused else "mend them"
        return f" (refused: {counts}); {help_}"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays of the format, sorted by formula."""
        order = sorted(range(len(self.ids)), key=lambda i: self.formulas[i])
        crystals = [self.crystals[i] for i in order]
        return {
            "frac_coords": np.concatenate([c[0] for c in crystals]).astype(np.float32),
            "cell": np.stack([c[1] for c in crystals]),
            "atomic_numbers": np.concatenate([c[2] for c in crystals]).astype(np.uint8),
            "offsets": np.concatenate([[0], np.cumsum([len(c[2]) for c in crystals])]).astype(np.int64),
            "ids": np.array([self.ids[i].encode() for i in order]),
            "formulas": np.array([self.formulas[i] for i in order]),
            "density": np.array([self.density[i] for i in order], dtype=np.float32),
            "space_group": np.array([self.space_group[i] for i in order], dtype=np.uint8),
            "frameworks": np.array(sorted(self.frameworks) or [b""]),
        }


def _gather(
    path: Path, splits: frozenset[str] | None, disorder: str, jobs: int, into: _Gathered, energies: bool = True
) -> None:
    chunks, total, source = _chunks(path, splits, disorder)
    heard = None if source is None else Heard(source)
    if total is not None:
        jobs = max(1, min(jobs, -(-total // CHUNK)))
    with metered(f"reading {path.name}", total) as advance:
        for rows in in_order(partial(_describe, splits=splits), chunks, Engine(jobs)):
            for row in rows:
                if isinstance(row, str):
                    into.refused[row] = into.refused.get(row, 0) + 1
                    continue
                if heard is not None:
                    heard.add(row.id, row.notes)
                into.ids.append(row.id)
                into.crystals.append(row.arrays)
                into.formulas.append(row.formula)
                into.density.append(row.density)
                into.space_group.append(row.space_group)
                into.frameworks.add(row.framework)
                if row.energy is not None and energies:
                    into.entries.add(row.id, row.composition, row.energy)
                elif row.unread and energies:
                    into.entries.leave_out("energy_no_number", f"{row.id} ({row.unread})")
            advance(len(rows))
    if heard is not None:
        heard.tell()
        for word, count in heard.counts.items():
            into.noted[word] = into.noted.get(word, 0) + count
        into.files_left_out += sum(left.count for left in getattr(source, "files_left_out", []))


@dataclass(frozen=True)
class _Described:
    id: str
    arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    formula: bytes
    density: float
    space_group: int
    framework: bytes
    composition: dict[int, float]
    energy: float | None
    unread: str
    notes: tuple[Note, ...]


def _describe(chunk: Chunk, splits: frozenset[str] | None) -> list[_Described | str]:
    """What the reference stores of each row; a word instead of those it cannot take."""
    found: list[_Described | str] = []
    for row in chunk.rows():
        if isinstance(row, Refused):
            found.append(row.reason)
        elif splits is not None and row.split is not None and row.split not in splits:
            found.append("other_split")
        else:
            found.append(_described(row))
    return found


def _described(row: Row) -> _Described | str:
    frac, cell, numbers = row.frac_coords, row.cell, row.atomic_numbers
    if not (len(numbers) and np.isfinite(frac).all() and np.isfinite(cell).all()):
        return "not_finite"
    if not (numbers.min() >= 1 and numbers.max() <= len(SYMBOLS)) or problem(frac, cell, numbers):
        return "no_crystal"
    elements, counts = np.unique(numbers, return_counts=True)
    group, label = framework(frac, cell, numbers)
    return _Described(
        id=row.id,
        arrays=(frac % 1.0, cell.astype(np.float32), numbers),
        formula=formula_text(numbers),
        density=density(cell, numbers),
        space_group=group,
        framework=label.encode(),
        composition={int(z): float(n) for z, n in zip(elements, counts, strict=True)},
        energy=row.labels.get(ENERGY_LABEL),
        unread=row.odd.get(ENERGY_LABEL, ""),
        notes=row.notes,
    )


@dataclass(frozen=True)
class _DatasetRows:
    """Some rows of a prepared data set as a chunk of rows."""

    first: int
    dataset: CrystalDataset
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Iterator[Row | Refused]:
        """The rows; see :class:`crystalsmith.data.rows.Chunk`."""
        names = [n for n in self.dataset.label_names if n == ENERGY_LABEL]
        energies = self.dataset.labels(self.index, names).get(ENERGY_LABEL)
        for k, (frac, cell, numbers) in enumerate(self.dataset.batch(self.index).crystals()):
            value = float("nan") if energies is None else float(energies[k])
            labels = {} if np.isnan(value) else {ENERGY_LABEL: value}
            name = self.dataset.ids[self.index[k]]
            text = name.decode() if isinstance(name, bytes) else str(name)
            yield Row(self.first + k, text, frac, cell, numbers, labels, None)


def _chunks(
    path: Path, splits: frozenset[str] | None, disorder: str
) -> tuple[Iterator[Chunk], int | None, Source | None]:
    """Chunks, their rows where these are known, and the source where it is no data set of ours."""
    if not _is_dataset(path):
        source = open_source(path, disorder)
        return source.chunks(CHUNK), source.num_rows, source
    dataset = CrystalDataset.open(path)
    rows = np.concatenate([dataset.rows(s) for s in sorted(splits or SPLIT_CODES)])
    starts = range(0, len(rows), CHUNK)
    return (_DatasetRows(k + 1, dataset, rows[k : k + CHUNK]) for k in starts), len(rows), None


def _is_dataset(path: Path) -> bool:
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("format") == DATASET_FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def is_entry_table(path: Path) -> bool:
    """Whether a file is a table of compositions and energies without structures."""
    if path.suffix.lower() not in (".parquet", ".pq", ".csv", ".tsv") or not path.is_file():
        return False
    from crystalsmith.data.tables import choose_columns

    names = column_names(path)
    try:
        choose_columns(names, str(path))
    except InputError:
        return find_column(names, COMPOSITION_NAMES) is not None
    return False


def _scheme(corrections: str | None, entries: Entries) -> str | None:
    if not entries.names:
        return None
    if corrections is None:
        raise InputError(
            "The input holds energies; say their correction scheme with --corrections: mp2020, or none for plain DFT."
        )
    if entries.corrected is not None and entries.corrected != (corrections != "none"):
        told = "carry corrections" if entries.corrected else "carry no corrections"
        raise InputError(
            f"The computed entries {told}, which contradicts --corrections {corrections}; give the scheme they have."
        )
    return corrections


def _elemental_energies(path: Path | None) -> dict[str, float] | None:
    if path is None:
        return None
    loaded = read_json(path, mend="give a JSON of elemental energies, {symbol: eV/atom}")
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} should map element symbols to eV/atom.")
    return parse_elements(loaded, str(path))


def _hull_arrays(entries: Entries) -> dict[str, NDArray[Any]]:
    if not entries.names:
        return {}
    # Formation energies count from the elements: these lie at zero whether or not the input lists them.
    elements = sorted({z for c in entries.compositions for z in c})
    names = [*entries.names, *(f"{ADDED_ELEMENT}{SYMBOLS[z - 1]}" for z in elements)]
    compositions = [*entries.compositions, *({z: 1.0} for z in elements)]
    return {
        "hull_offsets": np.concatenate([[0], np.cumsum([len(c) for c in compositions])]).astype(np.int64),
        "hull_elements": np.array([z for c in compositions for z in sorted(c)], dtype=np.uint8),
        "hull_amounts": np.array([c[z] for c in compositions for z in sorted(c)], dtype=np.float64),
        "hull_energies": np.array([*entries.energies, *[0.0] * len(elements)], dtype=np.float64),
        "hull_ids": np.array([n.encode() for n in names]),
    }


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"{output} exists already; choose another folder or add --overwrite.")
    try:
        ours = json.loads((output / "manifest.json").read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(f"{output} is not a reference set, so it is not overwritten; choose another folder.")


def _write(output: Path, manifest: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    # Energies that a potential was asked for belong to structures by their hash, so they hold in the new set as well.
    with replacing_folder(output, keep=lambda file: file.match("potentials/*.jsonl")) as new:
        for key, array in arrays.items():
            np.save(new / f"{key}.npy", array, allow_pickle=False)
        replace_text(new / "manifest.json", json.dumps(manifest, indent=1) + "\n")
