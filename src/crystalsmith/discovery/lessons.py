"""What came of a run's lessons: the candidates of each model, and its yield beside that of the model before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crystalsmith.discovery.candidate import Candidate, State
from crystalsmith.discovery.proposals import UNTOUCHED


@dataclass(frozen=True)
class Taught:
    """What became of the candidates that one model made; known crystals as they are are no model's.

    Attributes:
        lesson: how many the model had had.
        proposed, estimated, relaxed, accepted: of its candidates.
        promising: of the estimated ones, those that one energy puts within what is asked of the hull.
        budget: relaxations by which it is set beside the model before: as many as both have.
        before: accepted of the last so many of the model before.
        after: accepted of the first so many of its own.
    """

    lesson: int
    proposed: int
    estimated: int
    promising: int
    relaxed: int
    accepted: int
    budget: int = 0
    before: int = 0
    after: int = 0


def taught(state: State, limit: float | None) -> list[Taught]:
    """What became of the candidates of the model as it began and after each lesson; empty where there was none.

    Relaxations are in the order they were decided on, so it is the same however many workers did them.

    Args:
        limit: energy above the hull that the wish allows, eV/atom.
    """
    if not state.lessons:
        return []
    order = [state.candidates[n] for _, numbers in sorted(state.chosen.items()) for n in numbers]
    bound = float("inf") if limit is None else limit
    found: list[Taught] = []
    spent: list[Candidate] = []
    for lesson in range(len(state.lessons) + 1):
        mine = [c for c in state.candidates.values() if c.lesson == lesson and c.plan["source"] != UNTOUCHED]
        numbers = {c.number for c in mine if _reached(c, "relaxed")}
        relaxed = [c for c in order if c.number in numbers]
        budget = min(len(spent), len(relaxed))
        found.append(
            Taught(
                lesson,
                proposed=len(mine),
                estimated=sum(_reached(c, "estimated") for c in mine),
                promising=sum(float(c.values.get("estimated_above_hull", "inf")) <= bound for c in mine),
                relaxed=len(relaxed),
                accepted=sum(c.accepted for c in mine),
                budget=budget,
                before=sum(c.accepted for c in spent[len(spent) - budget :]),
                after=sum(c.accepted for c in relaxed[:budget]),
            )
        )
        spent = relaxed
    return found


def changed(found: Sequence[Taught]) -> str:
    """What the last lesson changed that can be told yet, in half a sentence; empty where nothing can."""
    last = next((one for one in reversed(found) if one.budget), None)
    if last is None:
        return ""
    return (
        f"lesson {last.lesson}: {last.after} of the first {last.budget} relaxations after it accepted, "
        f"{last.before} of the last {last.budget} before"
    )


def _reached(candidate: Candidate, stage: str) -> bool:
    return any(name == stage for name, _, _ in candidate.history)
