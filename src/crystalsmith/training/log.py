"""What a run tells: CSV rows that survive a crash, TensorBoard where asked, and one line on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.files import append_text, replace_text
from crystalsmith.progress import Face, choose_face

Row = dict[str, float | int | str | None]


class CsvLog:
    """An append-only CSV file with a ``step`` column; each row is one write, so that a crash costs at most that row.

    Args:
        path: of the file.
        columns: its header.
        last_step: rows after this step belong to work that will be done again and are dropped; so is a torn last
            line. -1 starts the file anew.
    """

    def __init__(self, path: Path, columns: Sequence[str], last_step: int = -1) -> None:
        self.path, self.columns = path, list(columns)
        kept = self._kept_lines(last_step) if last_step >= 0 and path.is_file() else []
        replace_text(path, "".join([_line(self.columns), *kept]))

    def _kept_lines(self, last_step: int) -> list[str]:
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        step = self.columns.index("step")
        kept = []
        for line in lines[1:]:
            cells = next(csv.reader([line.replace("\0", "")[:100_000]]), [])
            whole = line.endswith("\n") and len(cells) == len(self.columns)
            number = cells[step] if whole else ""
            if number.isascii() and number.isdigit() and len(number) < 19 and int(number) <= last_step:
                kept.append(line)
        return kept

    def write(self, row: Row) -> None:
        """Append a row; absent columns stay empty."""
        unknown = set(row) - set(self.columns)
        if unknown:
            raise ValueError(f"{self.path.name} has no column {sorted(unknown)}.")
        line = _line([_number(row.get(column)) for column in self.columns])
        append_text(self.path, line)


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _number(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else value


class TensorBoardLog:
    """Scalars for TensorBoard, from the same rows."""

    def __init__(self, folder: Path, last_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard needs the package tensorboard; install crystalsmith[train].") from None
        self.writer = SummaryWriter(str(folder), purge_step=last_step + 1 if last_step >= 0 else None)

    def write(self, row: Row) -> None:
        """Every number of a log row."""
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(key, value, int(row["step"] or 0))
        self.writer.flush()


class Console:
    """Where a training run stands: a live line, or a line per minute; nothing when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._face: Face | None = None

    def __enter__(self) -> Console:
        self._face = None if self.quiet else choose_face("training")
        return self

    def __exit__(self, *_: object) -> None:
        if self._face is not None:
            self._face.close()

    def update(self, progress: float, *parts: str) -> None:
        """Show the share that is done and words beside it, the dearest first."""
        if self._face is not None:
            self._face.show(progress, list(parts))

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._face is not None:
            self._face.say(text)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``42s``, ``12m05s``, ``3h07m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
