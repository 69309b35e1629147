"""The folder of a run: its wish, and the ledger that every other file follows from.

``ledger.jsonl`` gains a line whenever something is known of a candidate, so a run that is killed loses what was in
flight and nothing else. ``manifest.json`` holds the wish, the limits and the sessions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crystalsmith.discovery.candidate import LEARNED, STAGES, State
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.errors import InputError
from crystalsmith.evaluation.report.results import finite
from crystalsmith.files import append_line, read_lines, replace_text
from crystalsmith.schema import (
    Anything,
    Items,
    Map,
    Number,
    Record,
    Text,
    fields_of,
    interpreting,
    parse_lines,
    read_json,
    whole,
)

FORMAT = "crystalsmith-discovery-1"
LEDGER = "ledger.jsonl"
MANIFEST = "manifest.json"
MEND = "restore it or begin anew in another folder"

_MANIFEST = Record(
    {
        "format": Text(200),
        "wish": Record({}, fields_of(Wish)),
        "limits": Record({}, fields_of(Limits)),
        "model": Record({"source": Text()}),
    },
    {"status": Text(200), "sessions": Items(Record())},
)

_CRYSTAL = Record(
    {
        "frac": Items(Items(Number(-1e6, 1e6), 3, 3), 0, 10_000),
        "cell": Items(Items(Number(-1e6, 1e6), 3, 3), 3, 3),
        "numbers": Items(whole(1, 118), 0, 10_000),
    },
    none=True,
)
_LINE = Record(
    {"stage": Text(choices=(*STAGES, "choice", LEARNED))},
    {
        **{"at": Number(0, 1e12), "seconds": Number(0, 1e12), "number": whole(), "round": whole()},
        **{"plan": Record(), "dropped": Text(), "detail": Text(), "values": Map(Anything()), "crystal": _CRYSTAL},
        **{"numbers": Items(whole()), "chances": Map(Number(0, 1e12, none=True))},
    },
)
"""One line of the ledger."""


class Folder:
    """The folder of one run.

    Attributes:
        path: where it is.
        manifest: what ``manifest.json`` holds.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    @staticmethod
    def create(path: Path, wish: Wish, limits: Limits, facts: Mapping[str, Any]) -> Folder:
        """A new folder.

        Raises:
            InputError: if something is there already, or the folder cannot be made.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder that does not exist yet.")
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"The folder {path} is not empty; choose another, or go on with its run by --resume.")
        folder = Folder(path, {"format": FORMAT, "wish": wish.to_dict(), "limits": limits.to_dict(), **facts})
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder {path} cannot be made ({error.strerror}); choose another place.") from None
        folder.update(status="running", sessions=[])
        return folder

    @staticmethod
    def open(path: Path) -> Folder:
        """The folder of an earlier run.

        Raises:
            InputError: if there is none, or its manifest cannot be read.
        """
        place = path / MANIFEST
        if not place.is_file():
            raise InputError(f"{path} holds no run of crystalsmith discover (no {MANIFEST}); name its folder.")
        manifest = read_json(place, _MANIFEST, MEND)
        if manifest["format"] != FORMAT:
            raise InputError(f"{place} was not written by this version of crystalsmith discover; begin anew.")
        return Folder(path, manifest)

    def discard(self) -> None:
        """Undo :meth:`create`, where nothing else was written."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @property
    def wish(self) -> Wish:
        """What the run is asked for."""
        return Wish.from_dict(self.manifest["wish"])

    @property
    def limits(self) -> Limits:
        """When it ends."""
        return Limits.from_dict(self.manifest["limits"])

    def update(self, **values: Any) -> None:
        """Change keys of the manifest and write it."""
        self.manifest |= values
        replace_text(self.path / MANIFEST, json.dumps(self.manifest, indent=1) + "\n")

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Put a line on disk, and return it as it would be read back."""
        plain: dict[str, Any] = finite(line)
        append_line(self.path / LEDGER, plain)
        return plain

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines on disk; a last one that was cut short is dropped.

        Raises:
            InputError: if a line in the middle is damaged.
        """
        file = self.path / LEDGER
        if file.exists():
            yield from parse_lines(read_lines(file), str(file), _LINE, MEND)

    def state(self) -> State:
        """What the run has found out so far.

        Raises:
            InputError: if the ledger is damaged.
        """
        with interpreting(str(self.path / LEDGER), MEND):
            return State.of(self.lines())
