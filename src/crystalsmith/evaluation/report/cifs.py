"""The relaxed crystals as CIF files, with the symmetry that they have after relaxing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from crystalsmith.evaluation.facts import LOOSE, TIGHT
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.files import replace_text
from crystalsmith.formats import cif_text, symmetric_cif_text
from crystalsmith.symmetry.groups import symmetrise

FOLDER = "relaxed"


def write_cifs(
    out: Path, crystals: Sequence[Judged], relaxed: Callable[[Judged], Arrays | None], potential: str
) -> None:
    """Write ``relaxed/ID.cif`` for each relaxed crystal, in place of what an earlier run has left.

    Atoms are moved onto the symmetric places found within 0.1 angstrom, or within 0.01 where no exact cell comes of
    that; a crystal without symmetry stays as it is. The file says so, and which potential relaxed it.

    Raises:
        InputError: if the disk does not take them.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    names: set[str] = set()
    for crystal in crystals:
        arrays = relaxed(crystal)
        if arrays is None:
            continue
        name = file_name(crystal.sample.id, names)
        replace_text(folder / f"{name}.cif", relaxed_cif(name, arrays, potential))
    for leftover in folder.glob("*.cif"):
        if leftover.stem.lower() not in names:
            leftover.unlink()


def relaxed_cif(name: str, arrays: Arrays, potential: str) -> str:
    """The text of one file."""
    method = f"relaxed by {potential}"
    for tolerance in (LOOSE, TIGHT):
        found = symmetrise(*arrays, tolerance)
        if found is not None:
            return symmetric_cif_text(name, found, f"{method}, symmetry within {tolerance:g} angstrom")
    return cif_text(name, *arrays, method)


def file_name(name: str, taken: set[str]) -> str:
    """The name of a crystal as that of a file on every system; numbered where another has it.

    Args:
        taken: names in lower case, which some systems do not tell from capitals; the new one is added.
    """
    plain = re.sub(r"[^\w.+-]", "_", name).strip(".") or "crystal"
    number, found = 1, plain
    while found.lower() in taken:
        number += 1
        found = f"{plain}-{number}"
    taken.add(found.lower())
    return found
