"""The loop: propose, screen, estimate, choose, relax, judge, calculate, accept; round by round, until it is enough.

The decisions of a round depend on the outcomes of the rounds before it alone, and every outcome is in the ledger before
the next thing begins. So a run that was killed goes on as if nothing had happened, and one that is asked for more later
finds what an undisturbed run would have found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from crystalsmith.discovery.archive import TABLE, Archive, write_table
from crystalsmith.discovery.candidate import LEARNED, Candidate, to_plain
from crystalsmith.discovery.choice import choose, over
from crystalsmith.discovery.judging import Judge, unmet
from crystalsmith.discovery.known import Known
from crystalsmith.discovery.learning import Teacher, due
from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.making import Maker
from crystalsmith.discovery.page import write_page
from crystalsmith.discovery.proposals import draw_round
from crystalsmith.discovery.screening import Candidate as Matched
from crystalsmith.discovery.screening import Seen, known_as, relatives, sanity
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.discovery.work import Outcome, Task, Workshop
from crystalsmith.evaluation.judge import facts_or_problem
from crystalsmith.evaluation.reference.known import Reference

PUBLISH = 30.0
"""Seconds between two versions of the table and the page."""

DOUBTFUL, DOUBT = 0.1, "as a rule the potential's error; look at it before all else"
"""eV/atom below the hull from which an accepted candidate carries a word of warning."""


class Loop:
    """A run in progress.

    Args:
        folder: of the run; its ledger says what is known already.
        reference, known: what is known, and the same as starts; None where there is none.
        allowed, required: atomic numbers, from the wish's rules.
        errors: standard error of each predicted property.
        teacher: gives the lessons; None where the model does not learn.
        shield: holds signals back while a line is written.
    """

    def __init__(
        self,
        folder: Folder,
        reference: Reference | None,
        known: Known | None,
        maker: Maker,
        workshop: Workshop,
        judge: Judge,
        allowed: Sequence[int],
        required: Sequence[int],
        errors: dict[str, float],
        teacher: Teacher | None = None,
        shield: Any = nullcontext,
    ) -> None:
        self.folder, self.reference, self.known = folder, reference, known
        self.maker, self.workshop, self.judge = maker, workshop, judge
        self.allowed, self.required, self.errors, self.shield = allowed, required, errors, shield
        self.teacher = teacher
        self.wish: Wish = folder.wish
        self.limits: Limits = folder.limits
        self.state = folder.state()
        self.archive = Archive(folder.path)
        self.before, self.began = self.state.at, time.monotonic()
        self.published = -PUBLISH
        self.properties = tuple(
            dict.fromkeys([*(t.name for t in self.wish.tests), *(p.name for p in judge.predictors)])
        )
        self.raw, self.relaxed = Seen(), Seen()
        for _, candidate in sorted(self.state.candidates.items()):
            screened_out = candidate.stage == "screened" and candidate.dropped
            if candidate.raw is not None and candidate.stage != "proposed" and not screened_out:
                self.raw.add(Matched(candidate.name, candidate.raw))
        judged = [(at, c) for c in self.state.candidates.values() for stage, at, _ in c.history if stage == "judged"]
        for _, candidate in sorted(judged, key=lambda x: x[0]):
            if candidate.relaxed is not None and candidate.dropped not in ("known", "duplicate"):
                self.relaxed.add(Matched(candidate.name, candidate.relaxed))

    def run(self) -> Iterator[str]:
        """Go on until the limits are reached; tells where it stands after each stage.

        Yields:
            A sentence for the person who waits.
        """
        round_ = max(self.state.chosen, default=-1)
        if round_ < 0 or not any(self.state.candidates[n].open for n in self.state.chosen[round_]):
            round_ += 1
        while not self.why_over() and (self.limits.rounds is None or round_ < self.limits.rounds):
            fresh = round_ not in self.state.chosen and not self.state.of_round(round_)
            if fresh and self.teacher is not None and due(self.state, self.wish):
                yield from self._learn(self.teacher, round_)
            stages = ("propose", "screen", "estimate", "choose") if round_ not in self.state.chosen else ()
            for stage in (*stages, "spend"):
                for _ in getattr(self, f"_{stage}")(round_):
                    if self.why_over():
                        return
                    self.publish()
            yield self.sentence(round_)
            round_ += 1

    def why_over(self) -> str:
        """Why the run ends here; empty if it goes on."""
        self.state.at = max(self.state.at, self.at)
        return over(self.state, self.limits)

    @property
    def at(self) -> float:
        """Seconds of run time, all sessions together."""
        return self.before + time.monotonic() - self.began

    def sentence(self, round_: int) -> str:
        """Where the run stands."""
        state = self.state
        waiting = sum(c.waiting for c in state.candidates.values())
        want = "" if self.limits.want is None else f" of {self.limits.want}"
        return (
            f"round {round_ + 1}: {len(state.candidates)} proposed, {waiting} waiting, {state.relaxations} relaxed, "
            f"{len(state.accepted)}{want} accepted, {self.at / 60:.1f} min"
        )

    def publish(self, now: bool = False) -> None:
        """Bring the database, the table and the page up to date; not more often than is useful."""
        if not now and time.monotonic() - self.published < PUBLISH:
            return
        with self.shield():
            self.archive.keep([c for _, c in sorted(self.state.candidates.items())], self.properties)
            write_table(self.folder.path / TABLE, self.state, self.properties)
            write_page(self.folder, self.state, self.reference, self.limits, self.properties, self.why_over())
        self.published = time.monotonic()

    def _add(self, stage: str, candidate: Candidate | None, seconds: float = 0.0, **facts: Any) -> None:
        line: dict[str, Any] = {"stage": stage, "at": round(self.at, 3), "seconds": round(seconds, 4), **facts}
        if candidate is not None:
            line["number"] = candidate.number
        with self.shield():
            self.state.take(self.folder.add(line))

    def _learn(self, teacher: Teacher, round_: int) -> Iterator[str]:
        """Teach the model before a round, and go on with what came of it."""
        began = time.monotonic()
        facts = teacher.teach(self.state)
        if facts is None:
            return
        self._add(LEARNED, None, time.monotonic() - began, round=round_, values=facts)
        lessons = len(self.state.lessons)
        self.maker.take(teacher.load(self.state))
        yield (
            f"lesson {lessons}: {facts['own']} crystals of its own beside {facts['real']:,} real ones, "
            f"{facts['updates']} updates, {(time.monotonic() - began) / 60:.1f} min"
        )

    def _propose(self, round_: int) -> Iterator[None]:
        earlier = [c for _, c in sorted(self.state.candidates.items()) if c.round < round_]
        planned = draw_round(self.wish, round_, earlier, self.known, self.allowed, self.required)
        done = {c.number for c in self.state.of_round(round_)}
        for one, arrays, failure, seconds in self.maker.make(planned, done):
            self._add(
                "proposed",
                None,
                seconds,
                number=one.number,
                round=round_,
                plan=one.to_dict(),
                crystal=None if arrays is None else to_plain(arrays),
                **({"dropped": "not_made", "detail": failure} if failure else {}),
            )
            yield

    def _screen(self, round_: int) -> Iterator[None]:
        for candidate in self.state.of_round(round_):
            if candidate.stage != "proposed" or candidate.dropped or candidate.raw is None:
                continue
            began = time.monotonic()
            facts, word, detail = sanity(candidate.raw, self.allowed, strict=not self.wish.plain)
            matched = Matched(candidate.name, candidate.raw)
            if not word and not self.wish.plain:
                if self.wish.novel and (name := known_as(matched, self.reference)):
                    word, detail = "known", f"is {name}"
                elif name := self.raw.same(matched) or self.relaxed.same(matched):
                    word, detail = "duplicate", f"is {name}"
                elif matched.problem:
                    word, detail = "not_matched", matched.problem
            if not word:
                self.raw.add(matched)
            values = {} if facts is None else {"formula": facts.formula, "generated_space_group": facts.space_groups[0]}
            self._add("screened", candidate, time.monotonic() - began, dropped=word, detail=detail, values=values)
            yield

    def _estimate(self, round_: int) -> Iterator[None]:
        ready = [c for c in self.state.of_round(round_) if c.stage == "screened" and not c.dropped]
        if self.wish.plain:
            for candidate in ready:
                self._add("estimated", candidate)
            return
        began = time.monotonic()
        predicted = self._predicted(ready)
        share = (time.monotonic() - began) / max(1, len(ready))
        tasks: list[Task] = [("energy", c.name, c.raw) for c in ready if c.raw is not None]
        for number, outcome in self.workshop.run(tasks):
            candidate = ready[number]
            word, detail, values = outcome.failure, outcome.detail, dict(predicted[number])
            if outcome.values is not None and candidate.raw is not None:
                placed = self.judge.place(candidate.raw, outcome.values["energy"])
                values["force"] = outcome.values["force"]
                if "energy_above_hull" in placed:
                    values["estimated_above_hull"] = placed["energy_above_hull"]
                elif "problem" in placed:
                    word, detail = "not_on_hull", placed["problem"]
            self._add("estimated", candidate, outcome.seconds + share, dropped=word, detail=detail, values=values)
            yield

    def _predicted(self, ready: Sequence[Candidate]) -> list[dict[str, float]]:
        """What the predictors say of the crystals before relaxation, of the properties that are required."""
        found: list[dict[str, float]] = [{} for _ in ready]
        wanted = {test.name for test in self.wish.tests}
        for predictor in self.judge.predictors:
            if predictor.name in wanted and ready:
                values = predictor([c.raw for c in ready if c.raw is not None])
                for one, value in zip(found, values, strict=True):
                    if value == value:
                        one[f"predicted_{predictor.name}"] = float(value)
        return found

    def _choose(self, round_: int) -> Iterator[None]:
        numbers, chances = choose(self.state, self.wish, self.errors)
        self._add("choice", None, round=round_, numbers=numbers, chances={str(k): v for k, v in chances.items()})
        yield

    def _spend(self, round_: int) -> Iterator[None]:
        """Relax, judge, calculate and accept what was chosen, in that order and no further than the limits."""
        left = [self.state.candidates[n] for n in self.state.chosen[round_] if self.state.candidates[n].open]
        # One at a time where one process computes, so that a run ends the moment it has what it wants.
        size = 1 if self.workshop.one_by_one else max(1, len(left))
        for first in range(0, len(left), size):
            some = left[first : first + size]
            self._relax(some)
            for candidate in some:
                if candidate.stage == "relaxed" and not candidate.dropped:
                    self._judge(candidate)
            self._calculate(some)
            for candidate in some:
                ready = candidate.stage == "calculated" if self.wish.calculated else candidate.stage == "judged"
                enough = self.limits.want is not None and len(self.state.accepted) >= self.limits.want
                if ready and not candidate.dropped and not enough:
                    below = -float(candidate.values.get("energy_above_hull", 0.0))
                    doubt = f"{below:.2f} eV/atom below the hull: {DOUBT}" if below > DOUBTFUL else ""
                    values = {"relatives": self._relatives(candidate)}
                    self._add("accepted", candidate, detail=doubt, values=values)
            # Only here, so that what was paid for has its verdict before a limit can end the run.
            yield

    def _relax(self, some: Sequence[Candidate]) -> None:
        todo = [c for c in some if c.stage == "chosen"]
        if self.limits.relaxations is not None:
            todo = todo[: max(0, self.limits.relaxations - self.state.relaxations)]
        tasks: list[Task] = [("relaxation", c.name, c.raw) for c in todo if c.raw is not None]
        for number, outcome in self.workshop.run(tasks):
            crystal = None if outcome.crystal is None else to_plain(outcome.crystal)
            self._add(
                "relaxed",
                todo[number],
                outcome.seconds,
                dropped=outcome.failure,
                detail=outcome.detail,
                values=outcome.values or {},
                crystal=crystal,
            )

    def _judge(self, candidate: Candidate) -> None:
        began = time.monotonic()
        assert candidate.relaxed is not None
        facts, problem = facts_or_problem(candidate.relaxed)
        values: dict[str, Any] = {}
        word, detail = "", ""
        matched = Matched(candidate.name, candidate.relaxed)
        if facts is None or not facts.valid:
            word, detail = "exploded", problem or "the relaxed crystal is not valid"
        else:
            placed = self.judge.place(candidate.relaxed, candidate.values["energy"])
            if "problem" in placed:
                word, detail = "not_on_hull", placed["problem"]
            else:
                measured = self.judge.measure(candidate.name, candidate.relaxed, facts, placed)
                values = {**placed, **measured, "space_group": facts.space_groups[0]}
                word, detail = self._verdict(matched, values)
        if word not in ("known", "duplicate"):
            self.relaxed.add(matched)
        self._add("judged", candidate, time.monotonic() - began, dropped=word, detail=detail, values=values)

    def _verdict(self, matched: Matched, values: dict[str, Any]) -> tuple[str, str]:
        """Why a relaxed candidate is dropped, what is still to be calculated apart."""
        if text := unmet(self.wish.tests, values, self.wish.calculated):
            word = "above_hull" if text.startswith("energy_above_hull") else "unmet"
            return word, f"does not meet {text}"
        if name := known_as(matched, self.reference):
            if self.wish.novel:
                return "known", f"is {name}"
            values["matched"] = name
        if name := self.relaxed.same(matched):
            return "duplicate", f"is {name}"
        return ("not_matched", matched.problem) if matched.problem else ("", "")

    def _calculate(self, some: Sequence[Candidate]) -> None:
        for name in self.wish.calculated:
            todo = [
                c
                for c in some
                if c.stage in ("judged", "calculated") and not c.dropped and f"calculated_{name}" not in c.values
            ]
            if name in self.limits.calculations:
                todo = todo[: max(0, self.limits.calculations[name] - self.state.calculations(name))]
            tasks: list[Task] = [(name, c.name, c.relaxed) for c in todo if c.relaxed is not None]
            for number, outcome in self.workshop.run(tasks):
                self._calculated(todo[number], name, outcome)

    def _calculated(self, candidate: Candidate, name: str, outcome: Outcome) -> None:
        found = outcome.values or {}
        values = {f"calculated_{name}": True, name: found.get("value")}
        word, detail = "", ""
        if found.get("value") is None:
            word, detail = "not_calculated", outcome.detail or str(found.get("note", ""))
        elif text := unmet([t for t in self.wish.tests if t.name == name], values):
            word, detail = "unmet", f"does not meet {text}"
        self._add("calculated", candidate, outcome.seconds, dropped=word, detail=detail, values=values)

    def _relatives(self, candidate: Candidate) -> list[dict[str, str]]:
        assert candidate.relaxed is not None
        return relatives(candidate.relaxed, self.reference, str(candidate.plan.get("parent", "")))
