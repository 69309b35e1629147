"""A candidate and its whole history; and the state of a run, which is nothing but its ledger read from the top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crystalsmith.evaluation.matching import Arrays

STAGES = ("proposed", "screened", "estimated", "chosen", "relaxed", "judged", "calculated", "accepted")
"""In the order a candidate passes them; ``calculated`` only where a requirement takes it."""

LEARNED = "learned"
"""A line of the ledger that is no candidate's: a lesson."""


@dataclass
class Candidate:
    """One candidate.

    Attributes:
        number: its place in the run, and of its random stream.
        round: that it was proposed in.
        plan: how it was made, plain values; see :class:`crystalsmith.discovery.proposals.Proposal`.
        raw, relaxed: the crystal before and after relaxation.
        stage: the last one it reached.
        dropped: why it was dropped, a word; empty while it is in the running or accepted.
        detail: the same for a person.
        values: numbers and words by name: estimates, energies, properties.
        history: ``(stage, at, seconds)``: when it was over, in seconds of run time, and what it took.
        lesson: how many lessons the model had had that proposed it.
    """

    number: int
    round: int
    plan: dict[str, Any]
    raw: Arrays | None = None
    relaxed: Arrays | None = None
    stage: str = "proposed"
    dropped: str = ""
    detail: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[str, float, float]] = field(default_factory=list)
    lesson: int = 0

    @property
    def name(self) -> str:
        """As in files: ``c00012``."""
        return f"c{self.number:05d}"

    @property
    def accepted(self) -> bool:
        """Whether it meets the wish."""
        return self.stage == "accepted"

    @property
    def waiting(self) -> bool:
        """Whether it is estimated and may still be chosen to be relaxed."""
        return self.stage == "estimated" and not self.dropped

    @property
    def open(self) -> bool:
        """Whether it was chosen and its verdict is still to come."""
        return self.stage in ("chosen", "relaxed", "judged", "calculated") and not self.dropped

    @property
    def seconds(self) -> float:
        """What it has taken."""
        return sum(seconds for _, _, seconds in self.history)


@dataclass(frozen=True)
class Lesson:
    """What the model was taught before a round.

    Attributes:
        round: the first that the taught model proposed.
        relaxations: that had been done.
        facts: what it was made of: ``own`` crystals, ``copies`` of each, ``real`` ones, ``updates``, ``validation``.
    """

    round: int
    relaxations: int
    facts: dict[str, Any]


@dataclass
class State:
    """All that a run has found out, in the order it did.

    Attributes:
        candidates: by number.
        chosen: numbers in the order they are to be relaxed, round by round; a round that is there is decided.
        lessons: in the order they were given.
        at: seconds of run time, all sessions together.
    """

    candidates: dict[int, Candidate] = field(default_factory=dict)
    chosen: dict[int, list[int]] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)
    at: float = 0.0

    @staticmethod
    def of(lines: Iterable[Mapping[str, Any]]) -> State:
        """The state that the lines of a ledger amount to."""
        state = State()
        for line in lines:
            state.take(line)
        return state

    def take(self, line: Mapping[str, Any]) -> None:
        """One more line of the ledger."""
        stage = line["stage"]
        self.at = max(self.at, float(line.get("at", 0.0)))
        if stage == LEARNED:
            self.lessons.append(Lesson(line["round"], self.relaxations, dict(line["values"])))
            return
        if stage == "choice":
            self.chosen[line["round"]] = list(line["numbers"])
            for number, chance in line.get("chances", {}).items():
                self.candidates[int(number)].values["chance"] = chance
            for number in line["numbers"]:
                self.candidates[number].stage = "chosen"
            return
        number = line["number"]
        if stage == "proposed":
            self.candidates[number] = Candidate(number, line["round"], dict(line["plan"]), lesson=len(self.lessons))
        candidate = self.candidates[number]
        candidate.stage = stage
        candidate.dropped, candidate.detail = line.get("dropped", ""), line.get("detail", "")
        candidate.values |= line.get("values", {})
        candidate.history.append((stage, float(line.get("at", 0.0)), float(line.get("seconds", 0.0))))
        if line.get("crystal") is not None:
            arrays = from_plain(line["crystal"])
            if stage == "relaxed":
                candidate.relaxed = arrays
            else:
                candidate.raw = arrays

    @property
    def accepted(self) -> list[Candidate]:
        """The candidates that meet the wish, in the order they were found."""
        found = [c for c in self.candidates.values() if c.accepted]
        return sorted(found, key=lambda c: c.history[-1][1])

    @property
    def relaxations(self) -> int:
        """How many have been done."""
        return sum(any(stage == "relaxed" for stage, _, _ in c.history) for c in self.candidates.values())

    def calculations(self, name: str) -> int:
        """How many calculations of a property have been done."""
        return sum(f"calculated_{name}" in c.values for c in self.candidates.values())

    @property
    def done_rounds(self) -> set[int]:
        """How many rounds are over, from the first on: those whose chosen candidates all have their verdict."""
        return {r + 1 for r, numbers in self.chosen.items() if not any(self.candidates[n].open for n in numbers)}

    def of_round(self, round_: int) -> list[Candidate]:
        """The candidates proposed in a round, by number."""
        return [c for _, c in sorted(self.candidates.items()) if c.round == round_]


def to_plain(arrays: Arrays) -> dict[str, Any]:
    """A crystal for JSON."""
    frac, cell, numbers = arrays
    return {"frac": frac.tolist(), "cell": cell.tolist(), "numbers": numbers.tolist()}


def from_plain(crystal: Mapping[str, Any]) -> Arrays:
    """The crystal of :func:`to_plain`."""
    return (
        np.array(crystal["frac"], dtype=np.float64).reshape(-1, 3),
        np.array(crystal["cell"], dtype=np.float64),
        np.array(crystal["numbers"], dtype=np.int64),
    )
