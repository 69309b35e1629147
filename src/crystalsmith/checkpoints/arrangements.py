"""Learned arrangements on disk and in use: a network, the vocabulary of its templates, and the templates beside it."""

from __future__ import annotations

import functools
import hashlib
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
from crystalsmith.elements import MASK
from crystalsmith.errors import InputError
from crystalsmith.network.arrangements import ArrangementNetwork, ArrangementSizes, Candidates
from crystalsmith.schema import Items, Record, Text, interpreting, parse_json, whole
from crystalsmith.symmetry.wyckoff import Template, Templates

FILE = "arrangements.safetensors"
"""Beside a file of templates: how compositions choose among them."""

FORMAT, WITHOUT_MEMORY = "crystalsmith-arrangements-2", "crystalsmith-arrangements-1"
ABOUT = Record(
    {
        "sizes": Items(whole(0, 4096), 3, 4),
        "positions": Items(Text(8), most=100_000),
        "bases": Items(Items(whole(-1000, 1000), 9, 9), most=100_000),
    },
    {"training": Record()},
)
"""What the header of the file says."""

KEYS, SHAPES, ELEMENTS = "remembered.templates", "remembered.shapes", "remembered.elements"
"""Tensors of the file: ``(T,)`` the keys of templates, ``(T, 2)`` crystals and elements of each, all their elements."""

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
        memory: by :func:`key_of` of a template, ``(n, K)`` atomic numbers of the known crystals that have it.
    """

    network: ArrangementNetwork
    positions: Sequence[tuple[int, str]]
    bases: Sequence[tuple[int, ...]]
    training: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[int, Tensor] = field(default_factory=dict)

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
        nothing = torch.zeros(0, len(counts), dtype=torch.int64)
        remembered = [self.memory.get(key_of(t), nothing) for t in some]
        return Candidates(
            torch.tensor(counts, dtype=torch.float32),
            torch.tensor([math.log(templates.counts[t]) for t in some]),
            torch.tensor([t.number for t in some]),
            torch.tensor([bases.get(t.basis, 0) for t in some]),
            names,
            sets,
            torch.tensor(orders(counts)),
            torch.cat(remembered),
            torch.arange(len(some)).repeat_interleave(torch.tensor([len(part) for part in remembered])),
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


def key_of(template: Template) -> int:
    """A number for a template, the same on every machine."""
    text = json.dumps([template.number, template.letters, template.pattern, list(template.basis)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def number_of_orders(counts: Sequence[int]) -> int:
    """How many orders of elements put each in a place of its own count."""
    return math.prod(math.factorial(sum(1 for _ in group)) for _, group in groupby(sorted(counts)))


def orders(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Those orders, of ascending counts; the first leaves all as it is."""
    groups = [list(group) for _, group in groupby(range(len(counts)), key=lambda k: counts[k])]
    return [tuple(chain(*parts)) for parts in product(*(permutations(group) for group in groups))]


def save_arrangements(found: Arrangements, path: Path) -> None:
    """Write weights in half precision, the vocabulary, and what is remembered."""
    state: dict[str, Tensor] = {k: x.half() for k, x in found.network.state_dict().items()}
    sizes = found.network.sizes
    if found.memory:
        keys = sorted(found.memory)
        state |= {
            KEYS: torch.tensor(keys),
            SHAPES: torch.tensor([found.memory[key].shape for key in keys], dtype=torch.int32),
            ELEMENTS: torch.cat([found.memory[key].flatten() for key in keys]).to(torch.uint8),
        }
    about = {
        "sizes": [sizes.width, sizes.hidden, sizes.rank, sizes.kernel],
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
            if metadata.get("format") not in (FORMAT, WITHOUT_MEMORY):
                raise ValueError("it is of another kind or version")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            memory = _memory(*(state.pop(name, None) for name in (KEYS, SHAPES, ELEMENTS)))
            state = {name: x.float() for name, x in state.items()}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{path} holds no learned arrangements ({error}); {mend}.") from None
    about = parse_json(metadata.get("about", ""), str(path), ABOUT, mend)
    with interpreting(str(path), mend):
        positions = [(int(name[:-1]), str(name[-1])) for name in about["positions"]]
        bases = [tuple(basis) for basis in about["bases"]]
        width, hidden, rank, kernel = (*about["sizes"], 0)[:4]
        sizes = ArrangementSizes(len(positions) + 1, len(bases) + 1, width, hidden, rank, kernel)
        network = ArrangementNetwork(sizes)
    check_state(network.state_dict(), state, path)
    network.load_state_dict(state)
    return Arrangements(network.eval(), positions, bases, about.get("training", {}), memory)


def _memory(keys: Tensor | None, shapes: Tensor | None, elements: Tensor | None) -> dict[int, Tensor]:
    """What is remembered, by template; ValueError where the tensors do not belong together."""
    if keys is None or shapes is None or elements is None:
        return {}
    if keys.dtype != torch.int64 or shapes.dtype != torch.int32 or elements.dtype != torch.uint8:
        raise ValueError("what it remembers is of other types")
    if keys.ndim != 1 or shapes.shape != (len(keys), 2) or elements.ndim != 1 or (shapes < 1).any():
        raise ValueError("what it remembers has other shapes")
    sizes = shapes.long().prod(1)
    if int(sizes.sum()) != len(elements) or int(elements.min()) < 1 or int(elements.max()) >= MASK:
        raise ValueError("what it remembers does not add up")
    parts = elements.long().split(sizes.tolist())
    return {key: part.view(*shape) for key, part, shape in zip(keys.tolist(), parts, shapes.tolist(), strict=True)}
