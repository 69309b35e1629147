"""What a discovery run is asked for: the wish, which never changes in a run, and its limits, which may be raised."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.requirements import Requirement, parse_requirement
from crystalsmith.models import DEFAULT

STABLE = "energy_above_hull<=0.1"
"""What is asked of every candidate where the wish itself says nothing of the hull (the field's threshold)."""

MODEL_SOURCES = ("templates", "free")
STRENGTHS = (0.0, 0.3, 0.5)
CALCULATED = ("bulk_modulus",)
"""Properties that a potential calculates at a price worth a budget of its own."""


@dataclass(frozen=True)
class Wish:
    """All that decides which candidates a run makes and in which order it spends on them.

    Attributes:
        model: name or folder of the model that proposes.
        seed: candidate i is a function of the wish, the reference and what the rounds before its own found.
        steering: options of :class:`crystalsmith.generation.steering.Steering`, as plain values.
        num_atoms: lowest and highest number of atoms of a candidate.
        requirements: texts such as ``bulk_modulus>300``.
        reference: folder of the known crystals and their hull.
        potential, energy_scale: what relaxes.
        predictors: folders of property predictors.
        sources: where candidates come from, see :mod:`crystalsmith.discovery.proposals`.
        proposals, relaxations: of each round.
        steps, solver, temperature: of the generation; None for the model's own.
        fmax, relax_steps, time_limit: of a relaxation (eV/angstrom, steps, seconds).
        floor: share of candidates whose source is drawn evenly, so that none is given up for good.
        price: what the order of relaxations saves, ``seconds`` or ``relaxations``.
        novel: whether a candidate must be new to the reference.
        plain: no ranking, no learning, the model alone: the way to compare with.
        learn: prepared data set of real crystals with energies above the hull, beside which the model is trained on
            with what the run finds (:mod:`crystalsmith.discovery.learning`); empty for no lessons.
        learn_every, learn_updates: relaxations between two lessons, and updates of one.
    """

    model: str = DEFAULT
    seed: int = 0
    steering: Mapping[str, Any] = field(default_factory=dict)
    num_atoms: tuple[int, int] = (1, 20)
    requirements: tuple[str, ...] = (STABLE,)
    reference: str = ""
    potential: str = "7net-0"
    energy_scale: str | None = None
    predictors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    proposals: int = 32
    relaxations: int = 8
    steps: int | None = None
    solver: str | None = None
    temperature: float | None = None
    fmax: float = 0.05
    relax_steps: int = 300
    time_limit: float = 300.0
    floor: float = 0.2
    price: str = "seconds"
    novel: bool = True
    plain: bool = False
    learn: str = ""
    learn_every: int = 100
    learn_updates: int = 300

    @property
    def tests(self) -> tuple[Requirement, ...]:
        """The requirements, read."""
        return tuple(parse_requirement(text) for text in self.requirements)

    @property
    def calculated(self) -> tuple[str, ...]:
        """Required properties that are calculated by the potential one crystal at a time."""
        predicted = {name for name in CALCULATED for test in self.tests if test.name == name}
        return tuple(sorted(predicted))

    @property
    def hull_limit(self) -> float | None:
        """The largest energy above the hull that can meet the requirements, eV/atom; None if they do not bound it."""
        bounds = [
            float(bound)
            for test in self.tests
            if test.name == "energy_above_hull"
            for sign, bound in test.tests
            if sign in ("<", "<=", "==")
        ]
        return min(bounds) if bounds else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Wish:
        """The wish that :meth:`to_dict` and JSON made plain.

        Raises:
            InputError: if a value is unknown.
        """
        known = {f.name for f in dataclasses.fields(Wish)}
        if odd := sorted(set(values) - known):  # an option that is newer than the run is not there
            raise InputError(f"The wish of this run has other options than this version knows ({odd[0]}).")
        plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return Wish(**plain)


@dataclass(frozen=True)
class Limits:
    """When a run ends: enough found, or the money spent. None for no limit.

    Attributes:
        want: accepted candidates.
        relaxations: that may be done.
        calculations: property to how many calculations of it may be done.
        hours: of run time, all sessions together.
        rounds: of proposals.
    """

    want: int | None = None
    relaxations: int | None = None
    calculations: Mapping[str, int] = field(default_factory=dict)
    hours: float | None = None
    rounds: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"calculations": dict(self.calculations)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Limits:
        """The limits that :meth:`to_dict` wrote."""
        return Limits(**{f.name: values[f.name] for f in dataclasses.fields(Limits) if f.name in values})

    def raised(self, later: Limits) -> Limits:
        """These limits with what a later session says anew."""
        given = {f.name: getattr(later, f.name) for f in dataclasses.fields(Limits)}
        changed = {name: value for name, value in given.items() if value not in (None, {})}
        if "calculations" in changed:
            changed["calculations"] = {**self.calculations, **changed["calculations"]}
        return dataclasses.replace(self, **changed)


def parse_budgets(texts: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """Numbers of relaxations and of property calculations from texts such as ``500:relaxations``, ``180:bulk_modulus``.

    Raises:
        InputError: if a text is none of these.
    """
    relaxations: int | None = None
    calculations: dict[str, int] = {}
    for text in texts:
        number, colon, name = (part.strip() for part in text.partition(":"))
        if not (colon and number.isdigit() and int(number) > 0) or name not in ("relaxations", *CALCULATED):
            raise InputError(
                f"--budget {text!r} is not understood; write for example 500:relaxations or 180:bulk_modulus."
            )
        if name == "relaxations":
            relaxations = int(number)
        else:
            calculations[name] = int(number)
    return relaxations, calculations


def check_wish(wish: Wish, limits: Limits) -> None:
    """Refuse what cannot run.

    Raises:
        InputError: naming it.
    """
    low, high = wish.num_atoms
    if not 1 <= low <= high:
        raise InputError(f"--num-atoms {low}-{high} is an empty range; write the smaller number, 1 at least, first.")
    if not 1 <= wish.relaxations <= wish.proposals:
        raise InputError(
            f"A round proposes {wish.proposals} candidates and relaxes {wish.relaxations}; relax 1 at least and at "
            "most as many as are proposed."
        )
    if not 0 <= wish.floor <= 1:
        raise InputError(f"--explore is {wish.floor}; give a share from 0 to 1.")
    if wish.learn and wish.plain:
        raise InputError("--plain runs without learning; leave --learn or --plain out.")
    for name, number in (("learn-every", wish.learn_every), ("learn-updates", wish.learn_updates)):
        if number < 1:
            raise InputError(f"--{name} is {number}; give 1 or more.")
    for name, value in (("want", limits.want), ("hours", limits.hours)):
        if value is not None and not value > 0:
            raise InputError(f"--{name} is {value}; give a number above 0.")
    ends = (limits.want, limits.relaxations, limits.hours, limits.rounds)
    if all(end is None for end in ends) and not limits.calculations:
        raise InputError("A run needs an end; give --want, --hours or --budget 500:relaxations.")
    for name in limits.calculations:
        if name not in wish.calculated:
            raise InputError(f"--budget names {name}, which no requirement asks for; add --require '{name}>...'.")
