"""Learned arrangements on disk and in use: a network, the vocabulary of its templates, and the templates beside it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, permutations, product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crystalsmith.checkpoints.store import check_state, write_tensors
from crystalsmith.errors import InputError
from crystalsmith.network.arrangements import ArrangementNetwork, ArrangementSizes, Candidates
from crystalsmith.schema import Items, Record, Text, interpreting, parse_json, whole
from crystalsmith.symmetry.wyckoff import Template, Templates

FILE = "arrangements.safetensors"
"""Beside a file of templates: how compositions choose among them."""

FORMAT = "crystalsmith-arrangements-1"
ABOUT = Record(
    {
        "sizes": Items(whole(1, 4096), 3, 3),
        "positions": Items(Text(8), most=100_000),
        "bases": Items(Items(whole(-1000, 1000), 9, 9), most=100_000),
    },
    {"training": Record()},
)
"""What the header of the file says."""

MAX_ORDERS = 5040
"""Orders of elements of equal counts; compositions of more are not judged."""


@dataclass(frozen=True)
class Choice:
    """One arrangement of a composition.

    Attributes:
        template: its template.
        elements: atomic number of each of its orbits.
        probability: among the arrangements that were compared.
    """

    template: Template
    elements: tuple[int, ...]
    probability: float


@dataclass(frozen=True)
class Arrangements:
    """A network that ranks the known arrangements of a composition.

    Attributes:
        network: in evaluation mode.
        positions: ``(space group, letter)`` that it knows.
        bases: bases of reduced cells that it knows.
        training: how it was trained and what was measured.
    """

    network: ArrangementNetwork
    positions: Sequence[tuple[int, str]]
    bases: Sequence[tuple[int, ...]]
    training: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def _places(self) -> tuple[dict[tuple[int, str], int], dict[tuple[int, ...], int]]:
        positions = {name: i for i, name in enumerate(self.positions, 1)}
        return positions, {basis: i for i, basis in enumerate(self.bases, 1)}

    def candidates(self, templates: Templates, some: Sequence[Template]) -> Candidates:
        """Templates of equal counts, as the network takes them."""
        positions, bases = self._places
        counts = templates.totals(some[0])
        orbits = [
            (positions.get((t.number, letter), 0), row * len(counts) + ord(name) - ord("A"))
            for row, t in enumerate(some)
            for letter, name in zip(t.letters, t.pattern, strict=True)
        ]
        names, sets = torch.tensor(orbits).unbind(1)
        return Candidates(
            torch.tensor(counts, dtype=torch.float32),
            torch.tensor([math.log(templates.counts[t]) for t in some]),
            torch.tensor([t.number for t in some]),
            torch.tensor([bases.get(t.basis, 0) for t in some]),
            names,
            sets,
            torch.tensor(orders(counts)),
        )

    @torch.no_grad()
    def ranked(self, templates: Templates, some: Sequence[Template], counts: Mapping[int, int]) -> list[Choice]:
        """The arrangements of a composition from the likeliest on; empty where there are too many to compare.

        Args:
            templates: where these come from.
            some: templates whose elements have these counts.
            counts: atomic number to atoms.
        """
        elements = sorted(counts, key=lambda z: (counts[z], z))
        if not some or number_of_orders([counts[z] for z in elements]) > MAX_ORDERS:
            return []
        candidates = self.candidates(templates, some)
        logits = self.network(torch.tensor([elements]), candidates)[0].flatten()
        sorted_probs, found = logits.softmax(0).sort(descending=True, stable=True)
        choices = []
        for probability, place in zip(sorted_probs.tolist(), found.tolist(), strict=True):
            row, order = divmod(place, len(candidates.orders))
            own = [elements[k] for k in candidates.orders[order].tolist()]
            on_orbits = tuple(own[ord(name) - ord("A")] for name in some[row].pattern)
            choices.append(Choice(some[row], on_orbits, probability))
        return choices


def number_of_orders(counts: Sequence[int]) -> int:
    """How many orders of elements put each in a place of its own count."""
    return math.prod(math.factorial(sum(1 for _ in group)) for _, group in groupby(sorted(counts)))


def orders(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Those orders, of ascending counts; the first leaves all as it is."""
    groups = [list(group) for _, group in groupby(range(len(counts)), key=lambda k: counts[k])]
    return [tuple(chain(*parts)) for parts in product(*(permutations(group) for group in groups))]


def save_arrangements(found: Arrangements, path: Path) -> None:
    """Write weights in half precision, and the vocabulary."""
    state: dict[str, Tensor] = {k: x.half() for k, x in found.network.state_dict().items()}
    sizes = found.network.sizes
    about = {
        "sizes": [sizes.width, sizes.hidden, sizes.rank],
        "positions": [f"{number}{letter}" for number, letter in found.positions],
        "bases": [list(basis) for basis in found.bases],
        "training": dict(found.training),
    }
    metadata = {"format": FORMAT, "about": json.dumps(about, separators=(",", ":"))}
    write_tensors(path, state, metadata)


def load_arrangements(path: Path) -> Arrangements:
    """What :func:`save_arrangements` wrote.

    Raises:
        InputError: if the file is not that.
    """
    mend = "make them with crystalsmith train --task arrangements"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError("it is of another kind or version")
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{path} holds no learned arrangements ({error}); {mend}.") from None
    about = parse_json(metadata.get("about", ""), str(path), ABOUT, mend)
    with interpreting(str(path), mend):
        positions = [(int(name[:-1]), str(name[-1])) for name in about["positions"]]
        bases = [tuple(basis) for basis in about["bases"]]
        sizes = ArrangementSizes(len(positions) + 1, len(bases) + 1, *about["sizes"])
        network = ArrangementNetwork(sizes)
    check_state(network.state_dict(), state, path)
    network.load_state_dict(state)
    return Arrangements(network.eval(), positions, bases, about.get("training", {}))
