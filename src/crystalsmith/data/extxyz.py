"""Extended XYZ: split into frames here, parsed by ASE in the workers."""

from __future__ import annotations

import io
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.opening import open_text
from crystalsmith.data.rows import (
    ID_NAMES,
    SPLIT_NAMES,
    Refused,
    Row,
    RowError,
    crystal,
    fractional,
    labels_of,
    parse_each,
    row_id,
    split_name,
)
from crystalsmith.errors import InputError, brief

MAX_LINE = 2**16
"""Characters in a line."""

MAX_COLUMNS = 256
"""Numbers in a line of one atom."""

PER_ATOM = frozenset(("forces", "charges", "magmoms", "energies", "stresses", "dipoles", "free_energies"))
"""Results of ASE's calculators with one value for each atom, which are no labels of a crystal."""

_PROPERTIES = re.compile(r"""properties\s*=\s*["'{]?([^\s"'}]*)""", re.IGNORECASE)
_LATTICE = re.compile(r"(?<![\w])(lattice|cell)\s*=", re.IGNORECASE)


@dataclass(frozen=True)
class Frames:
    """Some frames of an extended XYZ file as text; those with too many atoms come without it."""

    first: int
    texts: Sequence[str | int]
    origin: str

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self) -> Iterator[Row | Refused]:
        """Parse the frames; see :class:`crystalsmith.data.rows.Chunk`."""
        items = ((self.first + k, f"{self.origin}:{self.first + k}", text) for k, text in enumerate(self.texts))
        return parse_each(items, self._row)

    @staticmethod
    def _row(number: int, name: str, text: str | int) -> Row:
        from ase.io.extxyz import read_xyz

        if isinstance(text, int):
            raise RowError("too_many_atoms", f"{text} atoms in one frame (at most {MAX_SITES} are read)")
        _check(text)
        atoms = next(iter(read_xyz(io.StringIO(text), index=slice(0, 1))))
        return row_of_atoms(number, name, atoms, atoms.info | _ids_as_written(text.split("\n", 2)[1], atoms.info))


_ID = re.compile(rf'(?:^|\s)({"|".join(ID_NAMES)})=("(?:[^"\\]|\\.)*"|[^\s"]+)', re.IGNORECASE)


def _ids_as_written(comment: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The ids that ASE took for numbers or truth values (``1e5``, ``007``, ``T``), as the file has them."""
    found: dict[str, str] = {}
    for match in _ID.finditer(comment):
        key, text = match[1], match[2]
        if key in values and not isinstance(values[key], str):
            found[key] = re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
    return found


def _check(text: str) -> None:
    """Refuse what would make the parser allocate or search without bound, and molecules.

    Raises:
        RowError: with the reason.
    """
    lines = text.split("\n")
    if max(map(len, lines)) > MAX_LINE:
        raise RowError("unreadable", f"a line is longer than {MAX_LINE} characters")
    if not int(lines[0]):
        raise RowError("no_atoms", "the frame has no atoms")
    found = _PROPERTIES.search(lines[1])
    widths = found[1].split(":")[2::3] if found else []
    if any(not (w.isascii() and w.isdigit() and 0 < len(w) < 4) for w in widths) or sum(map(int, widths)) > MAX_COLUMNS:
        raise RowError(
            "unreadable", f"Properties={found[1][:40] if found else ''} announces other columns than can be read"
        )
    if not _LATTICE.search(lines[1]):
        raise RowError("bad_cell", "the frame has no Lattice, so it is a molecule and no crystal")


def row_of_atoms(number: int, name: str, atoms: Any, values: Mapping[str, Any]) -> Row:
    """The row of an ``ase.Atoms`` and what stands beside it."""
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    coords = fractional(atoms.positions, cell)
    lowered = {str(k).lower(): v for k, v in values.items()}
    found = next((lowered[k] for k in ID_NAMES if lowered.get(k) not in (None, "")), None)
    split = next((split_name(lowered[k]) for k in SPLIT_NAMES if k in lowered), None)
    # ASE takes some keys of a file (energy, magmom, dipole, stress) for results of a calculator.
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    labels, odd = labels_of({k: v for k, v in results.items() if k not in PER_ATOM} | dict(values))
    return Row(number, row_id(found, name), *crystal(coords, cell, atoms.numbers), labels, split, odd)


class ExtxyzSource:
    """An extended XYZ file, also compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows: int | None = None
        with open_text(path) as file:
            head = file.read(4096)
        if not _is_count(head.split("\n", 1)[0]):
            what = "is empty" if not head.strip() else "does not begin with a number of atoms"
            raise InputError(f"{path} {what}; give an extended XYZ file with a Lattice in each comment line.")

    def chunks(self, size: int) -> Iterator[Frames]:
        """``size`` frames at a time.

        Raises:
            InputError: where a frame does not begin with its number of atoms, as after a broken one.
        """
        first, held = 1, list[str | int]()
        try:
            with open_text(self.path) as file:
                for frame in self._frames(file):
                    held.append(frame)
                    if len(held) == size:
                        yield Frames(first, held, self.path.stem)
                        first, held = first + size, []
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise InputError(f"{self.path} is damaged ({brief(error)}); write or download it anew.") from error
        if held:
            yield Frames(first, held, self.path.stem)

    def _frames(self, file: TextIO) -> Iterator[str | int]:
        line_number = 0
        # A line is never read further than its longest allowed length; a longer one ends in refusal.
        while line := file.readline(MAX_LINE):
            line_number += 1
            if not line.strip():
                continue
            if not _is_count(line):
                raise InputError(
                    f"{self.path} line {line_number} should be a number of atoms but is '{line.strip()[:40]}'; "
                    "mend or cut the file there."
                )
            atoms = int(line)
            line_number += atoms + 1
            lines = iter(lambda: file.readline(MAX_LINE + 1), "")
            if atoms > MAX_SITES:
                if sum(1 for _ in islice(lines, atoms + 1)) <= atoms:
                    raise InputError(f"{self.path} ends before the {atoms} atoms announced in its last frame.")
                yield atoms
            else:
                yield line + "".join(islice(lines, atoms + 1))


def _is_count(line: str) -> bool:
    text = line.strip()
    return text.isascii() and text.isdigit() and len(text) < 12
