"""The folder that a run writes: always valid, extended batch by batch, able to go on after any interruption.

Every file is replaced as a whole through a temporary name; only ``crystals.extxyz`` and ``crystals.csv``, once they are
larger than :data:`WHOLE`, grow at their end, so that a batch costs the same in a run of a million crystals as in one of
a hundred. A batch is written in the order CIF files, trajectories, ``crystals.extxyz``, ``crystals.csv``,
``manifest.json``; what a killed run left beyond the last batch that all of them agree on is cut off when the run
resumes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.files import append_text, make_folder, replace_text, replacing
from crystalsmith.formats import complete_frames
from crystalsmith.generation.describe import COLUMNS, GEOMETRIES, Description
from crystalsmith.locks import is_empty
from crystalsmith.schema import (
    Either,
    Flag,
    Items,
    Map,
    Number,
    Record,
    Text,
    Tuple,
    check,
    interpreting,
    read_json,
    whole,
)
from crystalsmith.tables import safe_cell
from crystalsmith.versions import Update, up_to_date

FORMAT = "crystalsmith-generation-1"
UPDATES: tuple[Update, ...] = ()
"""From each earlier version to the next."""

MEND = "choose a new folder"

BATCH = (whole(0, 2**32), whole(0, 2**32), Number(0, 1e15))
"""Start, stop and seconds of a batch."""

MANIFEST = Record(
    {
        "status": Text(40),
        "model": Record({"name": Text(), "source": Text(), "weights_sha256": Text(128)}),
        "settings": Record({"num": whole(1, 2**32), "batch_size": whole(1, 2**20), "trajectories": Flag()}),
        "batches": Items(Either((Tuple(BATCH), Tuple((*BATCH, whole(1, 2**32)))))),
        "counts": Map(whole()),
    },
    {
        "columns": Items(Text(200), most=10_000),
        "sessions": Items(Record()),
        "failed": Items(Record()),
        "span": Items(whole(0, 2**32), 2, 2),
        "lineage": Text(64),
        "command": Text(2**20),
        "created": Text(64),
        "merged": whole(1, 2**32),
    },
)
"""What ``manifest.json`` must hold to go on with a run; its settings are read by ``generation.request``."""

WHOLE = 4_000_000
"""Bytes up to which a growing file is replaced as a whole for each batch."""

NAMED = 1000
"""Batches, and failed crystals, that the manifest lists one by one; of more, the first batches are told as one."""


class OutputFolder:
    """The files of one run.

    Attributes:
        path: the folder.
        manifest: what ``manifest.json`` holds; ``span`` there are the crystals of a shard, first and after the last.
        columns: of the table.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.columns = self._columns()

    @property
    def table(self) -> Path:
        """``crystals.csv``."""
        return self.path / "crystals.csv"

    @property
    def geometries(self) -> Path:
        """``crystals.extxyz``."""
        return self.path / GEOMETRIES

    @property
    def first(self) -> int:
        """Index of its first crystal."""
        return int(self.manifest["span"][0]) if "span" in self.manifest else 0

    @property
    def finished(self) -> int:
        """Index after the last crystal that is on disk (or has failed for good)."""
        batches = self.manifest["batches"]
        return int(batches[-1][1]) if batches else self.first

    @staticmethod
    def create(path: Path, manifest: dict[str, Any]) -> OutputFolder:
        """A new folder with empty results.

        Raises:
            InputError: if something is there already or the folder cannot be made.
        """
        refuse_occupied(path)
        head = {"format": FORMAT, "status": "running", "created": now()}
        folder = OutputFolder(path, head | manifest | {"batches": [], "failed": [], "counts": {}})
        make_folder(path)
        folder.update(status="running")
        make_folder(path / "cif")
        replace_text(folder.geometries, "")
        replace_text(folder.table, _csv([folder.columns]))
        return folder

    @staticmethod
    def open(path: Path) -> OutputFolder:
        """The folder of an earlier run, as it was left.

        Raises:
            InputError: if there is none or its manifest cannot be read.
        """
        place = path / "manifest.json"
        if not place.exists():
            raise InputError(f"{path} holds no run to resume (no manifest.json); choose a new folder.")
        manifest = up_to_date(read_json(place, mend=MEND), FORMAT.rpartition("-")[0], UPDATES)
        if manifest is None:
            raise InputError(f"{place} was not written by this version of crystalsmith; choose a new folder.")
        return OutputFolder(path, check(manifest, MANIFEST, str(place), MEND))

    def recover(self) -> int:
        """Cut the files back to the last batch that all of them hold in full, and return :attr:`finished`."""
        (self.path / "cif").mkdir(exist_ok=True)
        with interpreting(str(self.table), MEND):
            rows = _intact_rows(self.table, self.columns, self.first)
        text = _read(self.geometries)
        frames = list(complete_frames(text))
        batches = self.manifest["batches"]
        while batches and not self._holds(batches[-1][1], rows, frames):
            _forget_last(batches, self.first + len(rows))
        kept = rows[: self.finished - self.first]
        written = sum(1 for row in kept if row["file"])
        end = frames[written - 1][1] if written else 0
        if text[end:] or not self.geometries.exists():
            replace_text(self.geometries, text[:end])
        table = _csv([self.columns, *(row.values() for row in kept)])
        if table != _read(self.table):
            replace_text(self.table, table)
        failed = [{"id": row["id"], "reason": row["note"]} for row in kept if not row["file"]]
        valid = sum(1 for row in kept if row["valid"] == "True")
        self.manifest |= {
            "failed": failed[:NAMED],
            "counts": _counts(finished=len(kept), valid=valid, failed=len(failed)),
        }
        self.update(status="running")
        return self.finished

    def holds(self, stop: int) -> bool:
        """Whether every file of the crystals up to ``stop``, the last of them, is there in full and no more."""
        rows, text = _intact_rows(self.table, self.columns, self.first), _read(self.geometries)
        frames = list(complete_frames(text))
        ends = not frames or frames[-1][1] == len(text)
        return self.finished == stop == self.first + len(rows) and ends and self._holds(stop, rows, frames)

    def commit(
        self, stop: int, described: Sequence[Description], seconds: float, films: Sequence[str] | None = None
    ) -> None:
        """Put a finished batch on disk.

        Args:
            stop: index after the last crystal of the batch.
            described: one per crystal of the batch.
            seconds: what sampling it took.
            films: one extended XYZ trajectory per crystal, empty where there is none.
        """
        start = self.finished
        for item in described:
            if item.cif:
                replace_text(self.path / item.row["file"], item.cif, durable=False)
        if films is not None:
            (self.path / "trajectories").mkdir(exist_ok=True)
            for item, film in zip(described, films, strict=True):
                if not film:
                    continue
                replace_text(self.path / trajectory_name(item.row["id"]), film, durable=False)
        _extend(self.geometries, "".join(item.frame for item in described if item.frame is not None))
        _extend(self.table, _csv([[item.row[c] for c in self.columns] for item in described]))
        add_batch(self.manifest["batches"], [start, stop, round(seconds, 3)])
        failed = [{"id": item.row["id"], "reason": item.row["note"]} for item in described if item.frame is None]
        counts = self.manifest["counts"]
        self.manifest["failed"] = [*self.manifest["failed"], *failed][:NAMED]
        self.manifest["counts"] = _counts(
            finished=stop - self.first,
            valid=counts.get("valid", 0) + sum(1 for item in described if item.row["valid"]),
            failed=counts.get("failed", 0) + len(failed),
        )
        self.update(status="running")

    def _columns(self) -> tuple[str, ...]:
        """Columns of the table: those of every run, then what was asked of each crystal in this one.

        A run that an earlier version began keeps the columns it began with.
        """
        now = (*COLUMNS, *self.manifest.get("columns", ()))
        try:
            with self.table.open(encoding="utf-8", errors="replace") as file:
                begun = tuple(file.readline().rstrip("\n").split(","))
        except FileNotFoundError:
            return now
        return begun if {"id", "index", "file"} <= set(begun) < set(now) else now

    def update(self, **values: Any) -> None:
        """Change keys of the manifest and write it."""
        self.manifest |= values | {"updated": now()}
        replace_text(self.path / "manifest.json", json.dumps(self.manifest, indent=1) + "\n")

    def _holds(self, stop: int, rows: list[dict[str, str]], frames: list[tuple[str, int]]) -> bool:
        """Whether every file of the crystals up to ``stop`` is there."""
        held = stop - self.first
        written = [row for row in rows[:held] if row["file"]]
        if len(rows) < held or len(frames) < len(written):
            return False
        named = all(f"id={row['id']} " in frame[0] for row, frame in zip(written, frames, strict=False))
        paths = [row["file"] for row in written]
        if self.manifest["settings"].get("trajectories"):
            paths += [trajectory_name(row["id"]) for row in written]
        return named and all(_is_filled(self.path / name) for name in paths)


def trajectory_name(crystal: str) -> str:
    """Where the trajectory of a crystal stands, relative to the folder."""
    return f"trajectories/{crystal}.extxyz"


def is_occupied(path: Path) -> bool:
    """Whether a folder holds anything, apart from a file that a killed run had not finished."""
    return path.is_dir() and not is_empty(path)


def refuse_occupied(path: Path) -> None:
    """Make sure that a new run may write here.

    Raises:
        InputError: if the path is a file or a folder that holds something.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder that does not exist yet.")
    if is_occupied(path):
        raise InputError(f"The folder {path} is not empty; choose another, or go on with its run by --resume.")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _extend(path: Path, text: str) -> None:
    """Add to the end of a file: a small one is replaced, so that a reader never sees half; a large one grows."""
    if not text:
        return
    if path.stat().st_size > WHOLE:
        append_text(path, text, durable=True)
        return
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        append_text(temporary, text)


def add_batch(batches: list[list[Any]], batch: list[Any]) -> None:
    """Note a batch; of more than :data:`NAMED`, the first become one entry: start, stop, seconds, size of a batch."""
    batches.append(batch)
    if len(batches) > NAMED:
        first, second = batches[0], batches[1]
        size = first[3] if len(first) > 3 else first[1] - first[0]
        # Where memory ran out the size changed; the smaller one divides both, for batches are halved.
        size = math.gcd(size, second[1] - second[0])
        batches[:2] = [[first[0], second[1], round(first[2] + second[2], 3), size]]


def _forget_last(batches: list[list[Any]], written: int) -> None:
    """Take back the last batch; of batches told as one, those beyond the crystals ``written``, one at least."""
    *_, last = batches
    if len(last) > 3:
        back = last[3] * max(1, -((written - last[1]) // last[3]))
        if last[1] - back > last[0]:
            share = back / (last[1] - last[0])
            batches[-1] = [last[0], last[1] - back, round(last[2] * (1 - share), 3), last[3]]
            return
    batches.pop()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _intact_rows(path: Path, columns: Sequence[str], first: int) -> list[dict[str, str]]:
    """The rows at the head of the table that are whole and in order."""
    text = _read(path)
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    rows: list[dict[str, str]] = []
    if not lines or tuple(lines[0]) != tuple(columns):
        return rows
    for index, line in enumerate(lines[1:], start=first):
        row = dict(zip(columns, line, strict=False))
        if len(line) != len(columns) or row["index"] != str(index):
            break
        rows.append(row)
    return rows


def _csv(rows: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([safe_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _counts(finished: int, valid: int, failed: int) -> dict[str, int]:
    return {"finished": finished, "written": finished - failed, "valid": valid, "failed": failed}


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
