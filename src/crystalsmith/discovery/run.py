"""A run from the command line's point of view: begin, go on, end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.discovery.candidate import State
from crystalsmith.discovery.judging import Judge
from crystalsmith.discovery.known import Known
from crystalsmith.discovery.learning import Teacher, facts_of_data
from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.lessons import Taught, changed, taught
from crystalsmith.discovery.loop import Loop
from crystalsmith.discovery.making import Maker
from crystalsmith.discovery.wish import CALCULATED, STABLE, Limits, Wish, check_wish
from crystalsmith.discovery.work import Workshop
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.measures import Predictor
from crystalsmith.evaluation.asked.requirements import check_requirements
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.reference.known import Reference

NORMAL = 1.2533
"""Standard deviation of a normal error over its mean absolute value: sqrt(pi / 2)."""


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        out: the folder.
        status: ``complete`` (a limit is reached) or ``stopped`` (a signal came).
        why: which limit.
        proposed, relaxed, accepted: numbers of candidates, all sessions together.
        seconds: run time, all sessions together.
        taught: with lessons, what became of the candidates of each model, and the yield before and after.
        exit_code: 0, or 130 and 143 after a signal.
    """

    out: str
    status: str
    why: str
    proposed: int
    relaxed: int
    accepted: int
    seconds: float
    taught: tuple[Taught, ...] = ()
    exit_code: int = 0


def discover(
    out: Path,
    wish: Wish | None,
    limits: Limits,
    *,
    device: str = "auto",
    engine: Engine = Engine(),
    tell: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Run until the limits are reached.

    Args:
        out: a folder that does not exist or is empty; without a wish, that of an earlier run.
        wish: what is asked for; None to go on with the run in ``out``.
        limits: of a new run; to go on, those that change.
        device: where the model runs; the potential takes the same.
        engine: the workers of the potential.
        tell: hears where the run stands.

    Raises:
        InputError: if the wish cannot run, or the folder cannot be used.
    """
    from crystalsmith.signals import Stopped, StopSignals

    began = time.monotonic()
    folder = _resumed(out, limits) if wish is None else _started(out, wish, limits)
    signum: int | None = None
    with StopSignals() as stop:
        try:
            loop = _loop(folder, device, engine, stop)
        except InputError:
            if wish is not None:  # nothing has begun: the mended command finds the place as this one did
                folder.discard()
            raise
        sessions = [*folder.manifest.get("sessions", []), {"from": round(loop.before, 3), "jobs": engine.workers}]
        sessions[-1] |= {"engine": engine.kind} if engine.is_ray else {}
        folder.update(status="running", sessions=sessions)
        try:
            for text in loop.run():
                tell(text)
        except Stopped as stopped:
            signum = stopped.signum
        finally:
            loop.workshop.close()
        stop.ignore()
        loop.shield = nullcontext  # the signal has been taken; no further one is
        loop.publish(now=True)
        why = loop.why_over()
        sessions[-1]["seconds"] = round(time.monotonic() - began, 3)
        folder.update(status="stopped" if signum else "complete", why=why, sessions=sessions)
    return _summary(folder, loop.state, loop.at, why, signum)


def _started(out: Path, wish: Wish, limits: Limits) -> Folder:
    from crystalsmith.checkpoints.find import find_model
    from crystalsmith.checkpoints.store import weights_sha256
    from crystalsmith.generation.run import model_source

    check_wish(wish, limits)
    digest = weights_sha256(find_model(wish.model))
    source = model_source(wish.model)
    facts = {"model": {"source": source, "weights_sha256": digest}}
    return Folder.create(out, wish, limits, facts | ({"learn": facts_of_data(wish)} if wish.learn else {}))


def _resumed(out: Path, limits: Limits) -> Folder:
    from crystalsmith.checkpoints.find import find_model
    from crystalsmith.checkpoints.store import weights_sha256

    folder = Folder.open(out)
    known = folder.manifest["model"]
    if weights_sha256(find_model(known["source"])) != known["weights_sha256"]:
        raise InputError(
            f"The run in {out} was begun with other weights than {known['source']} has now; restore them or begin anew."
        )
    if "learn" in folder.manifest and folder.manifest["learn"] != facts_of_data(folder.wish):
        raise InputError(
            f"The run in {out} was begun with other data than {folder.wish.learn} has now; restore them or begin anew."
        )
    raised = folder.limits.raised(limits)
    check_wish(folder.wish, raised)
    folder.update(limits=raised.to_dict())
    return folder


def _loop(folder: Folder, device: str, engine: Engine, stop: Any) -> Loop:
    from crystalsmith.checkpoints.find import load_model
    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.generation.device import choose_device
    from crystalsmith.generation.rules import make_rules

    wish = folder.wish
    model = load_model(folder.manifest["model"]["source"])
    exact = wish.steering.get("formula") or wish.steering.get("compositions")
    if not model.process.corrupts_species and not exact:
        raise InputError(
            f"The model {model.metadata.name} predicts structures of given elements; name one that chooses them."
        )
    reference = Reference.open(wish.reference) if wish.reference else None
    trained = [load_predictor(path) for path in wish.predictors]
    predictors: list[Predictor] = [*trained]
    check_requirements(
        wish.tests,
        True,
        reference is not None and reference.num_entries > 0,
        bool(wish.calculated),
        predictors,
    )
    rules = make_rules(model.metadata.elements, **rules_of(wish))
    allowed = model.metadata.elements if rules is None else rules.allowed
    known: Known | None = None
    if reference is not None and reference.num_structures and not wish.plain:
        known = Known(reference, _space_groups(wish))
    place = choose_device(device)
    teacher: Teacher | None = None
    proposer = model
    if wish.learn:
        source = str(folder.manifest["model"]["source"])
        teacher = Teacher(folder.path, wish, source, model, reference, allowed, place)
        if (state := folder.state()).lessons:
            proposer = teacher.load(state)
    settings = Relaxation(
        potential=wish.potential,
        energy_scale=wish.energy_scale,
        fmax=wish.fmax,
        steps=wish.relax_steps,
        time_limit=wish.time_limit,
        device=None if device == "auto" else str(place),
    )
    return Loop(
        folder,
        reference,
        known,
        Maker(proposer, wish, known, place),
        Workshop(settings, engine),
        Judge(reference, wish.potential, wish.energy_scale, predictors),
        tuple(allowed),
        () if rules is None else rules.required,
        {p.name: NORMAL * float(p.facts.training.get("validation_mae", float("inf"))) for p in trained},
        teacher,
        stop.shield,
    )


def rules_of(wish: Wish) -> dict[str, Any]:
    """The options of a wish that are rules on elements."""
    names = ("chemical_system", "require_all", "allow", "deny", "deny_list", "max_hhi", "require", "formula")
    return {name: wish.steering[name] for name in names if name in wish.steering}


def _space_groups(wish: Wish) -> tuple[int, ...]:
    """The space groups that a wish asks for; empty for any."""
    from crystalsmith.generation.space_groups import FREE, make_space_groups

    asked = wish.steering.get("space_group")
    if asked in (None, "any", FREE):
        return ()
    groups = make_space_groups(asked, None)
    return () if groups is None else groups.numbers


def default_requirements(given: tuple[str, ...], has_hull: bool) -> tuple[str, ...]:
    """The requirements of a wish: what was given, and the hull where nothing was said of it."""
    from crystalsmith.evaluation.asked.requirements import parse_requirement

    named = {parse_requirement(text).name for text in given}
    return given if "energy_above_hull" in named or not has_hull else (*given, STABLE)


def _summary(folder: Folder, state: State, seconds: float, why: str, signum: int | None) -> Summary:
    return Summary(
        out=str(folder.path),
        status=str(folder.manifest["status"]),
        why=why,
        proposed=len(state.candidates),
        relaxed=state.relaxations,
        accepted=len(state.accepted),
        seconds=round(seconds, 1),
        taught=tuple(taught(state, folder.wish.hull_limit)),
        exit_code=0 if signum is None else 128 + signum,
    )


def sentence(summary: Summary) -> str:
    """The end of a run as a person wants it."""
    what = f"{summary.accepted} accepted of {summary.relaxed} relaxed and {summary.proposed} proposed, {summary.out}"
    if summary.status == "stopped":
        return f"Stopped: {what}. Go on with: crystalsmith discover {summary.out} --resume"
    told = changed(summary.taught)
    return f"Done, {summary.why}: {what}{told and '; ' + told}. Page: {Path(summary.out) / 'discover.html'}"


__all__ = ["CALCULATED", "Limits", "Summary", "Wish", "default_requirements", "discover", "rules_of", "sentence"]
