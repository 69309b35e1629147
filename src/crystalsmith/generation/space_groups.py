"""What a request says about symmetry: space groups, each crystal's Wyckoff template, who stands on its orbits."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalsmith.cells import niggli_reduce, primitive_cell, right_handed
from crystalsmith.checkpoints.arrangements import FILE as LEARNED
from crystalsmith.checkpoints.arrangements import Arrangements, Choice, load_arrangements
from crystalsmith.data.sites import TEMPLATES
from crystalsmith.diffusion.noise import crystal_uniform
from crystalsmith.diffusion.orbit_counts import Counts, Ways, less
from crystalsmith.errors import InputError
from crystalsmith.generation.start import read_crystals
from crystalsmith.symmetry.wyckoff import (
    TABLES,
    Sites,
    Template,
    Templates,
    bundled_templates,
    count_templates,
    read_templates,
    template_of,
    totals,
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

LIKELY = 0.99
"""Probability of the arrangements that a composition takes in turn."""

FIELD_TEMPLATE, FIELD_ELEMENTS = 1024, 1025
"""Fields of a crystal's random stream: its template; which elements stand on which orbits."""


@dataclass(frozen=True)
class Arrangement:
    """The symmetry of one crystal before it is made.

    Attributes:
        template: its orbits.
        sites: where their atoms may stand.
        sizes: atoms of each orbit.
        counts: the composition where it is given, or empty.
        uniform: the number that decides which way it falls on the orbits, where nothing else does.
        elements: atomic number of each orbit, where the choice of the template included it, or empty.
    """

    template: Template
    sites: Sites
    sizes: tuple[int, ...]
    counts: Counts = ()
    uniform: float = 0.0
    elements: tuple[int, ...] = ()

    def numbers(self) -> list[int]:
        """The element of each atom for a model that is given them.

        As was learned from known crystals; else as in those of this template, elements of equal counts in any order;
        where none has these counts, each way to place them is equally likely.
        """
        if self.elements:
            elements = self.elements
        elif follows(self.template, self.sizes, self.counts):
            elements = as_known(self.template.pattern, self.counts, self.uniform)
        else:
            elements = assign(self.sizes, self.counts, self.uniform)
        return [z for z, size in zip(elements, self.sizes, strict=True) for _ in range(size)]


@dataclass(frozen=True)
class SpaceGroups:
    """The space groups that the crystals of a request may have.

    Attributes:
        numbers: 1 to 230, or empty for any.
        file: of the templates, or the folder that ``train --task arrangements`` wrote; empty for those of the package.
    """

    numbers: tuple[int, ...] = ()
    file: str = ""

    @property
    def templates(self) -> Templates:
        """What the arrangements are drawn from."""
        return _templates(self.file)

    @property
    def learned(self) -> Arrangements | None:
        """How compositions choose among them, where that was learned."""
        return _learned(self.file)

    def weights(self, sizes: Mapping[int, float] | None, orbits: int, counts: Counts) -> dict[Template, float]:
        """Templates that fit, with their weights: how many known crystals have them.

        Args:
            sizes: number of atoms to weight, or None for any number.
            orbits: fewest orbits.
            counts: the composition that must fit on whole orbits, or empty.
        """
        return _weights(self, None if sizes is None else tuple(sorted(sizes.items())), orbits, counts)

    def arrangement(
        self, seed: int, index: int, sizes: Mapping[int, float] | None, orbits: int, counts: Counts, sample: int = 0
    ) -> Arrangement:
        """What crystal ``index`` gets; arguments as in :meth:`weights`, of which one at least must fit.

        Templates are drawn as often as known crystals have them. A composition takes its arrangements in turn, the
        ``sample``-th from 0, from the likeliest on, as far as they make up :data:`LIKELY` of the probability.
        """
        if counts and (ranked := _ranked(self, counts)):
            choice = ranked[sample % len(ranked)]
            sites, own = self.templates.sites(choice.template), self.templates.orbit_sizes(choice.template)
            return Arrangement(choice.template, sites, own, counts, elements=choice.elements)
        found, cumulative = _table(self, None if sizes is None else tuple(sorted(sizes.items())), orbits, counts)
        place = torch.tensor([index])
        drawn = float(crystal_uniform(seed, place, FIELD_TEMPLATE)) * cumulative[-1]
        template = found[min(bisect.bisect_right(cumulative, drawn), len(found) - 1)]
        orbit_sizes = self.templates.orbit_sizes(template)
        uniform = float(crystal_uniform(seed, place, FIELD_ELEMENTS))
        return Arrangement(template, self.templates.sites(template), orbit_sizes, counts, uniform)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SpaceGroups:
        """The space groups that ``dataclasses.asdict`` and JSON made plain."""
        return SpaceGroups(tuple(int(n) for n in values["numbers"]), str(values["file"]))


def make_space_groups(asked: str | int | Sequence[int] | None, file: str | None) -> SpaceGroups | None:
    """Checked space groups, or None where nothing is asked.

    Args:
        asked: numbers, symbols and ranges such as ``"225"``, ``"Fm-3m"``, ``"195-230"`` or ``"62,225"``, crystal
            systems, ``any``, or ``free`` for none.
        file: of templates, a folder of ``train --task arrangements``, or a crystal (CIF, POSCAR, XYZ; several) whose
            own template is taken; None for the templates of the package.

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
    groups = SpaceGroups(tuple(sorted(numbers)) if len(numbers) < 230 else (), "" if file is None else str(file))
    if not groups.weights(None, 0, ()):
        known = sorted({t.number for t in groups.templates.counts})
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
    elif number := _symbols().get(_bare(text)):
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
def _symbols() -> dict[str, int]:
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
def _templates(file: str) -> Templates:
    if not file:
        return bundled_templates()
    path = Path(file)
    if path.is_dir():
        return read_templates(path / TEMPLATES)
    return read_templates(path) if path.suffix == ".json" else _templates_of(path)


@lru_cache(maxsize=8)
def _learned(file: str) -> Arrangements | None:
    """Of a file of templates that beside it; of a crystal that of the package."""
    path = Path(file)
    if not file or (path.is_file() and path.suffix != ".json"):
        return load_arrangements(TABLES / LEARNED)
    beside = (path if path.is_dir() else path.parent) / LEARNED
    return load_arrangements(beside) if beside.is_file() else None


def _templates_of(path: Path) -> Templates:
    """The templates of the crystals in a file, each reduced as training data are."""
    found = []
    for frac_coords, cell, numbers in read_crystals(path):
        frac, lattice = right_handed(np.array(frac_coords, dtype=float), np.array(cell, dtype=float))
        frac, lattice, elements = primitive_cell(frac, lattice, np.array(numbers, dtype=np.int64))
        reduced, transform = niggli_reduce(lattice[None])
        found.append(template_of(frac @ np.linalg.inv(transform[0]), reduced[0], elements))
    if None in found:
        raise InputError(f"{path}: no symmetry that holds together was found in crystal {found.index(None) + 1}.")
    return count_templates(found, str(path))


@lru_cache(maxsize=4096)
def _weights(
    groups: SpaceGroups, sizes: tuple[tuple[int, float], ...] | None, orbits: int, counts: Counts
) -> dict[Template, float]:
    templates, wanted = groups.templates, None if sizes is None else dict(sizes)
    numbers = set(groups.numbers)
    found = [t for t in templates.counts if (not numbers or t.number in numbers) and len(t.letters) >= orbits]
    if wanted is not None:
        found = [t for t in found if wanted.get(templates.size(t), 0.0) > 0]
    if counts:
        total = sum(n for _, n in counts)
        sized = [t for t in found if templates.size(t) == total]
        found = [t for t in sized if follows(t, templates.orbit_sizes(t), counts)]
        if not found:  # no known crystal has such counts
            found = [t for t in sized if _ways(templates.orbit_sizes(t), counts)]
    weights = {t: float(templates.counts[t]) for t in found}
    if not numbers or numbers == {1}:
        # Where no known arrangement fits, every atom stands where it likes.
        asked = [sum(n for _, n in counts)] if counts else [n for n, share in sizes or () if share > 0 and n >= orbits]
        missing = set(asked) - {templates.size(t) for t in weights}
        weights |= {Template(1, "a" * n, (1, 0, 0, 0, 1, 0, 0, 0, 1)): 1.0 for n in sorted(missing)}
    if wanted is None:
        return weights
    # The numbers of atoms are as asked; within a number, templates are as common as in known crystals.
    totals: dict[int, float] = {}
    for t, weight in weights.items():
        totals[templates.size(t)] = totals.get(templates.size(t), 0.0) + weight
    return {t: weight * wanted[templates.size(t)] / totals[templates.size(t)] for t, weight in weights.items()}


@lru_cache(maxsize=4096)
def _table(
    groups: SpaceGroups, sizes: tuple[tuple[int, float], ...] | None, orbits: int, counts: Counts
) -> tuple[list[Template], list[float]]:
    weights = _weights(groups, sizes, orbits, counts)
    return list(weights), list(accumulate(weights.values()))


@lru_cache(maxsize=4096)
def _ranked(groups: SpaceGroups, counts: Counts) -> tuple[Choice, ...]:
    """The likeliest arrangements of a composition, best first; none where nothing was learned or known fits."""
    learned, templates = groups.learned, groups.templates
    if learned is None:
        return ()
    fitting = [t for t in _weights(groups, None, 0, counts) if follows(t, templates.orbit_sizes(t), counts)]
    choices = learned.ranked(templates, fitting, dict(counts))
    before = accumulate((choice.probability for choice in choices), initial=0.0)
    return tuple(choice for choice, sum_before in zip(choices, before, strict=False) if sum_before < LIKELY)


@lru_cache(maxsize=65536)
def _ways(orbits: tuple[int, ...], counts: Counts) -> float:
    """In how many ways orbits of these sizes take one element each so that the counts come out."""
    found = Ways(orbits, counts, _equally)
    return found.total(0, found.start)


def follows(template: Template, sizes: tuple[int, ...], counts: Counts) -> bool:
    """Whether known crystals of a template have these counts, of whichever elements."""
    return sorted(totals(template.pattern, sizes)) == sorted(n for _, n in counts)


def as_known(pattern: str, counts: Counts, uniform: float) -> tuple[int, ...]:
    """The element of each orbit: the rarest is A, and so on; elements of equal counts in an order drawn evenly."""
    order: list[int] = []
    for _, group in groupby(sorted(counts, key=lambda pair: (pair[1], pair[0])), key=lambda pair: pair[1]):
        left = [z for z, _ in group]
        while left:
            uniform *= len(left)
            k = min(int(uniform), len(left) - 1)
            uniform -= k
            order.append(left.pop(k))
    return tuple(order[ord(name) - ord("A")] for name in pattern)


def _equally(orbit: int, element: int) -> float:
    return 1.0


def assign(orbits: tuple[int, ...], counts: Counts, uniform: float) -> tuple[int, ...]:
    """One of all the ways, each equally likely: the element of each orbit."""
    found = Ways(orbits, counts, _equally)
    left, elements = found.start, []
    rank = uniform * found.total(0, left)
    for i, size in enumerate(orbits):
        options = found.options(i, left)
        while rank >= options[0][0] and len(options) > 1:
            rank -= options.pop(0)[0]
        place = options[0][1]
        elements.append(found.elements[place])
        left = less(left, place, size)
    return tuple(elements)
