"""From what a user asks to a request that the model can fulfil, or a sentence that says why it cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crystalsmith.checkpoints.model import SAMPLING, Model
from crystalsmith.diffusion.composition import CountBounds, remask
from crystalsmith.elements import MASK, symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.choosing import Choosing, make_choosing
from crystalsmith.generation.compositions import Compositions, make_compositions
from crystalsmith.generation.contradictions import partly_outside, refuse_contradictions, sizes_left_out
from crystalsmith.generation.num_atoms import Histogram, check_histogram, parse_num_atoms
from crystalsmith.generation.plans.formula import ruled
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.plans.start import started
from crystalsmith.generation.plans.units import with_units
from crystalsmith.generation.request import Request
from crystalsmith.generation.rules import (
    Rules,
    fit_sizes,
    keeping,
    make_rules,
    parse_preference,
    parse_template_elements,
)
from crystalsmith.generation.setting import batch_of, bounds_of, given_of, sizes_of
from crystalsmith.generation.space_groups import (
    FREE,
    check_template_elements,
    make_space_groups,
    models_with_templates,
)
from crystalsmith.generation.start import Starts, make_starts
from crystalsmith.generation.steering import Steering
from crystalsmith.generation.targets import Targets, make_targets, outside_training, table_columns
from crystalsmith.properties import canonical_name

MAX_CRYSTALS = 2**32
"""Crystal indices take one word of the random stream's counter."""

NOT_OF_THE_SOLVER = (
    *("solver", "steps", "temperature", "space_group", "templates", "targets", "guidance"),
    *("select", "selector"),
)
"""Entries of a model's ``sampling`` that are no settings of its solver."""

MAX_SEED = 2**63 - 1


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
    own_settings = {k: v for k, v in defaults.items() if k not in NOT_OF_THE_SOLVER}
    own_settings = own_settings if solver == own_solver else {}
    steering = steering or Steering()
    compositions = _compositions(model, steering, asked=num_atoms is not None)
    guidance = steering.guidance if steering.guidance is not None else defaults.get("guidance")
    targets = make_targets(model, _with_own(steering, defaults), steering.targets, guidance, steering.guidance_interval)
    if compositions is None:
        rules, start, histogram = _steer(model, steering, histogram, num, asked=num_atoms is not None)
    else:
        rules, start, histogram = None, None, compositions.histogram()
    if start is not None and start.strength < 1.0 and not start.redecorate:
        own_settings.pop("remask", None)  # it would forget the elements of the crystal
    instead = parse_template_elements(steering.template_elements)
    disorder = _disorder(steering)
    check_template_elements(instead, steering.templates, disorder)
    asked_groups = _space_group(model, steering, solver, targets)
    groups = make_space_groups(asked_groups, _templates(model, steering, asked_groups), instead, disorder)
    given, wanted = steering.given(), (rules, start, targets, compositions, groups, num_atoms is not None)
    choosing = _choosing(steering, defaults)
    prefer = parse_preference(steering.prefer)
    if prefer and not model.process.corrupts_species:
        raise InputError(f"The model {model.metadata.name} is given its elements; leave --prefer out.")
    request = Request(
        num,
        seed,
        histogram,
        solver,
        steps,
        precision,
        temperature,
        own_settings | settings,
        given,
        *wanted,
        choosing,
        prefer,
    )
    if compositions is not None:
        request = with_units(request, own)
    refuse_contradictions(model, request, steering)
    return request if groups is None else _within_space_groups(request, steering)


def _choosing(steering: Steering, defaults: Mapping[str, Any]) -> Choosing | None:
    """As the user says; how many proposals and by what, where they say nothing, as the model's own settings do."""
    select, selector = steering.select, steering.selector
    if select is None and selector is None and "select" in defaults:
        select, selector = int(defaults["select"]), defaults.get("selector")
    return make_choosing(steering.novel_to, select, selector)


def _with_own(steering: Steering, defaults: Mapping[str, Any]) -> Any:
    """The targets that the user names, and those of the model's own that they do not name."""
    given, own = steering.properties, dict(defaults.get("targets") or {})
    if not own:
        return given
    pairs = given.items() if isinstance(given, Mapping) else [str(x).partition("=")[::2] for x in given or ()]
    named = dict(pairs)
    told = {canonical_name(str(name).strip()) for name in named}
    if steering.targets is not None:
        told |= {canonical_name(name) for name in table_columns(Path(steering.targets))}
    return {name: value for name, value in own.items() if canonical_name(name) not in told} | named


def _disorder(steering: Steering) -> str:
    """What becomes of partly occupied sites of the crystals that are named.

    Raises:
        InputError: if none are.
    """
    files = (steering.start_from, steering.templates, steering.compositions)
    if steering.disorder is not None and not any(isinstance(file, str | Path) for file in files):
        raise InputError(
            "--disorder is of the crystals of a file; give --start-from, --templates or --compositions FILE, too."
        )
    return steering.disorder or "refuse"


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
        found = make_compositions(
            steering.compositions,
            range(1, MASK),
            split=steering.split,
            limit=steering.limit,
            disorder=_disorder(steering),
        )
        return samples * len(found or ())
    if steering.samples is not None:
        raise InputError("--samples counts crystals of each composition; give --compositions FILE, or --num instead.")
    if asked is not None:
        return asked
    if steering.targets is None:
        return otherwise
    return len(next(iter(table_columns(Path(steering.targets)).values())))


def warnings_of(model: Model, request: Request, num_atoms: object = None) -> list[str]:
    """What a user should know before a request runs, one sentence each.

    Args:
        num_atoms: as it was asked for.
    """
    largest, asked = max(model.metadata.num_atoms_histogram), max(request.num_atoms)
    sentences = [] if request.targets is None else outside_training(request.targets, model.metadata.properties)
    if request.space_groups is not None and request.targets is not None:
        known = {template.number for template in request.space_groups.templates.counts}
        followed = {name for name, factor in request.targets.guidance.items() if factor > 0}
        asked_ones = (dict(request.plan(i).targets) for i in range(min(request.num, 256)))
        named = {one.get("space_group") for one in asked_ones if "space_group" in followed}
        if missing := sorted(int(n) for n in named if isinstance(n, float) and n not in known):
            sentences.append(
                f"No known crystal has the space group {missing[0]}: crystals with this target are steered to it, "
                "but it is not kept."
            )
    sentences += [*partly_outside(request), *([] if num_atoms is None else sizes_left_out(num_atoms, request))]
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


def _templates(model: Model, wanted: Steering, asked: str | int | Sequence[int] | None) -> str | None:
    """The templates asked for; those that the model brings where space groups are asked and nothing is said."""
    own = model.metadata.sampling.get("templates")
    if wanted.templates is not None or own is None or asked in (None, FREE):
        return wanted.templates
    if own not in models_with_templates():
        raise InputError(
            f"The model {model.metadata.name} samples with the templates of {own!r}, which this installation does not "
            "have; give --templates, or take them out of metadata.sampling in its config.json."
        )
    return str(own)


def _within_space_groups(request: Request, wanted: Steering) -> Request:
    """The request, of its formula units only those that fit its space groups if it named none.

    Raises:
        InputError: if a crystal of the request cannot have them.
    """
    if request.start is not None:
        name = "--templates" if wanted.space_group is None else "--space-group"
        raise InputError(f"{name} and --start-from exclude one another; leave one of them out.")
    if request.solver == "published":
        raise InputError("--solver published does not keep a space group; choose another solver.")
    assert request.space_groups is not None
    for template in request.space_groups.templates.counts if request.space_groups.elements else ():
        held = request.space_groups.held(template)
        needed = set(request.rules.required if request.rules else ()) - set(held)
        if len(needed) > held.count(0):
            raise InputError(
                f"Beside --template-elements the template has {held.count(0)} orbits, but {len(needed)} further "
                "elements are required; require fewer or leave more orbits open."
            )
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
        counts = request.without_symmetry(index).counts
        atoms = sum(n for _, n in counts)
        formula = wanted.formula or "".join(f"{symbol(z)}{n if n > 1 else ''}" for z, n in counts)
        what = (
            f"has the composition {formula} and {atoms} atoms"
            if counts
            else "has the number of atoms and elements asked for"
        )
        group = "any" if wanted.space_group is None else wanted.space_group
        if request.space_groups.of_crystals:
            raise InputError(f"No template of {request.space_groups.file} {what}; change one of them.")
        raise InputError(
            f"No known crystal of space group {group} {what}; choose another "
            f"{'composition' if counts else '--num-atoms'} or --space-group any."
        )
    return request


def _compositions(model: Model, wanted: Steering, asked: bool) -> Compositions | None:
    """The compositions asked for; they name every atom, so no other rule may."""
    found = make_compositions(
        wanted.compositions,
        model.metadata.elements,
        split=wanted.split,
        limit=wanted.limit,
        disorder=_disorder(wanted),
    )
    names: tuple[str, ...] = (
        "formula",
        "formula_units",
        "chemical_system",
        "require_all",
        "allow",
        "deny",
        "require",
        "start_from",
    )
    names += ("deny_list", "max_hhi", "prefer", "strength", "fix_sites", "fix_cell", "fix_elements", "resample")
    names += ("template_elements",)
    others = [name for name in names if getattr(wanted, name) not in (None, False, "")] + ["num_atoms"] * asked
    if found is not None and others:
        raise InputError(f"--compositions names every atom; leave --{others[0].replace('_', '-')} out.")
    return found


def _steer(
    model: Model, wanted: Steering, histogram: Histogram, num: int, asked: bool
) -> tuple[Rules | None, Starts | None, Histogram]:
    """Rules, start and numbers of atoms that fit one another and the model."""
    elements, csp = model.metadata.elements, not model.process.corrupts_species
    start = make_starts(
        wanted.start_from,
        strength=wanted.strength,
        fix_sites=wanted.fix_sites,
        fix_cell=wanted.fix_cell,
        fix_elements=wanted.fix_elements or (csp and wanted.start_from is not None),
        resample=wanted.resample,
        redecorate=wanted.redecorate,
        disorder=_disorder(wanted),
    )
    if start is not None:  # further crystals of a long file would start nothing
        start = dataclasses.replace(start, crystals=start.crystals[:num])
    if wanted.redecorate and csp:
        raise InputError(f"The model {model.metadata.name} does not choose elements; --redecorate needs one that does.")
    rules = make_rules(
        elements,
        chemical_system=wanted.chemical_system,
        require_all=wanted.require_all,
        allow=wanted.allow,
        deny=wanted.deny,
        require=wanted.require,
        formula=wanted.formula,
        formula_units=wanted.formula_units,
        deny_list=wanted.deny_list,
        max_hhi=wanted.max_hhi,
    )
    rules = keeping(rules, elements, parse_template_elements(wanted.template_elements))
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
        _check([ruled(Plan(0, 0, num_atoms=n), rules) for n in histogram])
    return rules, start, histogram


def _sizes_of(start: Starts, histogram: Histogram, asked: bool) -> Histogram:
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


def _check_start(rules: Rules, starts: Starts, histogram: Histogram) -> None:
    """Refuse kept atoms that the rules cannot live with."""
    plans = [ruled(started(Plan(0, k), starts, histogram), rules) for k in range(len(starts.crystals))]
    bounds, num_atoms = _check(plans), sizes_of(plans)
    kept = [plan.start for plan in plans if plan.start is not None]
    blank = batch_of(kept, num_atoms)
    blank = blank.replace(atomic_numbers=torch.full_like(blank.atomic_numbers, MASK))
    remask(bounds, blank, given_of(kept, num_atoms).numbers)


def _check(plans: Sequence[Plan]) -> CountBounds:
    """The bounds of plans with rules, which crystals of their sizes can keep."""
    bounds = bounds_of(plans, sizes_of(plans))
    assert bounds is not None
    bounds.check(sizes_of(plans))
    return bounds
