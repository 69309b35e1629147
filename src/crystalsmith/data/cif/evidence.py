"""What a data block says about its contents: formula, Z, multiplicities, hydrogens, volume."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from crystalsmith.data.cif.blocks import UNKNOWN, Block
from crystalsmith.data.cif.sites import Atoms, Sites
from crystalsmith.data.rows import Note, RowError, element
from crystalsmith.elements import SYMBOLS

ROUNDED = 0.02
"""Share by which a formula may be off the atoms of an element and still be the same, rounded."""

VOLUME_NOTED, VOLUME_REFUSED = 0.01, 0.1
"""Share by which the volume in the file may be off that of its cell before it is noted, and before it is refused."""

_PART = re.compile(r"([A-Z][a-z]?)(\d{0,6}(?:\.\d{0,6})?)")

Amounts = dict[int, float]


@dataclass(frozen=True)
class Formula:
    """What the atoms of the cell should be.

    Attributes:
        text: as the file has it.
        amounts: atomic number to atoms in one formula unit.
        units: Z; 0 where it is not said.
        missing_allowed: the file says that part of its solvent has no positions.
    """

    text: str
    amounts: Amounts
    units: float
    missing_allowed: bool


@dataclass(frozen=True)
class Verdict:
    """How a crystal stands to what its file says.

    Attributes:
        agrees: formula and Z, or multiplicities, give these very atoms.
        contradicts: why it cannot be the crystal of the file; empty where nothing speaks against it.
        mends: notes in place of ``contradicts`` where the symmetry is beyond doubt; None where that does not help.
        notes: what is off without harm.
    """

    agrees: bool
    contradicts: str = ""
    mends: Note | None = None
    notes: tuple[Note, ...] = ()


def formula_of(block: Block) -> tuple[Formula | None, tuple[Note, ...]]:
    """The formula of a block, and a note where there is one that is not understood."""
    text = block.one("_chemical_formula_sum", "_chemical_formula_iupac", "_chemical_formula_structural")
    if "_chemical_formula_sum" not in block or not text:
        return None, ()
    amounts = parse_formula(text)
    if amounts is None:
        return None, (("unknown_formula", f"the formula '{text[:60]}' is not understood"),)
    try:
        units = float(block.one("_cell_formula_units_z").split("(")[0] or 0)
    except ValueError:
        units = 0.0
    masked = any(re.search(r"squeeze|_mask", tag) for tag in block.values)
    return Formula(" ".join(text.split())[:80], amounts, units if 0 < units < 1e5 else 0.0, masked), ()


def parse_formula(text: str) -> Amounts | None:
    """``Na4 Cl4`` or ``C6H12O6`` as atomic number to amount; None where it is anything else."""
    plain = "".join(text.split()).strip("'\"")
    amounts: Amounts = {}
    place = 0
    while place < len(plain):
        match = _PART.match(plain, place)
        if match is None:
            return None
        place = match.end()
        try:
            z, amount = element(match[1]), float(match[2] or 1)
        except (RowError, ValueError):
            return None
        amounts[z] = amounts.get(z, 0.0) + amount
    return {z: n for z, n in amounts.items() if n > 0} or None


def check_volume(block: Block, volume: float) -> tuple[Note, ...]:
    """The volume in the file against that of its cell in cubic angstrom.

    Raises:
        RowError: if they are far apart.
    """
    try:
        said = float(block.one("_cell_volume").split("(")[0] or "nan")
    except ValueError:
        return ()
    if not 0 < said < 1e9:
        return ()
    off = abs(said - volume) / max(said, volume)
    sentence = f"the file gives a volume of {said:g}, its cell has {volume:.6g} cubic angstrom"
    if off > VOLUME_REFUSED:
        raise RowError("contradiction", sentence)
    return (("cell_volume", sentence),) if off > VOLUME_NOTED else ()


def check_hydrogens(block: Block, sites: Sites) -> None:
    """Hydrogens attached to atoms, but without positions.

    Raises:
        RowError: if there are more of them than hydrogen sites.
    """
    tag = "_atom_site_attached_hydrogens"
    attached = sum(int(v) for v in block.column(tag) if v not in UNKNOWN and v.isascii() and v.isdigit() and len(v) < 4)
    if attached and attached > int((sites.numbers == 1).sum()):
        raise RowError("missing_atoms", f"hydrogens without positions ({attached} in {tag})")


def judge(sites: Sites, atoms: Atoms, order: int, formula: Formula | None) -> Verdict:
    """Hold one reading of a block against its formula, Z and multiplicities.

    Args:
        sites: the listed atoms.
        atoms: their images under a group of ``order`` operations.
        order: number of symmetry operations.
        formula: what the atoms should be; None where the file does not say.
    """
    counts = dict(Counter(atoms.numbers.tolist()))
    multiplicities = _multiplicities(sites, atoms, order)
    if formula is None or sites.resolved:
        if multiplicities is False:
            at = int(np.flatnonzero((sites.multiplicities > 0) & (sites.multiplicities != atoms.orbits))[0])
            should, does = int(sites.multiplicities[at]), int(atoms.orbits[at])
            return Verdict(False, f"site {at + 1} should stand for {should} atoms and stands for {does}")
        return Verdict(multiplicities is True)
    wanted = _wanted(formula)
    if any(_equal(counts, amounts) for amounts in wanted):
        notes = (("multiplicity", "formula and atoms agree, multiplicities do not"),) if multiplicities is False else ()
        return Verdict(True, notes=notes)
    ratio = _ratio(counts, formula.amounts)
    has = _text(counts)
    if ratio is not None and not formula.units:
        if multiplicities is False:
            return Verdict(False, f"the multiplicities of its sites do not give the {has} of the cell")
        return Verdict(multiplicities is True)
    said = f"the formula {formula.text}" + (f" with Z = {formula.units:g}" if formula.units else "")
    if ratio is not None:
        mend = ("formula_units", f"Z is {formula.units:g}, the cell holds {ratio:g} formula units")
        whole = abs(ratio - round(ratio)) < 0.01 and round(ratio) >= 1
        return Verdict(
            False, f"{said} is not the {has} of the cell", mend if whole and multiplicities is not False else None
        )
    return _off(counts, formula, wanted[0], said, has)


def _off(counts: dict[int, int], formula: Formula, wanted: Amounts, said: str, has: str) -> Verdict:
    """The composition is another one: rounded, solvent without positions, or wrong."""
    if not formula.units:
        scale = max(counts.get(z, 0) / n for z, n in wanted.items())
        wanted = {z: n * scale for z, n in wanted.items()}
    missing = {z: n - counts.get(z, 0) for z, n in wanted.items() if n - counts.get(z, 0) > ROUNDED * n}
    extra = {z: n for z, n in counts.items() if n - wanted.get(z, 0.0) > ROUNDED * n}
    if not missing and not extra:
        return Verdict(True, notes=(("formula_rounded", f"{said} is nearly the {has} of the cell"),))
    if not extra and set(missing) == {1}:
        return Verdict(False, f"hydrogens without positions: {said} against the {has} of the cell")
    if not extra and formula.missing_allowed and sum(missing.values()) < sum(counts.values()):
        note = ("missing_solvent", f"{_text(missing)} of {said} have no positions; the file masks its solvent")
        return Verdict(False, f"{_text(missing)} of {said} have no positions", note)
    return Verdict(False, f"{said} against the {has} of the cell")


def _wanted(formula: Formula) -> list[Amounts]:
    """What the cell may hold: Z formula units; or the formula itself, where it is that of the cell and Z divides it."""
    if not formula.units:
        return [formula.amounts]
    each = [{z: n * formula.units for z, n in formula.amounts.items()}]
    shares = [n / formula.units for n in formula.amounts.values()]
    if formula.units > 1 and all(abs(n - round(n)) < 1e-6 for n in shares):
        each.append(dict(formula.amounts))
    return each


def _equal(counts: dict[int, int], amounts: Amounts) -> bool:
    return counts.keys() == amounts.keys() and all(abs(counts[z] - n) < 0.01 * max(n, 1) for z, n in amounts.items())


def _ratio(counts: dict[int, int], amounts: Amounts) -> float | None:
    if counts.keys() != amounts.keys():
        return None
    ratios = [counts[z] / n for z, n in amounts.items()]
    return ratios[0] if max(ratios) - min(ratios) < 1e-3 * max(ratios) else None


def _multiplicities(sites: Sites, atoms: Atoms, order: int) -> bool | None:
    """Whether the multiplicities are those of the sites; None where nothing is said (or 1 everywhere)."""
    said = sites.multiplicities
    if not said.all() or (said == 1).all():
        return None
    there = atoms.orbits > 0
    if (said == atoms.orbits)[there].all():
        return True
    # Some programs write the order of the site symmetry under this name.
    if (said * atoms.orbits == order)[there].all():
        return None
    return False


def _text(amounts: dict[int, int] | Amounts) -> str:
    return " ".join(f"{SYMBOLS[z - 1]}{n:g}" for z, n in sorted(amounts.items()))[:80]
