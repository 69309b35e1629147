"""What is asked for: how many crystals, like what, by which solver; it plans every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crystalsmith.diffusion.solvers import parse_solver
from crystalsmith.generation.choosing import Choosing
from crystalsmith.generation.compositions import Compositions
from crystalsmith.generation.num_atoms import MAX_ATOMS, Histogram
from crystalsmith.generation.plans.compositions import composed
from crystalsmith.generation.plans.formula import ruled
from crystalsmith.generation.plans.histogram import sized
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.plans.start import started
from crystalsmith.generation.plans.targets import targeted
from crystalsmith.generation.plans.templates import Limits, arranged, limits_of, weights
from crystalsmith.generation.rules import Rules
from crystalsmith.generation.sampling import Sampling
from crystalsmith.generation.space_groups import SpaceGroups
from crystalsmith.generation.start import Starts
from crystalsmith.generation.targets import Targets
from crystalsmith.schema import (
    Anything,
    Either,
    Flag,
    Items,
    Map,
    Number,
    Record,
    Text,
    Tuple,
    check,
    interpreting,
    whole,
)


@dataclass(frozen=True)
class Request:
    """A request for crystals; with the model, it decides every one of them.

    Attributes:
        num: how many crystals.
        seed: crystal i is a function of (seed, i).
        num_atoms: number of atoms to probability, summing to 1.
        solver: a name in ``diffusion.solvers.SOLVERS``.
        steps: number of denoising steps.
        precision: ``float32`` or ``bf16``, of the network's products.
        temperature: of the species' probabilities.
        solver_settings: further keywords of the solver, as in the model's defaults.
        steering: the steering options as they were given; what follows from them is in the next two.
        rules: on elements and counts.
        start: crystals to start from.
        targets: properties that the crystals shall have.
        compositions: exact compositions, taken in turn.
        space_groups: which symmetry the crystals keep; with ``sizes_asked``, in numbers of atoms as in ``num_atoms``.
        choosing: what decides between several proposals for a crystal; None = the first is kept.
        prefer: atomic numbers and the factors on their odds.
    """

    num: int
    seed: int
    num_atoms: Histogram
    solver: str
    steps: int
    precision: str
    temperature: float = 1.0
    solver_settings: Mapping[str, float] = field(default_factory=dict)
    steering: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules | None = None
    start: Starts | None = None
    targets: Targets | None = None
    compositions: Compositions | None = None
    space_groups: SpaceGroups | None = None
    sizes_asked: bool = False
    choosing: Choosing | None = None
    prefer: tuple[tuple[int, float], ...] = ()

    @property
    def columns(self) -> list[str]:
        """Columns that the request adds to the table of results."""
        return [*self.plan(0).columns(), *(() if self.choosing is None else self.choosing.columns())]

    @property
    def sampling(self) -> Sampling:
        """How the crystals are sampled from their plans."""
        start = () if self.start is None else (self.start.strength, self.start.resample)
        sampling = Sampling(self.solver, self.steps, self.precision, self.temperature, self.solver_settings, *start)
        if self.start is not None:
            sampling = dataclasses.replace(sampling, redecorate=self.start.redecorate)
        sampling = dataclasses.replace(sampling, prefer=self.prefer)
        if self.targets is None:
            return sampling
        return dataclasses.replace(sampling, guidance=self.targets.guidance, interval=self.targets.interval)

    def plan(self, index: int, attempt: int = 0) -> Plan:
        """All that decides crystal ``index``; of further attempts, all that decides the next proposal for it."""
        if attempt and self.choosing is not None and self.choosing.one_plan:
            return dataclasses.replace(self.plan(index), attempt=attempt)
        plan = self.without_symmetry(index, attempt)
        if self.space_groups is not None:
            return arranged(plan, self._limits(plan, self.space_groups))
        return plan if plan.num_atoms else sized(plan, self.num_atoms)

    def plans(self, indices: Sequence[int]) -> list[Plan]:
        """The plans of crystals ``indices``."""
        return [self.plan(index) for index in indices]

    def fits(self, index: int) -> bool:
        """Whether crystal ``index`` can have one of the space groups asked for."""
        if self.space_groups is None:
            return True
        return bool(weights(self._limits(self.without_symmetry(index), self.space_groups)))

    def without_symmetry(self, index: int, attempt: int = 0) -> Plan:
        """The plan of crystal ``index`` before a template is chosen; its number of atoms may be open."""
        plan = Plan(self.seed, index, attempt)
        if self.targets is not None:
            plan = targeted(plan, self.targets)
        if self.start is not None:
            plan = started(plan, self.start, self.num_atoms)
        if self.compositions is not None:
            plan = composed(plan, self.compositions)
        return plan if self.rules is None else ruled(plan, self.rules)

    def _limits(self, plan: Plan, groups: SpaceGroups) -> Limits:
        guidance = {} if self.targets is None else self.targets.guidance
        followed = {name: value for name, value in plan.targets if guidance[name] > 0}
        return limits_of(plan, groups, self.num_atoms if self.sizes_asked else None, followed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"num_atoms": {str(n): w for n, w in self.num_atoms.items()}}

    @staticmethod
    def read(values: Mapping[str, Any], where: str, mend: str) -> Request:
        """The request that a file holds, checked: its shape, its numbers, and that its crystals can be planned.

        Raises:
            InputError: if it is not one.
        """
        check(values, SETTINGS_SHAPE, where, mend)
        with interpreting(where, mend):
            request = Request.from_dict(values)
            parse_solver(",".join([request.solver, *(f"{k}={v!r}" for k, v in request.solver_settings.items())]))
            for index in range(min(request.num, TRIED)):
                if not 1 <= request.plan(index).num_atoms <= MAX_ATOMS:
                    raise ValueError(f"crystal {index} would have {request.plan(index).num_atoms} atoms")
        return request

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Request:
        """The request that :meth:`to_dict` wrote."""
        # An option that is newer than the run is not there.
        fields = {f.name: values[f.name] for f in dataclasses.fields(Request) if f.name in values}
        fields["num_atoms"] = {int(n): float(w) for n, w in values["num_atoms"].items()}
        fields["prefer"] = tuple((int(z), float(factor)) for z, factor in fields.get("prefer", ()))
        for name, kind in _PARTS.items():
            if fields.get(name) is not None:
                fields[name] = kind.from_dict(fields[name])
        return Request(**fields)


TRIED = 16
"""Crystals of a request from a file that are planned at once."""

_ATOMS = Items(whole(1, 100), 0, 100)
_FORMULA = Items(Tuple((whole(1, 100), whole(1, MAX_ATOMS))), 0, 100)
_UNITS = Items(whole(1, MAX_ATOMS), 0, MAX_ATOMS)
_POINT = Tuple((Number(-1e6, 1e6),) * 3)
_CRYSTAL = Tuple((Items(_POINT, 1, MAX_ATOMS), Tuple((_POINT,) * 3), Items(whole(1, 100), 1, MAX_ATOMS)))

SETTINGS_SHAPE = Record(
    {
        "num": whole(1, 2**32),
        "seed": whole(0, 2**63),
        "num_atoms": Map(Number(0, 1e15), numbered=True, most=MAX_ATOMS),
        "solver": Text(200),
        "steps": whole(1, 10**6),
        "precision": Text(choices=("float32", "bf16")),
    },
    {
        "temperature": Number(0.01, 100),
        "solver_settings": Map(Number(-1e6, 1e6), most=100),
        "steering": Map(Anything(), most=1000),
        "rules": Record(
            {"allowed": _ATOMS, "required": _ATOMS, "formula": _FORMULA, "formula_units": _UNITS}, none=True
        ),
        "start": Record(
            {"crystals": Items(_CRYSTAL, 1), "fix_sites": Items(whole(0, MAX_ATOMS))},
            {"strength": Number(1e-6, 1), "resample": whole(1, 100), "fix_cell": Flag(), "fix_elements": Flag()},
            none=True,
        ),
        "targets": Record(
            {
                "targets": Items(
                    Record(
                        {
                            "name": Text(200),
                            "kind": Text(choices=("scalar", "log", "category", "elements")),
                            "values": Items(Either((Number(none=True), Text(400)))),
                            "bounds": Tuple((Number(), Number()), none=True),
                            "guidance": Number(-1e6, 1e6),
                        }
                    ),
                    1,
                    200,
                ),
                "interval": Tuple((Number(0, 1), Number(0, 1))),
            },
            none=True,
        ),
        "compositions": Record(
            {"ids": Items(Text(), 1), "formulas": Items(Text(), 1), "units": Items(Items(whole(1, MAX_ATOMS), 1), 1)},
            none=True,
        ),
        "space_groups": Record(
            {"numbers": Items(whole(1, 230), 0, 230), "file": Text()},
            {"elements": Items(Tuple((whole(1, 100), whole(1, 100))), 0, 100)},
            none=True,
        ),
        "sizes_asked": Flag(),
    },
)
"""What the settings of a run must look like in its manifest."""

_PARTS: dict[str, Any] = {
    "rules": Rules,
    "start": Starts,
    "targets": Targets,
    "compositions": Compositions,
    "space_groups": SpaceGroups,
    "choosing": Choosing,
}
