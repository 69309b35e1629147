"""Preparation of a data set: any input to memory-mapped arrays, with a ledger of what was dropped and why."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from crystalsmith.data.filters import Rules, prepare_chunk
from crystalsmith.data.labels import parse_label_kinds
from crystalsmith.data.readers import Source, open_source
from crystalsmith.data.rows import SPLITS, Chunk, Refused
from crystalsmith.data.writer import AboveHull, Collected, write_dataset
from crystalsmith.elements import ALLOWED, SYMBOLS
from crystalsmith.engine.run import Engine, in_order
from crystalsmith.errors import InputError
from crystalsmith.files import replace_text, replacing_folder
from crystalsmith.locks import locked
from crystalsmith.progress import metered
from crystalsmith.tables import safe_cell

CHUNK = 1000
"""Rows that a worker gets at a time: enough to vectorise over, little enough to hold many of."""

DEFAULT_FRACTIONS = (0.9, 0.05, 0.05)
LEDGER = "ledger.csv"
NOTES = "notes.csv"
LEDGER_COLUMNS = ("row", "id", "reason", "detail")
"""What is strange about crystals that were kept, row by row; there is none where nothing is."""


def prepare(
    input: Path | str,
    output: Path | str,
    *,
    max_atoms: int | None = 20,
    elements: Iterable[int] | None = ALLOWED,
    max_energy_above_hull: float | None = 0.1,
    primitive: bool = True,
    primitive_tolerance: float | None = None,
    niggli: bool = True,
    keep_splits: Iterable[str] | None = None,
    split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    drop_duplicates: bool = False,
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    name: str | None = None,
    above_hull: AboveHull | None = None,
    disorder: str = "refuse",
    labels: Iterable[str] | Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Prepare a data set for training.

    Args:
        input: Parquet, CSV, folder or zip of CIFs, extended XYZ, pymatgen JSON or ASE database.
        output: folder to make; it appears when all is done.
        max_atoms: most atoms in the cell; None for no limit.
        elements: atomic numbers that may occur (default: the 76 of the published models); None for all.
        max_energy_above_hull: eV/atom, applied where the label exists; None for no limit.
        primitive: find the primitive cell.
        primitive_tolerance: angstrom, see :func:`crystalsmith.cells.primitive_cell`.
        niggli: Niggli-reduce the cell.
        keep_splits: keep only these of train, val and test.
        split_fractions: shares of train, val and test among rows whose split the input does not say (a hash of the id
            decides, so a material has the same split in every selection).
        drop_duplicates: drop rows whose id or structure came before, instead of only counting them.
        jobs: worker processes (default: all cores); the result does not depend on it.
        engine, ray_address: see :class:`crystalsmith.engine.run.Engine`; ``jobs`` are the most actors then.
        limit: read only this many rows.
        overwrite: replace an earlier prepared data set at ``output``.
        progress: show a progress bar where there is a terminal.
        name: name of the data set (default: that of the output folder).
        above_hull: computes the label ``energy_above_hull`` from the formation energies of the input, in place of a
            column of that name; ``max_energy_above_hull`` then goes by it.
        labels: how columns are meant that are not all numbers, as ``["gap:number", "class:category"]`` (see
            ``data.labels.KINDS``).
        disorder: what becomes of partly occupied sites: ``refuse`` the row, or take the ``largest`` occupancy.

    Returns:
        The manifest.

    Raises:
        InputError: if the input cannot be read, nothing in it can be kept, or ``output`` exists.
    """
    rules = _rules(
        max_atoms, elements, max_energy_above_hull, primitive, primitive_tolerance, niggli, keep_splits, split_fractions
    )
    if jobs is not None and jobs < 1:
        raise InputError(f"The number of worker processes must be at least 1, not {jobs}.")
    if limit is not None and limit < 1:
        raise InputError(f"The limit must be at least 1 row, not {limit}.")
    where = Engine(jobs or (0 if engine == "ray" else os.cpu_count() or 1), engine, ray_address)
    target = Path(output)
    _check_output(target, overwrite)
    settings = _settings(rules, drop_duplicates, limit)
    kinds = parse_label_kinds(labels)
    settings |= {"labels": kinds} if kinds else {}
    settings |= {"disorder": disorder} if disorder != "refuse" else {}
    if above_hull is not None:
        rules = replace(rules, max_energy_above_hull=None)
        settings["energy_above_hull"] = "computed"
    source = open_source(input, disorder)
    with locked(target, "crystalsmith data prepare", beside=True), replacing_folder(target) as scratch:
        _check_output(target, overwrite)  # another process may have made it meanwhile
        collected = _collect(source, rules, scratch / LEDGER, where, limit, progress)
        with _ledger(scratch / LEDGER) as write:
            write(collected.settle_labels(kinds, rules.max_energy_above_hull))
        if above_hull is not None:
            with _ledger(scratch / LEDGER) as write:
                write(collected.label_above_hull(above_hull, max_energy_above_hull))
        if drop_duplicates:
            with _ledger(scratch / LEDGER) as write:
                write(collected.drop_duplicates())
        if not collected.kept:
            raise InputError(_nothing_kept(source, collected.dropped, scratch / LEDGER, target))
        collected.files_left_out = [asdict(one) for one in getattr(source, "files_left_out", [])]
        collected.left_out = dict(getattr(source, "left_out", {}))
        return write_dataset(collected, scratch, name or target.name, source.path, settings)


def _rules(
    max_atoms: int | None,
    elements: Iterable[int] | None,
    max_energy_above_hull: float | None,
    primitive: bool,
    primitive_tolerance: float | None,
    niggli: bool,
    keep_splits: Iterable[str] | None,
    split_fractions: tuple[float, float, float],
) -> Rules:
    allowed = None if elements is None else frozenset(int(z) for z in elements)
    if allowed is not None and not allowed:
        raise InputError("No element is allowed; name at least one, or pass None for all.")
    if max_atoms is not None and max_atoms < 1:
        raise InputError(f"The most atoms per cell must be at least 1, not {max_atoms}.")
    splits = None if keep_splits is None else frozenset(keep_splits)
    if splits is not None and not (splits and splits <= set(SPLITS)):
        raise InputError(f"Splits to keep are train, val and test, not {', '.join(sorted(splits)) or 'none'}.")
    fractions = tuple(float(f) for f in split_fractions)
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise InputError(f"Split fractions must be three shares that add up to 1, not {split_fractions}.")
    rules = Rules(max_atoms, allowed, max_energy_above_hull, primitive, niggli=niggli, keep_splits=splits)
    changes: dict[str, Any] = {"split_fractions": fractions}
    if primitive_tolerance is not None:
        if not 0 < primitive_tolerance <= 1:
            raise InputError(f"The primitive tolerance must lie between 0 and 1 angstrom, not {primitive_tolerance}.")
        changes["primitive_tolerance"] = float(primitive_tolerance)
    return Rules(**{**rules.__dict__, **changes})


def _settings(rules: Rules, drop_duplicates: bool, limit: int | None) -> dict[str, Any]:
    return {
        "max_atoms": rules.max_atoms,
        "elements": None if rules.elements is None else [SYMBOLS[z - 1] for z in sorted(rules.elements)],
        "max_energy_above_hull": rules.max_energy_above_hull,
        "primitive": rules.primitive,
        "primitive_tolerance": rules.primitive_tolerance,
        "niggli": rules.niggli,
        "symmetric": True,
        "keep_splits": None if rules.keep_splits is None else [s for s in SPLITS if s in rules.keep_splits],
        "split_fractions": list(rules.split_fractions),
        "drop_duplicates": drop_duplicates,
        "limit": limit,
    }


def _check_output(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} exists already; choose another folder or add --overwrite.")
    if not (target / "manifest.json").is_file():
        raise InputError(f"{target} is not a prepared data set, so it is not overwritten; choose another folder.")


def _collect(
    source: Source, rules: Rules, ledger: Path, engine: Engine, limit: int | None, progress: bool
) -> Collected:
    chunks = source.chunks(CHUNK) if limit is None else _limited(source, limit)
    total = source.num_rows if limit is None or source.num_rows is None else min(limit, source.num_rows)
    if total is not None:
        engine = engine.at_most(-(-total // CHUNK))
    collected = Collected()
    with _ledger(ledger, header=True) as write, metered("preparing", total, "rows", progress) as advance:
        for prepared in in_order(partial(prepare_chunk, rules=rules), chunks, engine):
            write(prepared.refused)
            if prepared.noted:
                with _ledger(ledger.with_name(NOTES), header=not collected.noted) as note:
                    note(prepared.noted)
            collected.add(prepared)
            advance(len(prepared.ids) + len(prepared.refused))
    return collected


def _limited(source: Source, limit: int) -> Iterator[Chunk]:
    size = min(CHUNK, limit)
    yield from islice(source.chunks(size), limit // size)
    if limit % size:
        # The rest of a chunk is cut off by reading in smaller ones; limits are for trying things out.
        yield from islice(source.chunks(limit % size), limit // (limit % size), limit // (limit % size) + 1)


@contextmanager
def _ledger(path: Path, header: bool = False) -> Iterator[Any]:
    """A function that appends refused rows to the ledger."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        if header:
            table.writerow(LEDGER_COLUMNS)

        def write(refused: Iterable[Refused]) -> None:
            table.writerows((r.number, safe_cell(r.id), r.reason, safe_cell(r.detail)) for r in refused)

        yield write


def _nothing_kept(source: Source, dropped: Counter[str], ledger: Path, target: Path) -> str:
    """The sentence for an input of which nothing is left; the ledger is saved beside the output."""
    if not dropped:
        return f"{source.path} holds no rows; give a file with at least one crystal."
    with ledger.open(encoding="utf-8", newline="") as file:
        rows = list(islice(csv.reader(file), 1, 2))
    saved = target.with_name(f"{target.name}.{LEDGER}")
    replace_text(saved, ledger.read_text(encoding="utf-8"))
    reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common())
    first = f"row {rows[0][0]} ({rows[0][1]}): {rows[0][3]}"
    return (
        f"None of the {sum(dropped.values())} rows of {source.path} can be kept ({reasons}; first {first}); "
        f"see {saved} and mend the rows or loosen the limits."
    )
