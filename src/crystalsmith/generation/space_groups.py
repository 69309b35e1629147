"""What a request says about symmetry: space groups, and where their Wyckoff templates come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.checkpoints.arrangements import FILE as LEARNED
from crystalsmith.checkpoints.arrangements import Arrangements, load_arrangements
from crystalsmith.checkpoints.find import bundled_models
from crystalsmith.data.sites import TEMPLATES
from crystalsmith.elements import symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.start import read_crystals, reduced
from crystalsmith.symmetry.wyckoff import (
    TABLES,
    Arranged,
    Template,
    Templates,
    bundled_templates,
    count_templates,
    read_templates,
    template_of,
)

CRYSTAL_SYSTEMS = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}
"""First and last space group of each crystal system."""

FREE = "free"
"""Asks for no space group, where a model's own choice is another."""


@dataclass(frozen=True)
class SpaceGroups:
    """The space groups that the crystals of a request may have.

    Attributes:
        numbers: 1 to 230, or empty for any.
        file: of the templates, the folder that ``train --task arrangements`` wrote, or a bundled model that brings
            them; empty for those of MP-20.
        elements: of a crystal whose template is taken, an element and the one that stands in its place.
        disorder: what becomes of its partly occupied sites (:func:`crystalsmith.data.readers.open_source`).
    """

    numbers: tuple[int, ...] = ()
    file: str = ""
    elements: tuple[tuple[int, int], ...] = ()
    disorder: str = "refuse"

    @property
    def templates(self) -> Templates:
        """What the arrangements are drawn from."""
        return _templates(self.file, self.disorder)

    @property
    def learned(self) -> Arrangements | None:
        """How compositions choose among them, where that was learned."""
        return _learned(self.file)

    @property
    def of_crystals(self) -> bool:
        """Whether the templates are those of crystals that the user named, beside which no other will do."""
        path = _place(self.file)
        return bool(self.file) and path.is_file() and path.suffix != ".json"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SpaceGroups:
        """The space groups that ``dataclasses.asdict`` and JSON made plain."""
        instead = tuple((int(old), int(new)) for old, new in values.get("elements", ()))
        disorder = str(values.get("disorder", "refuse"))
        return SpaceGroups(tuple(int(n) for n in values["numbers"]), str(values["file"]), instead, disorder)

    def held(self, template: Template) -> tuple[int, ...]:
        """The element that each orbit of a template keeps, 0 where it is open; empty where all are."""
        if not self.elements:
            return ()
        instead, own = dict(self.elements), _elements_of(self.file, self.disorder)[template]
        return tuple(instead.get(own[ord(name) - ord("A")], 0) for name in template.pattern)


def make_space_groups(
    asked: str | int | Sequence[int] | None,
    file: str | None,
    elements: tuple[tuple[int, int], ...] = (),
    disorder: str = "refuse",
) -> SpaceGroups | None:
    """Checked space groups, or None where nothing is asked.

    Args:
        asked: numbers, symbols and ranges such as ``"225"``, ``"Fm-3m"``, ``"195-230"`` or ``"62,225"``, crystal
            systems, ``any``, or ``free`` for none.
        file: of templates, a folder of ``train --task arrangements``, a bundled model that brings them, or a crystal
            (CIF, POSCAR, XYZ; several) whose own template is taken; None for those of MP-20.
        elements, disorder: see :class:`SpaceGroups`; they need such a crystal.

    Raises:
        InputError: if it is none of these, or no known crystal has such a space group.
    """
    if asked == FREE and file is not None:
        raise InputError("--templates keeps crystals symmetric and --space-group free does not; leave one of them out.")
    if asked == FREE or (asked is None and file is None):
        return None
    asked = "any" if asked is None else asked
    parts = [str(asked)] if isinstance(asked, int) else asked.split(",") if isinstance(asked, str) else map(str, asked)
    numbers: set[int] = set()
    for part in parts:
        numbers |= _numbers(part.strip().lower())
    file = "" if file is None else str(file)
    groups = SpaceGroups(tuple(sorted(numbers)) if len(numbers) < 230 else (), file, elements, disorder)
    known = sorted({t.number for t in groups.templates.counts})
    if groups.numbers and not set(groups.numbers) & set(known):
        raise InputError(
            f"There is no template of the space group {asked}, only of {len(known)} others ({_ranges(known)}). "
            "Choose among these, or give --templates made from your data."
        )
    return groups


def _numbers(text: str) -> set[int]:
    if text == "any":
        return set(range(1, 231))
    low, dash, high = (part.strip() for part in text.partition("-"))
    if text in CRYSTAL_SYSTEMS:
        first, last = CRYSTAL_SYSTEMS[text]
    elif low.isdigit() and (not dash or high.isdigit()):
        first, last = int(low), int(high if dash else low)
    elif number := group_symbols().get(_bare(text)):
        first = last = number
    else:
        raise InputError(
            f"--space-group {text!r} is not a space group; write a number (225), a symbol (Fm-3m), a range "
            "(195-230), a crystal system "
            f"({', '.join(CRYSTAL_SYSTEMS)}), any or free."
        )
    if not 1 <= first <= last <= 230:
        raise InputError(f"--space-group {text} lies outside 1 to 230; write for example 225 or 195-230.")
    return set(range(first, last + 1))


@lru_cache(maxsize=1)
def group_symbols() -> dict[str, int]:
    """Number by Hermann-Mauguin symbol, short and full, of the standard settings."""
    from moyopy import SpaceGroupType

    types = [SpaceGroupType(number) for number in range(1, 231)]
    return {_bare(symbol): one.number for one in types for symbol in (one.hm_full, one.hm_short)}


def _bare(symbol: str) -> str:
    """A symbol without what people write differently: spaces, underscores of screw axes, capitals."""
    return symbol.replace(" ", "").replace("_", "").lower()


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: ``1-5, 8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


@lru_cache(maxsize=8)
def _templates(file: str, disorder: str = "refuse") -> Templates:
    if not file:
        return bundled_templates()
    path = _place(file)
    if path.is_dir():
        return read_templates(path / TEMPLATES)
    return read_templates(path) if path.suffix == ".json" else _templates_of(path, disorder)


def check_template_elements(elements: tuple[tuple[int, int], ...], file: str | None, disorder: str = "refuse") -> None:
    """Make sure that the crystals of a file of templates have the elements whose places are named.

    Raises:
        InputError: if they do not, or there is no such crystal.
    """
    if not elements:
        return
    if file is None or not Path(file).is_file() or Path(file).suffix == ".json":
        raise InputError(
            "--template-elements says what stands in place of the elements of a crystal; give that crystal as "
            "--templates FILE (CIF, POSCAR, XYZ)."
        )
    for own in _elements_of(file, disorder).values():
        for old, _ in elements:
            if old not in own:
                held = ", ".join(symbol(z) for z in own)
                raise InputError(f"--template-elements {symbol(old)}: the crystal of {file} holds {held}; name these.")


@lru_cache(maxsize=8)
def _elements_of(file: str, disorder: str) -> dict[Template, tuple[int, ...]]:
    """The elements A, B, ... of the pattern of each template in a file of crystals, those of the first that has it."""
    found: dict[Template, tuple[int, ...]] = {}
    for one in _arranged(Path(file), disorder):
        found.setdefault(one.template, one.elements)
    return found


@lru_cache(maxsize=8)
def _learned(file: str) -> Arrangements | None:
    """Of a file of templates that beside it; of a crystal that of the package."""
    path = _place(file)
    if not file or SpaceGroups(file=file).of_crystals:
        return load_arrangements(TABLES / LEARNED)
    beside = (path if path.is_dir() else path.parent) / LEARNED
    return load_arrangements(beside) if beside.is_file() else None


def _place(file: str) -> Path:
    """Of templates: those that a bundled model brings go by its name."""
    brought = models_with_templates().get(file)
    return Path(file) if brought is None else brought


def models_with_templates() -> dict[str, Path]:
    """The bundled models that bring templates and what chooses among them, and the folders where these lie."""
    return {name: folder for name, folder in bundled_models().items() if (folder / TEMPLATES).is_file()}


def _templates_of(path: Path, disorder: str) -> Templates:
    """The templates of the crystals in a file."""
    return count_templates(_arranged(path, disorder), str(path))


def _arranged(path: Path, disorder: str) -> list[Arranged]:
    """The symmetry of each crystal in a file, reduced as training data are."""
    found = []
    for place, crystal in enumerate(read_crystals(path, disorder, elements_matter=False), start=1):
        frac, cell, numbers = reduced(crystal)
        one = template_of(np.array(frac), np.array(cell), np.array(numbers, dtype=np.int64))
        if one is None:
            raise InputError(f"{path}: no symmetry that holds together was found in crystal {place}.")
        found.append(one)
    return found
