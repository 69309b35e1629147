"""A table as Python holds it: a list of rows, which a notebook shows and pandas takes."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]

SHOWN = 50
"""Rows that a notebook shows."""


_FORMULA = ("=", "+", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A cell as spreadsheets may have it: text that they would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def plain_cell(text: str) -> str:
    """The text that :func:`safe_cell` kept safe."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


class Table(list[Row]):
    """Rows as dictionaries, all with the same keys; None where nothing is known."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(dict(row) for row in rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self[0]) if self else []

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises:
            KeyError: if there is none of that name.
        """
        return [row[name] for row in self]

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame of the same rows.

        Raises:
            ImportError: if pandas is not installed (it comes with pymatgen).
        """
        import pandas

        return pandas.DataFrame(list(self), columns=self.columns)

    @staticmethod
    def read(path: str | Path) -> Table:
        """The rows of a CSV file that this package wrote: numbers, truth values and None instead of text."""
        with Path(path).open(encoding="utf-8", newline="") as file:
            return Table({name: _value(text) for name, text in row.items()} for row in csv.DictReader(file))

    def _repr_html_(self) -> str:
        return html_table([(row, "") for row in self])


@dataclass(frozen=True, repr=False)
class View:
    """Something that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def html_table(rows: list[tuple[Mapping[str, Any], str]]) -> str:
    """Rows as an HTML table, each after a cell of ready HTML (a picture; none of them shows if all are empty).

    Columns without any value are left out.
    """
    shown = rows[:SHOWN]
    names = [
        name for name in (shown[0][0] if shown else ()) if any(row.get(name) not in (None, "") for row, _ in shown)
    ]
    pictures = any(picture for _, picture in shown)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for row, picture in shown:
        cells = "".join(f"<td>{html.escape(_text(row.get(name)))}</td>" for name in names)
        lines.append(f"<tr>{f'<td>{picture}</td>' if pictures else ''}{cells}</tr>")
    more = f"<p>{len(rows) - SHOWN:,} more rows</p>" if len(rows) > SHOWN else ""
    return f"<table><tr>{'<th></th>' if pictures else ''}{head}</tr>{''.join(lines)}</table>{more}"


def _value(text: str | None) -> Any:
    if not text:
        return None
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
