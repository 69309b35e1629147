"""Which candidates a round proposes: each from a source, of a size, of so many elements, all drawn before it is made.

Sources: ``templates`` (the model within a space group), ``free`` (the model without), and known crystals with elements
exchanged: as they are (``known:0``), noised to a strength and made anew by the model with the elements kept
(``known:0.3``) or free (``known:0.5``). For one composition, ``arrangements``: the model within the arrangements that
known crystals make likely, each as often as is worth while.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crystalsmith.discovery.bandit import Posterior
from crystalsmith.discovery.candidate import Candidate
from crystalsmith.discovery.known import Known
from crystalsmith.discovery.wish import MODEL_SOURCES, STRENGTHS, Wish
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

ANY = "any"
KNOWN = "known:"
UNTOUCHED = f"{KNOWN}0"
"""The source of known crystals as they are, which no model makes."""
ARRANGEMENTS = "arrangements"
FACTORS = ("source", "kinds", "size")

KEEPS_ELEMENTS = 0.4
"""Below this strength a known crystal that is made anew keeps its elements."""

PRICES = {"templates": 1.0, "free": 1.0, ARRANGEMENTS: 1.0}
"""What making a candidate costs, as a share of a generation; a known crystal costs its strength, 0.1 at least."""


@dataclass(frozen=True)
class Proposal:
    """All that decides one candidate before it is made; plain data.

    Attributes:
        number: of the candidate, and of its random stream.
        round: it belongs to.
        source, kinds, size: levels of the factors that are learned: where from, number of elements, ``low-high`` atoms.
        elements: symbols that the model may take, all of them required; empty where it is free within the wish.
        parent, exchange: known crystal and what was exchanged in it.
        failure: why it cannot be made.
    """

    number: int
    round: int
    source: str
    kinds: str
    size: str
    elements: tuple[str, ...] = ()
    parent: str = ""
    exchange: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""

    @property
    def sizes(self) -> tuple[int, int]:
        """Fewest and most atoms."""
        low, _, high = self.size.partition("-")
        return int(low), int(high)

    @property
    def strength(self) -> float | None:
        """How far a known crystal is noised; None for the model's own."""
        return float(self.source.removeprefix(KNOWN)) if self.source.startswith(KNOWN) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"elements": list(self.elements)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Proposal:
        """The proposal that :meth:`to_dict` wrote."""
        return Proposal(**{**values, "elements": tuple(values["elements"])})


def factors_of(wish: Wish, allowed: Collection[int], required: Collection[int], with_known: bool) -> dict[str, list]:
    """The levels of each factor that a wish leaves open.

    Args:
        allowed, required: atomic numbers, from the wish's rules.
        with_known: whether there are known crystals to start from.
    """
    sources = list(wish.sources) or [*MODEL_SOURCES, *(f"{KNOWN}{s:g}" for s in STRENGTHS)]
    exact = {"formula", "compositions", "start_from"} & set(wish.steering)
    if wish.plain or exact:
        sources = [ARRANGEMENTS] if ARRANGEMENTS in sources else ["templates"]
    if not with_known:
        sources = [s for s in sources if not s.startswith(KNOWN)] or ["templates"]
    most = min(len(allowed), 5 if len(allowed) <= 5 else 4)
    kinds = [ANY, *(str(k) for k in range(max(2, len(required)), most + 1))]
    if wish.plain or exact or len(kinds) == 2 or wish.steering.get("require_all"):
        kinds = [ANY]
    return {"source": sources, "kinds": kinds, "size": size_levels(*wish.num_atoms, whole=wish.plain or bool(exact))}


def size_levels(low: int, high: int, whole: bool = False) -> list[str]:
    """The range of sizes in up to three parts, as ``7-12``."""
    if whole:
        return [f"{low}-{high}"]
    edges = [(1, 6), (7, 12), (13, 20), (21, 10**6)]
    parts = [(max(a, low), min(b, high)) for a, b in edges]
    return [f"{a}-{b}" for a, b in parts if a <= b]


def outcomes_of(candidates: Sequence[Candidate], factor: str) -> list[tuple[str, float]]:
    """How the candidates of earlier rounds fared, for a factor: 1 accepted, 0 dropped, else their chance so far."""
    return [
        (c.plan[factor], 1.0 if c.accepted else 0.0 if c.dropped else float(c.values.get("chance", 0.0)))
        for c in candidates
    ]


def draw_round(
    wish: Wish,
    round_: int,
    earlier: Sequence[Candidate],
    known: Known | None,
    allowed: Collection[int],
    required: Collection[int],
) -> list[Proposal]:
    """The proposals of a round: a function of the wish, the reference and the outcomes of earlier rounds.

    Args:
        earlier: the candidates of the rounds before.
        known: the known crystals; None where there are none.
    """
    levels = factors_of(wish, allowed, required, known is not None)
    posteriors = {name: Posterior.of(levels[name], outcomes_of(earlier, name)) for name in FACTORS}
    prices = {name: PRICES.get(name, 0.1) for name in levels["source"]}
    prices |= {name: max(0.1, float(name.removeprefix(KNOWN))) for name in prices if name.startswith(KNOWN)}
    first = round_ * wish.proposals
    made = []
    for number in range(first, first + wish.proposals):
        rng = np.random.default_rng(np.random.SeedSequence([wish.seed, number, 0xD15C]))
        floor = 1.0 if wish.plain else wish.floor
        source = posteriors["source"].draw(rng, floor, _tempered(prices))
        kinds, size = (posteriors[name].draw(rng, floor) for name in ("kinds", "size"))
        if wish.plain:
            made.append(Proposal(number, round_, source, kinds, size))
            continue
        made.append(_filled(Proposal(number, round_, source, kinds, size), rng, known, allowed, required))
    return made


def _tempered(prices: Mapping[str, float]) -> dict[str, float]:
    """The square root: a candidate is screened, estimated and perhaps relaxed as well, which costs the same for all."""
    return {name: price**0.5 for name, price in prices.items()}


def _filled(
    one: Proposal,
    rng: np.random.Generator,
    known: Known | None,
    allowed: Collection[int],
    required: Collection[int],
) -> Proposal:
    """The proposal with its elements and its parent drawn."""
    kinds = None if one.kinds == ANY else int(one.kinds)
    inside, needed = sorted(allowed), sorted(required)
    if kinds is not None and len(inside) <= 12:
        others = [z for z in inside if z not in needed]
        drawn = rng.permutation(others)[: kinds - len(needed)].tolist() if others else []
        inside = needed = sorted([*needed, *drawn])
    if one.strength is None:
        if kinds is None:
            return one
        if needed != inside and known is not None:
            start = known.draw(rng, one.sizes, inside, needed, kinds)
            if start is None:
                return dataclasses.replace(one, failure="no known crystal of this size has so many elements")
            needed = sorted({int(z) for z in start.arrays[2]})
        if needed != inside and known is None:
            return one
        return dataclasses.replace(one, elements=tuple(SYMBOLS[z - 1] for z in needed))
    assert known is not None
    start = known.draw(rng, one.sizes, inside, needed, kinds)
    if start is None:
        return dataclasses.replace(one, failure="no known crystal fits the elements and the size")
    return dataclasses.replace(one, parent=start.parent, exchange=start.exchange)


def start_of(one: Proposal, known: Known) -> Any:
    """The crystal that a proposal starts from.

    Raises:
        InputError: if the reference no longer holds its parent.
    """
    from crystalsmith.elements import NUMBERS

    row = known.reference.structures_by_name.get(one.parent)
    if row is None:
        raise InputError(
            f"The reference {known.reference.path} holds no {one.parent}; go on with the one it began with."
        )
    exchange = {NUMBERS[a]: NUMBERS[b] for a, b in one.exchange.items()}
    return known.exchanged(known.reference.structure(row)[1], exchange)
