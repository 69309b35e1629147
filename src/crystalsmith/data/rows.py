"""One crystal on its way in: the row that readers yield, the row that was refused, and what names columns go by.

Readers only parse. Whether a crystal is kept is decided in :mod:`crystalsmith.data.filters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalsmith.data.labels import odd_text, plain_number
from crystalsmith.elements import NUMBERS
from crystalsmith.properties import PROPERTIES, canonical_name, preference

ID_NAMES = ("material_id", "id", "jid", "mat_id", "entry_id", "immutable_id", "ids", "structure_id", "name")
SPLIT_NAMES = ("mp20_split", "split")
CELL_NAMES = ("lattice", "cell", "lattice_vectors", "lattice_matrix")
FRACTIONAL_NAMES = ("frac", "frac_coords", "fractional_coordinates", "scaled_positions")
CARTESIAN_NAMES = ("cartesian_site_positions", "positions", "cart_coords")
SPECIES_NAMES = ("Z", "atomic_numbers", "numbers", "species", "species_at_sites", "atom_types")
CIF_NAMES = ("cif", "cif_string", "cif.conv")
STRUCTURE_NAMES = ("structure", "atoms", "structure_dict", "final_structure")
STRUCTURAL_NAMES = frozenset(
    ("n_atoms", "num_atoms", "nsites", "natoms", "nelements", "volume", "min_dist", "index", "elements", "formula")
    + ("pretty_formula", "cif", "structure", "lattice", "cell", "frac", "frac_coords", "z", "atomic_numbers")
)
"""Columns that describe the cell as given, which preparation may change, or that are no labels at all."""

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Codes of the splits in the prepared data."""

_SPLIT_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test", "dev": "val"}
_ISOTOPES = {"D": 1, "T": 1}
MAX_ID_LENGTH = 120
MAX_LABEL_LENGTH = 64


Note = tuple[str, str]
"""A word from a short list and a sentence: what is strange about a crystal that was read all the same."""


class RowError(Exception):
    """This one crystal cannot be used: a reason from a short list, and a detail for the person who reads the ledger."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Row:
    """One parsed crystal, unchecked.

    Attributes:
        number: position in the input, from 1.
        id: the material's name; made from the row number where the input has none.
        frac_coords: ``(n, 3)`` float64.
        cell: ``(3, 3)`` float64, rows are lattice vectors in angstrom.
        atomic_numbers: ``(n,)`` int64.
        labels: property name to value, ours where we have one, else as written; unlabelled ones are absent.
        split: ``train``, ``val``, ``test`` or None where the input does not say.
        odd: cells of label columns that are no plain numbers, as text.
        notes: what is strange about it, where it was read all the same.
    """

    number: int
    id: str
    frac_coords: NDArray[np.float64]
    cell: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    labels: dict[str, float]
    split: str | None
    odd: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Refused:
    """One line of the ledger: a row that was dropped, and why."""

    number: int
    id: str
    reason: str
    detail: str


Crystal = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""``frac_coords (n, 3)``, ``cell (3, 3)``, ``atomic_numbers (n,)``."""


class Chunk(Protocol):
    """Some consecutive rows of an input, picklable, parsed where :meth:`rows` is called (a worker process)."""

    def __len__(self) -> int: ...

    def rows(self) -> Iterator[Row | Refused]: ...


Item = TypeVar("Item")


def parse_each(
    items: Iterable[tuple[int, str, Item]], parse: Callable[[int, str, Item], Row | list[Row | Refused]]
) -> Iterator[Row | Refused]:
    """Parse items of ``(number, id, content)``, each one or several crystals; what goes wrong costs that item."""
    for number, name, content in items:
        try:
            found = parse(number, name, content)
            yield from found if isinstance(found, list) else [found]
        except RowError as error:
            yield Refused(number, name, error.reason, error.detail)
        except RecursionError:
            yield Refused(number, name, "unreadable", "nested too deeply")
        except Exception as error:
            # Parsers of foreign formats raise whatever they like on broken input; none of it may end the run.
            message = " ".join(str(error).split())[:200]
            yield Refused(number, name, "unreadable", f"{type(error).__name__}: {message}")


def crystal(frac_coords: ArrayLike, cell: ArrayLike, atomic_numbers: ArrayLike) -> Crystal:
    """The three arrays in their types and shapes.

    Raises:
        RowError: if the sizes do not fit together.
    """
    numbers = np.asarray(atomic_numbers, dtype=np.int64).reshape(-1)
    coords = np.asarray(frac_coords, dtype=np.float64).reshape(-1)
    matrix = np.asarray(cell, dtype=np.float64).reshape(-1)
    if matrix.size != 9:
        raise RowError("bad_shape", f"the lattice has {matrix.size} numbers instead of 9")
    if coords.size != 3 * numbers.size:
        raise RowError("bad_shape", f"{numbers.size} atoms but {coords.size} coordinates")
    return coords.reshape(-1, 3), matrix.reshape(3, 3), numbers


def fractional(cartesian: ArrayLike, cell: ArrayLike) -> NDArray[np.float64]:
    """Fractional coordinates ``(n, 3)`` of Cartesian ones in angstrom.

    Raises:
        RowError: if the cell has no volume.
    """
    matrix = np.asarray(cell, dtype=np.float64).reshape(3, 3)
    try:
        return np.asarray(cartesian, dtype=np.float64).reshape(-1, 3) @ np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        raise RowError("bad_cell", "the lattice vectors span no volume") from None


def element(text: str) -> int:
    """Atomic number of a symbol that may carry a charge or a label (``Fe3+``, ``O2-``, ``Fe1``); deuterium is H.

    Raises:
        RowError: if no element up to Fm is meant.
    """
    stripped = text.strip().strip("'\"")
    letters = stripped[: next((i for i, c in enumerate(stripped) if not c.isalpha()), len(stripped))].capitalize()
    number = NUMBERS.get(letters) or _ISOTOPES.get(letters)
    if number:
        return number
    raise RowError("unknown_element", f"'{text.strip()[:20]}' is not a chemical symbol up to Fm")


def split_name(value: Any) -> str | None:
    """``train``, ``val``, ``test``, or None where nothing is said.

    Raises:
        RowError: if the value is another word.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in ("", "nan", "none"):
        return None
    text = _SPLIT_ALIASES.get(text, text)
    if text not in SPLITS:
        raise RowError("unknown_split", f"split '{text[:20]}' is not train, val or test")
    return text


def row_id(value: Any, fallback: str) -> str:
    """The id as text of bounded length; the fallback where there is none."""
    text = "" if value is None else str(value).strip()
    # Control characters and lone surrogates could not be written down again.
    return "".join(c if c.isprintable() else "?" for c in (text or fallback)[:MAX_ID_LENGTH])


def is_label(name: str) -> bool:
    """Whether a further column can be a label at all (whether it holds numbers shows when it is read)."""
    lowered = name.strip().lower()
    if not lowered or lowered.startswith("unnamed") or lowered in STRUCTURAL_NAMES:
        return False
    known = PROPERTIES.get(canonical_name(name))
    return lowered not in ID_NAMES and lowered not in SPLIT_NAMES and not (known and known.kind == "elements")


def label_name(name: str) -> str:
    """The name of a label: ours where we have one, else as the user wrote it, of bounded length and printable."""
    return "".join(c if c.isprintable() else "?" for c in canonical_name(name)[:MAX_LABEL_LENGTH])


def labels_of(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Labels among further columns: plain numbers, and the cells that are none as text (see ``data.labels``).

    Of several names for the same property the preferred one counts, and a number before anything else.
    """
    numbers: dict[str, tuple[int, float]] = {}
    odd: dict[str, tuple[int, str]] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not is_label(name):
            continue
        key, rank = label_name(name), preference(name)
        number = plain_number(value)
        if number is not None:
            if key not in numbers or rank < numbers[key][0]:
                numbers[key] = (rank, number)
        elif (text := odd_text(value)) and (key not in odd or rank < odd[key][0]):
            odd[key] = (rank, text)
    plain = {key: number for key, (_, number) in numbers.items()}
    return plain, {key: text for key, (_, text) in odd.items() if key not in plain}
