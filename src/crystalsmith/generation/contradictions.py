"""What a request asks for twice must agree: targets, rules, compositions, starts, templates, and the model's elements.

Rules, starts and compositions are held against one another where each is read; here every plan is held against the
targets that its crystal follows, before anything runs. The empty intersection is an error that names both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from crystalsmith.checkpoints.model import Model
from crystalsmith.elements import chemical_system, parse_chemical_system, symbol
from crystalsmith.errors import InputError
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.request import Request
from crystalsmith.generation.steering import Steering

MOST_PLANS = 2000
"""Plans that are looked at; sources that are taken in turn have come round by then, or nearly."""

Elements = frozenset[int]


def refuse_contradictions(model: Model, request: Request, steering: Steering) -> None:
    """Make sure that every crystal can be what is asked of it.

    Raises:
        InputError: naming the first two things that exclude one another.
    """
    if request.targets is None:
        return
    followed = {target.name for target in request.targets.targets if target.guidance > 0}
    known = frozenset(model.metadata.elements)
    for plan in _different(request):
        wanted = {name: value for name, value in plan.targets if name in followed and value is not None}
        system = wanted.get("chemical_system")
        inside = known
        if isinstance(system, str):
            inside = frozenset(parse_chemical_system(system))
            told = f"--property chemical_system={system}"
            if unknown := sorted(inside - known):
                raise InputError(
                    f"{told}: the model {model.metadata.name} does not know {symbol(unknown[0])}; leave it out."
                )
            _within(plan, steering, inside, told)
        if isinstance(number := wanted.get("num_elements"), float):
            _number_of_elements(plan, steering, inside, number)
        if isinstance(group := wanted.get("space_group"), float):
            _space_group(request, steering, int(group))


def _different(request: Request) -> Iterator[Plan]:
    """Plans without symmetry until all that is taken in turn has come round."""
    assert request.targets is not None
    lengths = [len(target.values) or 1 for target in request.targets.targets]
    if any(target.bounds is not None for target in request.targets.targets):
        lengths.append(64)  # drawn from a range, which a sample stands for
    if request.compositions is not None:
        lengths.append(len(request.compositions))
    if request.start is not None:
        lengths.append(len(request.start.crystals))
    for index in range(min(request.num, math.lcm(*lengths), MOST_PLANS)):
        yield request.without_symmetry(index)


def _needed(plan: Plan, steering: Steering) -> Iterator[tuple[Elements, str]]:
    """Elements that the crystal will have, each set with what asks for it."""
    if plan.counts:
        label = dict(plan.labels).get("target")
        told = f"--formula {steering.formula}" if steering.formula else f"the composition {label}"
        yield frozenset(z for z, _ in plan.counts), told
    if plan.required:
        names = ",".join(symbol(z) for z in plan.required)
        yield frozenset(plan.required), "--require-all" if steering.require_all else f"--require {names}"
    if plan.start is not None:
        if plan.start.fix_elements:
            yield frozenset(plan.start.numbers), "--fix-elements of the crystal to start from"
        elif plan.start.fix_sites:
            yield frozenset(plan.start.numbers[k] for k in plan.start.fix_sites), "--fix-sites"


def _rules(steering: Steering) -> str:
    """The options that narrow the elements, as the user wrote them."""
    given = [(name, getattr(steering, name)) for name in ("chemical_system", "allow", "deny")]
    return " ".join(f"--{name.replace('_', '-')} {_text(value)}" for name, value in given if value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value)) if isinstance(value, Iterable) else str(value)


def _within(plan: Plan, steering: Steering, inside: Elements, told: str) -> None:
    """Refuse a target system that what is needed lies outside of, or that the rules leave nothing of."""
    for needed, why in _needed(plan, steering):
        if outside := sorted(needed - inside):
            raise InputError(
                f"{told} has no {symbol(outside[0])}, which {why} puts into every crystal; change one of them."
            )
    if plan.allowed and not inside & frozenset(plan.allowed):
        raise InputError(f"{told} and {_rules(steering)} leave no element together; change one of them.")


def _number_of_elements(plan: Plan, steering: Steering, inside: Elements, number: float) -> None:
    """Refuse a number of elements that composition or rules exclude."""
    told = f"--property num_elements={number:g}"
    if plan.counts and round(number) != len(plan.counts):
        _, why = next(_needed(plan, steering))
        raise InputError(f"{told} contradicts {why}, which has {len(plan.counts)}; leave the target out.")
    for needed, why in _needed(plan, steering):
        if round(number) < len(needed):
            raise InputError(f"{told} contradicts {why}, which has {len(needed)} elements; change one of them.")
    left = inside & frozenset(plan.allowed) if plan.allowed else inside
    if round(number) > len(left):
        names = chemical_system(left) if len(left) <= 6 else f"{len(left)} elements"
        raise InputError(f"{told}: only {names} may appear in the crystals; change one of them.")


def _space_group(request: Request, steering: Steering, group: int) -> None:
    """Refuse a target space group outside those that are asked for."""
    groups = request.space_groups
    if steering.space_group is not None and groups is not None and groups.numbers and group not in groups.numbers:
        raise InputError(
            f"--property space_group={group} lies outside --space-group {_text(steering.space_group)}; "
            "change one of them."
        )


def partly_outside(request: Request) -> list[str]:
    """A sentence for each target system of which the rules leave only a part."""
    if request.targets is None or request.rules is None or request.rules.formula:
        return []
    allowed = frozenset(request.rules.allowed)
    sentences = []
    for target in request.targets.targets:
        if target.name != "chemical_system" or target.guidance <= 0:
            continue
        for value in dict.fromkeys(target.values):
            lost = sorted(frozenset(parse_chemical_system(value)) - allowed) if isinstance(value, str) else []
            if lost:
                names = ", ".join(symbol(z) for z in lost)
                sentences.append(f"chemical_system={value}: the rules exclude {names}, which will not appear.")
    return sentences


def sizes_left_out(asked: object, request: Request) -> list[str]:
    """What to say of a range of numbers of atoms of which only a part is made."""
    low, dash, high = str(asked).partition("-")
    if not (dash and low.strip().isdigit() and high.strip().isdigit()):
        return []
    sizes, wanted = sorted(request.num_atoms), range(int(low), int(high) + 1)
    groups = request.space_groups
    if groups is not None and groups.of_crystals:
        own = {groups.templates.size(template) for template in groups.templates.counts}
        sizes = [n for n in sizes if n in own]
    missing = [n for n in wanted if n not in sizes]
    if not missing or request.start is not None or (request.rules is not None and request.rules.formula):
        return []
    shown = ", ".join(map(str, sizes[:12])) + (", ..." if len(sizes) > 12 else "")
    return [
        f"--num-atoms {asked}: only {shown} are made, as the model saw no others of that range (or the rules or "
        "templates leave no others); to ask for them all the same, give a file of numbers of atoms and weights."
    ]
