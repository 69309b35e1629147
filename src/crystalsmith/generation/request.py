"""What is asked for: how many crystals, by which solver, in which numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crystalsmith.checkpoints.model import SAMPLING, Model
from crystalsmith.diffusion.composition import CountBounds, remask
from crystalsmith.elements import MASK, symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.compositions import Compositions, make_compositions
from crystalsmith.generation.num_atoms import Histogram, check_histogram, draw_num_atoms, parse_num_atoms
from crystalsmith.generation.rules import Rules, fit_sizes, make_rules
from crystalsmith.generation.space_groups import Arrangement, Counts, SpaceGroups, make_space_groups
from crystalsmith.generation.start import Start, make_start
from crystalsmith.generation.steering import Steering
from crystalsmith.generation.targets import Targets, make_targets, outside_training, table_columns

MAX_CRYSTALS = 2**32
"""Crystal indices take one word of the random stream's counter."""

MAX_SEED = 2**63 - 1


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
    start: Start | None = None
    targets: Targets | None = None
    compositions: Compositions | None = None
    space_groups: SpaceGroups | None = None
    sizes_asked: bool = False

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """``(B,)`` int64, the number of atoms of crystals ``indices``."""
        if self.space_groups is not None:
            return torch.tensor([sum(one.sizes) for one in self.arrangements(indices)], dtype=torch.int64)
        if self.compositions is not None:
            return torch.tensor(self.compositions.sizes(indices), dtype=torch.int64)
        if self.start is not None:
            sizes = self.start.sizes()
            if len(self.num_atoms) == 1:  # may be more than the crystals have
                sizes = [max(n, *self.num_atoms) for n in sizes]
            return torch.tensor([sizes[i % len(sizes)] for i in indices], dtype=torch.int64)
        if self.rules is not None and self.rules.formula:
            return torch.tensor([u * self.rules.formula_size for u in self.rules.units(indices)], dtype=torch.int64)
        return draw_num_atoms(self.num_atoms, self.seed, torch.tensor(list(indices), dtype=torch.int64))

    def arrangements(self, indices: Sequence[int]) -> list[Arrangement]:
        """The symmetry of crystals ``indices``, where space groups are asked for."""
        assert self.space_groups is not None
        return [self._groups(i).arrangement(self.seed, i, *self._limits(i), self._sample(i)) for i in indices]

    def _sample(self, index: int) -> int:
        """How many crystals of the same composition and size come before crystal ``index``."""
        if self.compositions is not None:
            return self.compositions.sample(index)
        return 0 if self.rules is None or not self.rules.formula else index // len(self.rules.formula_units)

    def _groups(self, index: int) -> SpaceGroups:
        """The space groups that crystal ``index`` may have: of any, that which is its target, if it has templates."""
        assert self.space_groups is not None
        target = None if self.targets is None else self.targets.value("space_group", self.seed, index)
        if not isinstance(target, float) or self.space_groups.numbers:
            return self.space_groups
        own = dataclasses.replace(self.space_groups, numbers=(int(target),))
        return own if own.weights(*self._limits(index)) else dataclasses.replace(own, numbers=(1,))

    def fits(self, index: int) -> bool:
        """Whether crystal ``index`` can have one of the space groups asked for."""
        return self.space_groups is None or bool(self._groups(index).weights(*self._limits(index)))

    def _limits(self, index: int) -> tuple[Histogram | None, int, Counts]:
        """What an arrangement must keep: numbers of atoms, fewest orbits, composition."""
        counts = self.counts(index)
        required = 0 if self.rules is None or counts else len(self.rules.required)
        system = None if self.targets is None or counts else self.targets.value("chemical_system", self.seed, index)
        if isinstance(system, str):  # each element needs an orbit
            required = max(required, len(system.split("-")))
        return self.num_atoms if self.sizes_asked and not counts else None, required, counts

    def counts(self, index: int) -> Counts:
        """Atoms of each element of crystal ``index``, empty where its composition is free."""
        if self.compositions is not None:
            return tuple(sorted(self.compositions.counts(index).items()))
        if self.rules is not None and self.rules.formula:
            units = self.rules.units([index])[0]
            return tuple((z, units * count) for z, count in self.rules.formula)
        return ()

    def bounds(self, indices: Sequence[int], num_atoms: Tensor) -> CountBounds | None:
        """The counts that crystals ``indices``, of ``num_atoms (B,)``, must keep; None where nothing is asked."""
        if self.compositions is not None:
            return self.compositions.bounds(indices)
        return None if self.rules is None else self.rules.bounds(num_atoms)

    def numbers(self, indices: Sequence[int], num_atoms: Tensor) -> Tensor:
        """``(N,)``, the elements of crystals ``indices`` for structure prediction."""
        if self.compositions is not None:
            return self.compositions.numbers(indices)
        assert self.rules is not None
        return self.rules.numbers(num_atoms)

    def facts(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What was asked of crystals ``indices``, one mapping of columns each."""
        rows: list[dict[str, Any]] = [{} for _ in indices]
        if self.space_groups is not None:
            for row, one in zip(rows, self.arrangements(indices), strict=True):
                row |= {"asked_space_group": one.template.number, "wyckoff_letters": one.template.letters}
        if self.targets is not None:
            for row, targets in zip(rows, self.targets.rows(self.seed, indices), strict=True):
                row |= targets
        if self.compositions is not None:
            for row, facts in zip(rows, self.compositions.facts(indices), strict=True):
                row |= facts
        if self.rules is not None and self.rules.formula:
            size = self.rules.formula_size
            for row, n in zip(rows, self.sizes(indices).tolist(), strict=True):
                row["formula_units"] = n // size
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"num_atoms": {str(n): w for n, w in self.num_atoms.items()}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Request:
        """The request that :meth:`to_dict` wrote."""
        # An option that is newer than the run is not there.
        fields = {f.name: values[f.name] for f in dataclasses.fields(Request) if f.name in values}
        fields["num_atoms"] = {int(n): float(w) for n, w in values["num_atoms"].items()}
        for name, kind in _PARTS.items():
            if fields.get(name) is not None:
                fields[name] = kind.from_dict(fields[name])
        return Request(**fields)


_PARTS: dict[str, Any] = {
    "rules": Rules,
    "start": Start,
    "targets": Targets,
    "compositions": Compositions,
    "space_groups": SpaceGroups,
}


def make_request(
    model: Model,
    *,
    num: int = 16,
    seed: int = 0,
    num_atoms: int | str | Mapping[int, float] | None = None,
    solver: str | None = None,
    steps: int | None = None,
    precision: str = "float32",
    temperature: float | None = None,
    steering: Steering | None = None,
) -> Request:
    """A checked request; what is None comes from the model.

    Raises:
        InputError: if a value cannot be used.
    """
    from crystalsmith.diffusion.solvers import parse_solver

    own = dict(model.metadata.num_atoms_histogram)
    if num_atoms is None:
        histogram = check_histogram(own, f"the model {model.metadata.name}")
    elif isinstance(num_atoms, Mapping):
        histogram = check_histogram({int(n): float(w) for n, w in num_atoms.items()}, "num_atoms")
    else:
        histogram = parse_num_atoms(str(num_atoms), own)
    defaults = model.metadata.sampling
    own_solver = str(defaults.get("solver", SAMPLING["solver"]))
    solver, settings = parse_solver(solver or own_solver)
    steps = int(defaults.get("steps", SAMPLING["steps"])) if steps is None else steps
    bounds = (("num", num, 1, MAX_CRYSTALS), ("steps", steps, 1, 10**6), ("seed", seed, 0, MAX_SEED))
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise InputError(f"--{name} is {value}; give a whole number from {low} to {high}.")
    temperature = float(defaults.get("temperature", 1.0)) if temperature is None else temperature
    if not 0.05 <= temperature <= 20:
        raise InputError(f"--temperature is {temperature:g}; give a number from 0.05 to 20 (1 is as learned).")
    # The model's settings were chosen for its own solver and mean nothing to another.
    own_settings = {k: v for k, v in defaults.items() if k not in ("solver", "steps", "temperature", "space_group")}
    own_settings = own_settings if solver == own_solver else {}
    steering = steering or Steering()
    compositions = _compositions(model, steering, asked=num_atoms is not None)
    targets = make_targets(model, steering.properties, steering.targets, steering.guidance, steering.guidance_interval)
    if compositions is None:
        rules, start, histogram = _steer(model, steering, histogram, asked=num_atoms is not None)
    else:
        rules, start, histogram = None, None, compositions.histogram()
    if start is not None and start.strength < 1.0:
        own_settings.pop("remask", None)  # it would forget the elements of the crystal
    groups = make_space_groups(_space_group(model, steering, solver, targets), steering.templates)
    given, wanted = steering.given(), (rules, start, targets, compositions, groups, num_atoms is not None)
    request = Request(
        num, seed, histogram, solver, steps, precision, temperature, own_settings | settings, given, *wanted
    )
    return request if groups is None else _within_space_groups(request, steering)


def number_of(steering: Steering, asked: int | None, otherwise: int) -> int:
    """How many crystals: as asked, or what the steering calls for (rows of a table, samples of compositions).

    Raises:
        InputError: if the two contradict one another.
    """
    if steering.compositions is not None:
        if asked is not None:
            raise InputError("--compositions makes --samples crystals of each; leave --num out.")
        samples = 1 if steering.samples is None else steering.samples
        if samples < 1:
            raise InputError(f"--samples is {samples}; give 1 at least.")
        found = make_compositions(steering.compositions, range(1, MASK), split=steering.split, limit=steering.limit)
        return samples * len(found or ())
    if steering.samples is not None:
        raise InputError("--samples counts crystals of each composition; give --compositions FILE, or --num instead.")
    if asked is not None:
        return asked
    if steering.targets is None:
        return otherwise
    return len(next(iter(table_columns(Path(steering.targets)).values())))


def warnings_of(model: Model, request: Request) -> list[str]:
    """What a user should know before a request runs, one sentence each."""
    largest, asked = max(model.metadata.num_atoms_histogram), max(request.num_atoms)
    sentences = [] if request.targets is None else outside_training(request.targets, model.metadata.properties)
    if request.space_groups is not None and request.targets is not None:
        known = {template.number for template in request.space_groups.templates.counts}
        named = {request.targets.value("space_group", request.seed, i) for i in range(min(request.num, 256))}
        if missing := sorted(int(n) for n in named if isinstance(n, float) and n not in known):
            sentences.append(
                f"No known crystal has the space group {missing[0]}: crystals with this target are steered to it, "
                "but it is not kept."
            )
    if asked > largest:
        sentences.append(
            f"Crystals of {asked} atoms are asked for, but the model was trained on at most {largest}; "
            "expect them to be worse."
        )
    return sentences


def _space_group(
    model: Model, wanted: Steering, solver: str, targets: Targets | None
) -> str | int | Sequence[int] | None:
    """The space groups asked for; the model's own choice where nothing is asked that excludes it."""
    if wanted.space_group is not None:
        return wanted.space_group
    if wanted.start_from is not None or solver == "published":
        return None
    targeted = targets is not None and any(t.name == "space_group" and t.guidance > 0 for t in targets.targets)
    return "any" if targeted else model.metadata.sampling.get("space_group")


def _within_space_groups(request: Request, wanted: Steering) -> Request:
    """The request, of its formula units only those that fit its space groups if it named none.

    Raises:
        InputError: if a crystal of the request cannot have them.
    """
    if request.start is not None:
        raise InputError("--space-group and --start-from exclude one another; leave one of them out.")
    if request.solver == "published":
        raise InputError("--solver published does not keep a space group; choose another solver.")
    period = 1
    if request.compositions is not None:
        period = sum(len(units) for units in request.compositions.units)
    elif request.rules is not None and request.rules.formula:
        period = len(request.rules.formula_units)
        fitting = tuple(unit for i, unit in enumerate(request.rules.formula_units) if request.fits(i))
        if wanted.formula_units is None and fitting:
            return dataclasses.replace(request, rules=dataclasses.replace(request.rules, formula_units=fitting))
    for index in range(min(period, request.num)):
        if request.fits(index):
            continue
        counts = request.counts(index)
        atoms = sum(n for _, n in counts)
        formula = wanted.formula or "".join(f"{symbol(z)}{n if n > 1 else ''}" for z, n in counts)
        what = (
            f"has the composition {formula} and {atoms} atoms"
            if counts
            else "has the number of atoms and elements asked for"
        )
        raise InputError(
            f"No known crystal of space group {wanted.space_group} {what}; choose another "
            f"{'composition' if counts else '--num-atoms'} or --space-group any."
        )
    return request


def _compositions(model: Model, wanted: Steering, asked: bool) -> Compositions | None:
    """The compositions asked for; they name every atom, so no other rule may."""
    found = make_compositions(wanted.compositions, model.metadata.elements, split=wanted.split, limit=wanted.limit)
    names = ("formula", "formula_units", "chemical_system", "require_all", "allow", "deny", "require", "start_from")
    others = [name for name in names if getattr(wanted, name)] + ["num_atoms"] * asked
    if found is not None and others:
        raise InputError(f"--compositions names every atom; leave --{others[0].replace('_', '-')} out.")
    return found


def _steer(
    model: Model, wanted: Steering, histogram: Histogram, asked: bool
) -> tuple[Rules | None, Start | None, Histogram]:
    """Rules, start and numbers of atoms that fit one another and the model."""
    elements, csp = model.metadata.elements, not model.process.corrupts_species
    start = make_start(
        wanted.start_from,
        strength=wanted.strength,
        fix_sites=wanted.fix_sites,
        fix_cell=wanted.fix_cell,
        fix_elements=wanted.fix_elements or (csp and wanted.start_from is not None),
        resample=wanted.resample,
    )
    rules = make_rules(
        elements,
        chemical_system=wanted.chemical_system,
        require_all=wanted.require_all,
        allow=wanted.allow,
        deny=wanted.deny,
        require=wanted.require,
        formula=wanted.formula,
        formula_units=wanted.formula_units,
    )
    if csp and start is None and (rules is None or not rules.formula):
        raise InputError(
            f"The model {model.metadata.name} predicts structures of given elements; give --formula or --compositions."
        )
    if start is not None:
        histogram = _sizes_of(start, histogram, asked)
        rules = rules or Rules(tuple(sorted(elements)))
        if rules.formula:
            rules = dataclasses.replace(rules, formula_units=rules.formula_units or tuple(range(1, 65)))
            for n in histogram:
                if n % rules.formula_size or n // rules.formula_size not in rules.formula_units:
                    raise InputError(
                        f"A crystal to start from has {n} atoms, which do not make up --formula {wanted.formula} "
                        "in the formula units asked for; change one of them."
                    )
        _check_start(rules, start, histogram)
    elif rules is not None:
        rules, histogram = fit_sizes(rules, histogram, asked, wanted.formula or "")
        rules.bounds(torch.tensor(list(histogram))).check(torch.tensor(list(histogram)))
    return rules, start, histogram


def _sizes_of(start: Start, histogram: Histogram, asked: bool) -> Histogram:
    """Numbers of atoms of a request that starts from crystals: theirs, or one larger number."""
    sizes = start.sizes()
    if not asked or (len(set(sizes)) == 1 and set(histogram) == set(sizes)):
        return {n: sizes.count(n) / len(sizes) for n in sorted(set(sizes))}
    if len(histogram) > 1 or max(histogram) < max(sizes):
        raise InputError(
            f"--num-atoms with --start-from is one number, at least the {max(sizes)} atoms of the crystal; "
            "leave it out to keep the crystal's own."
        )
    if start.strength < 1.0:
        raise InputError("Atoms are added to a crystal only at --strength 1 (fix the sites and the cell to keep it).")
    return histogram


def _check_start(rules: Rules, start: Start, histogram: Histogram) -> None:
    """Refuse kept atoms that the rules cannot live with."""
    everyone = list(range(len(start.crystals)))
    num_atoms = torch.tensor([max(n, *histogram) if len(histogram) == 1 else n for n in start.sizes()])
    bounds = rules.bounds(num_atoms)
    bounds.check(num_atoms)
    blank = start.batch(everyone, num_atoms)
    blank = blank.replace(atomic_numbers=torch.full_like(blank.atomic_numbers, MASK))
    remask(bounds, blank, start.given(everyone, num_atoms).numbers)
