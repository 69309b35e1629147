"""The search for crystals from Python, with the words of the command line: a wish, one composition, and what follows.

Each function returns a :class:`~crystalsmith.results.Discovery`, or the files that another program takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalsmith.errors import InputError, spoken
from crystalsmith.models import DEFAULT_CSP
from crystalsmith.results import (
    Discovery,
    Exported,
    Known,
    PredictedStructures,
    Prepared,
    Scratch,
    Trained,
    TrainedPredictor,
)

if TYPE_CHECKING:
    from crystalsmith.discovery.energies import Compared
    from crystalsmith.discovery.wish import Limits, Wish
    from crystalsmith.engine.run import Engine


@spoken
def discover(
    out: str | Path | None = None,
    want: int | None = None,
    *,
    budget: str | Sequence[str] = (),
    hours: float | None = None,
    resume: bool = False,
    require: str | Sequence[str] = (),
    reference: str | Path | Known | None = None,
    potential: str | None = None,
    energy_scale: str | None = None,
    predictor: str | Path | TrainedPredictor | Sequence[str | Path | TrainedPredictor] = (),
    chemical_system: str | None = None,
    require_all: bool = False,
    allow: str | Sequence[str] | None = None,
    deny: str | Sequence[str] | None = None,
    elements: str | Sequence[str] | None = None,
    deny_list: str | Sequence[str] | None = None,
    max_hhi: float | None = None,
    prefer: str | Mapping[str, float] | None = None,
    space_group: str | int | Sequence[int] | None = None,
    num_atoms: str | int | None = None,
    model: str | Path | Trained | None = None,
    properties: Mapping[str, Any] | Sequence[str] | None = None,
    guidance: float | str | Mapping[str, float] | Sequence[str] | None = None,
    source: str | Sequence[str] = (),
    steps: int | None = None,
    solver: str | None = None,
    seed: int | None = None,
    proposals: int | None = None,
    relaxations: int | None = None,
    explore: float | None = None,
    plain: bool = False,
    learn: str | Path | Prepared | None = None,
    learn_every: int | None = None,
    learn_updates: int | None = None,
    energies: str | Path | None = None,
    corrections: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: bool = False,
) -> Discovery:
    """Propose, relax and judge crystals until enough meet a wish: ``crystalsmith discover``.

    Args:
        out: folder of the run, new or empty, or one to go on with; None for a temporary one.
        want: end when so many are accepted.
        budget: end when spent, ``"500:relaxations"`` or ``"180:bulk_modulus"``.
        hours: end after so many hours of run time, all sessions together.
        resume: go on with the run in ``out``.
        require: what a candidate must meet, ``["energy_above_hull<0.05", "bulk_modulus>300"]``.
        reference: known crystals and their hull (:func:`crystalsmith.reference`), or its folder.
        potential: ``7net-0``, ``7net-l3i5``, ``chgnet`` or ``module:factory``; None for 7net-0.
        energy_scale: of your own potential: ``pbe`` or ``mp2020``.
        predictor: trained predictors of properties, or their folders.
        chemical_system: only these elements, ``"Li-Mn-O"``.
        require_all: every element of the chemical system appears in each crystal.
        allow: only these elements.
        deny: none of these.
        elements: each of these at least once.
        deny_list: none of the elements of named lists: ``"scarce,radioactive,noble,toxic"``.
        max_hhi: only elements whose index of supply is at most this, 10000 at most.
        prefer: factors on the odds of elements, ``{"Li": 3, "Co": 0.2}``.
        space_group: kept exactly: ``225``, ``"Fm-3m"``, ``"195-230"``, ``"cubic"``, ``"any"`` or ``"free"``.
        num_atoms: in a cell, ``8`` or ``"4-12"``; None for 1 to 20.
        model: that proposes; None for the bundled taught-tiny.
        properties: targets that the model follows, ``{"band_gap": 2.0}``.
        guidance: how strongly.
        source: where candidates come from: ``templates``, ``free``, ``known:STRENGTH``.
        steps: denoising steps; None for the model's.
        solver: of the denoising; None for the model's.
        seed: of the whole run.
        proposals: candidates of each round.
        relaxations: of these, relaxed in each round.
        explore: share of proposals drawn evenly from all sources.
        plain: the model alone, every valid crystal relaxed: to compare with.
        learn: prepared data set of real crystals with energies above the hull (or its folder): the model is trained on
            with what the run finds, beside these.
        learn_every: relaxations between two lessons; None for 100.
        learn_updates: training updates of a lesson; None for 300.
        energies: of the candidates of the run in ``out``, back from DFT: rank them anew, nothing is proposed.
        corrections: scheme of these energies.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        jobs: worker processes for the potential, None for one; with the engine ray the most actors, None for as many as
            the cluster has room for.
        engine: ``local`` or ``ray``: where the potential computes.
        ray_address: of the cluster.
        progress: a line for each round, on standard error.

    Raises:
        InputError: if the wish cannot run, or the folder cannot be used.
    """
    from crystalsmith.discovery.ledger import MANIFEST
    from crystalsmith.discovery.run import discover as run
    from crystalsmith.discovery.wish import Limits, parse_budgets

    if energies is not None:
        return _compared(out, energies, corrections)
    where = _engine(jobs, engine, ray_address)
    spent, calculations = parse_budgets(_several(budget))
    limits = Limits(want, spent, calculations, hours)
    steering = {
        "chemical_system": chemical_system,
        "require_all": require_all or None,
        "allow": allow,
        "deny": deny,
        "require": elements,
        "deny_list": deny_list,
        "max_hhi": max_hhi,
        "prefer": prefer,
        "space_group": space_group,
        "properties": properties or None,
        "guidance": guidance or None,
    }
    given = {
        "model": _model(model),
        "seed": seed,
        "requirements": tuple(_several(require)),
        "reference": _reference(reference),
        "potential": potential,
        "energy_scale": energy_scale,
        "predictors": tuple(_predictor(one) for one in _several(predictor)),
        "sources": tuple(_several(source)),
        "steps": steps,
        "solver": solver,
        "proposals": proposals,
        "relaxations": relaxations,
        "floor": explore,
        "plain": plain or None,
        "learn": None if learn is None else str(Path(learn.path if isinstance(learn, Prepared) else learn).resolve()),
        "learn_every": learn_every,
        "learn_updates": learn_updates,
        "num_atoms": None if num_atoms is None else _range(str(num_atoms)),
        "steering": {name: value for name, value in steering.items() if value is not None},
    }
    given = {name: value for name, value in given.items() if value not in (None, {}, ())}
    scratch = Scratch()
    place = scratch.path / "discover" if out is None else Path(out)
    wish = None
    if (place / MANIFEST).is_file() and (resume or not given):
        if given:
            name = sorted(given)[0].replace("_", " ")
            raise InputError(
                f"A run goes on with its own wish, and {name} is a part of it; leave it out or begin anew."
            )
    else:
        wish = _wish(given, limits)
    summary = run(place, wish, limits, device=device, engine=where, tell=_tell(progress))
    return Discovery(place, summary, _scratch=scratch)


@spoken
def predict_structure(
    formula: str,
    out: str | Path | None = None,
    *,
    samples: int = 32,
    formula_units: str | int | None = None,
    model: str | Path | Trained = DEFAULT_CSP,
    potential: str = "7net-0",
    reference: str | Path | Known | None = None,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: bool = False,
) -> PredictedStructures:
    """The structures of one composition, ranked by energy: ``crystalsmith predict-structure``.

    Args:
        formula: one formula unit, ``"LiCoO2"``.
        out: folder for the results; None for a temporary one.
        samples: proposals; equal ones are relaxed once.
        formula_units: per cell, ``2`` or ``"1-4"``; None for those of known crystals of such counts.
        model: that proposes.
        potential: ``7net-0``, ``7net-l3i5``, ``chgnet`` or ``module:factory``.
        reference: known crystals and their hull (:func:`crystalsmith.reference`): says which structures are known.
        seed: of the proposals.
        steps: denoising steps; None for the model's.
        resume: go on with the run in ``out``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        jobs: worker processes for the potential, None for one; with the engine ray the most actors, None for as many as
            the cluster has room for.
        engine: ``local`` or ``ray``: where the potential computes.
        ray_address: of the cluster.
        progress: a line now and then, on standard error.

    Raises:
        InputError: if a value cannot be used.
    """
    from crystalsmith.discovery.prediction import predict_structure as run

    scratch = Scratch()
    place = scratch.path / "structures" if out is None else Path(out)
    known = _reference(reference)
    summary = run(
        formula,
        place,
        samples=samples,
        units=None if formula_units is None else str(formula_units),
        model=str(_model(model)),
        potential=potential,
        reference=None if known is None else Path(known),
        seed=seed,
        steps=steps,
        resume=resume,
        device=device,
        engine=_engine(jobs, engine, ray_address),
        tell=_tell(progress),
    )
    return PredictedStructures(place, summary, _scratch=scratch)


@spoken
def export(run: str | Path | Discovery, to: str = "vasp", top: int = 20, out: str | Path | None = None) -> Exported:
    """The best candidates of a run as inputs for DFT, or for another package: ``crystalsmith export``.

    Args:
        run: what :func:`discover` or :func:`predict_structure` returned, or its folder.
        to: ``vasp``, ``qe``, ``ase`` or ``pymatgen``.
        top: how many, the most stable first.
        out: where to; None for ``export-TO`` in the folder of the run.

    Raises:
        InputError: if there is no run, no accepted candidate, or no such format.
    """
    from crystalsmith.discovery.handoff import export as write

    folder = run.path if isinstance(run, Discovery) else Path(run)
    place, number = write(folder, to, top, None if out is None else Path(out))
    return Exported(place, number, run._scratch if isinstance(run, Discovery) else None)


def _compared(out: str | Path | None, energies: str | Path, corrections: str | None) -> Discovery:
    from crystalsmith.discovery.energies import compare

    if out is None:
        raise InputError("Energies belong to the candidates of a run; name its folder as OUT.")
    found: Compared = compare(Path(out), Path(energies), corrections)
    return Discovery(Path(out), None, found)


def _wish(given: dict[str, Any], limits: Limits) -> Wish:
    """The wish of what was given, with the defaults that depend on it."""
    from crystalsmith.discovery.run import default_requirements
    from crystalsmith.discovery.wish import Wish
    from crystalsmith.evaluation.reference.known import Reference

    place = given.get("reference")
    has_hull = place is not None and Reference.open(Path(place)).num_entries > 0
    given = given | {"requirements": default_requirements(given.get("requirements", ()), has_hull)}
    if given.get("plain") and "relaxations" not in given:
        given["proposals"] = given["relaxations"] = given.get("proposals", 8)
    # Relaxations are what is counted where the budget names them and no time.
    given["price"] = "relaxations" if limits.relaxations is not None and limits.hours is None else "seconds"
    return Wish(**given)


def _engine(jobs: int | None, kind: str, address: str | None) -> Engine:
    """The workers of the potential."""
    from crystalsmith.engine.run import Engine

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}; give 1 at least.")
    return Engine(jobs or (0 if kind == "ray" else 1), kind, address)


def _several(values: Any) -> list[Any]:
    """One value or several as a list."""
    return [values] if isinstance(values, (str, Path, TrainedPredictor)) else list(values)


def _model(model: str | Path | Trained | None) -> str | None:
    return None if model is None else str(model.folder if isinstance(model, Trained) else model)


def _reference(reference: str | Path | Known | None) -> str | None:
    if reference is None:
        return None
    return str(Path(reference.path if isinstance(reference, Known) else reference).resolve())


def _predictor(predictor: str | Path | TrainedPredictor) -> str:
    return str(Path(predictor.folder if isinstance(predictor, TrainedPredictor) else predictor).resolve())


def _tell(progress: bool) -> Callable[[str], None]:
    return (lambda text: print(text, file=sys.stderr, flush=True)) if progress else (lambda text: None)


def _range(text: str) -> tuple[int, int]:
    low, _, high = (part.strip() for part in text.partition("-"))
    if low.isdigit() and (high or low).isdigit():
        return int(low), int(high or low)
    raise InputError(f"--num-atoms {text!r} is neither a number nor a range; write for example 4-12.")
