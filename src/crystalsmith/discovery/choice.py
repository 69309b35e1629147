"""Which candidates are relaxed next, and whether a run is over: decisions that follow from the state alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from crystalsmith.discovery.candidate import Candidate, State
from crystalsmith.discovery.estimate import Estimate, chance, chance_to_meet, fit_chance, fit_steps, price
from crystalsmith.discovery.wish import Limits, Wish


def estimate_of(candidate: Candidate, limit: float | None) -> Estimate | None:
    """What was estimated of a candidate; None where there is no hull or no estimate."""
    above = candidate.values.get("estimated_above_hull")
    if above is None or candidate.raw is None:
        return None
    excess = float(above) - (0.0 if limit is None else limit)
    return Estimate(excess, float(candidate.values.get("force", 0.0)), len(candidate.raw[2]))


def succeeded(candidate: Candidate) -> bool | None:
    """Whether relaxing a candidate gave what is asked of the hull, new and unique; None if it was not relaxed."""
    if not any(stage == "relaxed" for stage, _, _ in candidate.history) or candidate.open:
        return None
    # What fails later fails by a property that is calculated, about which the estimate says nothing.
    return candidate.accepted or candidate.stage == "calculated"


def choose(state: State, wish: Wish, errors: Mapping[str, float]) -> tuple[list[int], dict[int, float]]:
    """The candidates to relax next, best first, and the chance of each that waits.

    Args:
        errors: standard error of each predicted property.
    """
    waiting = [c for _, c in sorted(state.candidates.items()) if c.waiting]
    if wish.plain:
        return [c.number for c in waiting], {}
    limit = wish.hull_limit
    done = [(c, e) for _, c in sorted(state.candidates.items()) if (e := estimate_of(c, limit)) is not None]
    outcomes = [(e, success) for c, e in done if (success := succeeded(c)) is not None]
    steps = [(e, int(c.values["steps"])) for c, e in done if c.values.get("steps")]
    odds, work = fit_chance(outcomes), fit_steps(steps)
    chances, worth = {}, {}
    for c in waiting:
        one = estimate_of(c, limit)
        p = 0.5 if one is None else chance(odds, one)
        for test in wish.tests:
            predicted = c.values.get(f"predicted_{test.name}")
            if predicted is not None:
                p *= chance_to_meet(test, float(predicted), errors.get(test.name, math.inf))
        cost = 1.0 if one is None or wish.price == "relaxations" else price(work, one)
        chances[c.number], worth[c.number] = p, p / cost
    order = sorted(worth, key=lambda number: (-worth[number], number))
    return order[: wish.relaxations], {number: round(p, 6) for number, p in chances.items()}


def over(state: State, limits: Limits) -> str:
    """Why a run ends here; empty if it goes on."""
    if limits.want is not None and len(state.accepted) >= limits.want:
        return f"{limits.want} candidates are found"
    if limits.relaxations is not None and state.relaxations >= limits.relaxations:
        return f"{limits.relaxations} relaxations are spent"
    for name, number in limits.calculations.items():
        if state.calculations(name) >= number:
            return f"{number} calculations of {name} are spent"
    if limits.rounds is not None and limits.rounds in state.done_rounds:
        return "every proposal has its verdict"
    if limits.hours is not None and state.at >= 3600 * limits.hours:
        return f"{limits.hours:g} hours are spent"
    return ""
