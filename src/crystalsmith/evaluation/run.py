"""An evaluation from structures to files: describe, relax, place on the hull, match, count, report."""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crystalsmith
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.request import Request, judge_request
from crystalsmith.evaluation.efficiency import efficiency
from crystalsmith.evaluation.judge import described, match, place_energies, rank_by_energy
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import SETTINGS as MATCHER
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.metrics import summarise
from crystalsmith.evaluation.reference.energies import read_energies
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.reference.schemes import release_warning
from crystalsmith.evaluation.report.results import write_results
from crystalsmith.evaluation.shares import CONTROL, begin_share, finish_share, join_shares, lineage_of, remove_shares
from crystalsmith.evaluation.stability import check_hull, doubtful_energies, place_by_labels, place_by_potential
from crystalsmith.evaluation.structures import Sample, read_manifest, read_samples
from crystalsmith.files import make_folder
from crystalsmith.locks import locked
from crystalsmith.shards import FOLDER, Shard, typed

if TYPE_CHECKING:
    from crystalsmith.evaluation.potential.relaxed import Finished, Relaxation

FORMAT = "crystalsmith-evaluation-1"


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        reference: folder of a reference set.
        energies: file of energies by id.
        corrections: correction scheme of these energies.
        relaxation: how to relax; None leaves the crystals as they are.
        resume: go on with the relaxations of an earlier run in the same folder.
        jobs: worker processes; on a cluster the most actors, 0 for as many as there is room for.
        engine, ray_address: see :class:`crystalsmith.engine.run.Engine`.
        limit: judge only this many crystals.
        disorder: what becomes of partly occupied sites (:func:`crystalsmith.data.readers.open_source`).
        request: what the crystals are held against beyond the metrics of every set: control, requirements, predictors.
        hull: ``labels`` for the energies of the reference, ``potential`` for a hull of the potential's own.
        hull_limit: most single points to compute for the latter.
        held_out: crystals that the model has not seen, to tell which of them the set covers and rediscovers.
        preset: whose way of relaxing it is; for the record.
        shard: relax this share of the crystals only.
    """

    reference: Path | None = None
    energies: Path | None = None
    corrections: str | None = None
    relaxation: Relaxation | None = None
    resume: bool = False
    jobs: int = 1
    engine: str = "local"
    ray_address: str | None = None
    limit: int | None = None
    disorder: str = "refuse"
    request: Request = field(default_factory=Request)
    hull: str = "labels"
    hull_limit: int | None = None
    held_out: Path | None = None
    preset: str = "mattergen"
    shard: Shard | None = None

    @property
    def where(self) -> Engine:
        """Where the jobs run."""
        return Engine(self.jobs, self.engine, self.ray_address)


def evaluate(structures: Path, out: Path, options: Options) -> dict[str, Any]:
    """Judge the crystals of an input and write the results to a folder.

    A shard relaxes its share of them into a folder within ``out``, and goes on by itself where it was stopped; the
    evaluation that is asked for without one then judges all.

    Returns:
        What ``metrics.json`` holds; of a shard, which crystals it has relaxed.

    Raises:
        InputError: if an input cannot be used, energies and reference do not belong together, or shards are missing.
    """
    if options.shard is not None:
        with locked(options.shard.folder(out), "crystalsmith evaluate"):
            return _share(structures, out, options.shard, options)
    with locked(out, "crystalsmith evaluate"):
        return _evaluate(structures, out, options)


def _share(structures: Path, out: Path, shard: Shard, options: Options) -> dict[str, Any]:
    if options.relaxation is None:
        raise InputError(
            "Shards share out relaxations, and none is asked for; add --potential, as in 7net-0, or judge all at once "
            "with --shard none."
        )
    reference = _reference(options)
    samples, control = _inputs(structures, options, reference)
    lineage = lineage_of(samples, control, options.relaxation, options.request.bulk_modulus)
    command = _command(structures, out)
    options = replace(options, resume=True)
    own = shard.span(len(samples), 1)
    if begin_share(out, shard, lineage, command):
        for part, folder in ((samples, ""), (control or [], CONTROL)):
            if part:
                span, place = shard.span(len(part), 1), shard.folder(out) / folder
                crystals, finished = _relaxed(part[span.start : span.stop], place, options, reference, Clock())
                assert finished is not None
                _moduli(crystals, finished.arrays, place, options)
        finish_share(out, shard, lineage, command)
    return {"format": FORMAT, "shard": {"name": str(shard), "crystals": len(own), "of": len(samples), "next": command}}


def _command(structures: Path, out: Path) -> str:
    return typed("evaluate", f"crystalsmith evaluate {shlex.quote(str(structures))} --out {shlex.quote(str(out))} ...")


def _reference(options: Options) -> Reference | None:
    reference = None if options.reference is None else Reference.open(options.reference)
    if options.energies is not None and options.relaxation is not None:
        raise InputError("Give either --energies or --potential: a crystal has one energy.")
    check_hull(options.hull, options.hull_limit, options.relaxation, reference)
    return reference


def _inputs(
    structures: Path, options: Options, reference: Reference | None
) -> tuple[list[Sample], list[Sample] | None]:
    """The crystals, and those of the control."""
    samples = read_samples(structures, options.limit, options.disorder)
    request = options.request
    request.check(samples, options.relaxation, options.energies is not None, reference)
    others = None if request.control is None else read_samples(request.control, options.limit, options.disorder)
    return samples, others


def _evaluate(structures: Path, out: Path, options: Options) -> dict[str, Any]:
    reference = _reference(options)
    warning = None if reference is None else _release_warning(reference, options)
    if warning is not None:
        print(f"crystalsmith: warning: {warning}", file=sys.stderr)
    clock = Clock()
    samples, others = _inputs(structures, options, reference)
    clock.lap("read")
    joined = _join(samples, others, out, options, _command(structures, out))
    options = replace(options, resume=options.resume or joined)
    crystals, arrays, hull = _judged(samples, out, options, reference, clock)
    rank_by_energy(crystals)
    match(crystals, arrays, reference, options.where)
    clock.lap("match")
    control = None
    if others is not None:
        # Energies of a file belong to the crystals alone.
        plain = replace(options, energies=None)
        control = _judged(others, out / CONTROL, plain, reference, Clock())[:2]
        clock.lap("control")
    found = summarise(crystals, reference, options.relaxation is not None)
    if hull is not None:
        found["hull"] = hull
    if options.relaxation is not None and reference is not None and reference.num_entries:
        doubts = doubtful_energies(crystals, reference, options.relaxation)
        found |= {"biased_elements": doubts} if doubts else {}
        if doubts is None:
            found["missing"]["biased_elements"] = (
                f"what {options.relaxation.potential} gets wrong was not measured (crystalsmith reference bias)"
            )
    found |= _variety(crystals, arrays, options)
    clock.lap("variety")
    if warning is not None:
        found["warnings"] = [warning]
    asked = judge_request(crystals, arrays, control, options.request, options.relaxation)
    found |= asked.metrics
    found["missing"] |= asked.missing
    clock.lap("requests")
    manifest = read_manifest(structures) if structures.is_dir() else None
    found["efficiency"] = efficiency(crystals, manifest, sum(clock.laps.values()), options.relaxation is not None)
    metrics = {
        "format": FORMAT,
        "run": _facts_of_run(structures, options, reference),
        "metrics": found,
        "seconds": clock.laps,
    }
    relaxed = None if options.relaxation is None else arrays
    write_results(out, metrics, crystals, relaxed, reference, asked)
    if joined:
        remove_shares(out)
    return metrics


def _join(
    samples: Sequence[Sample], control: Sequence[Sample] | None, out: Path, options: Options, command: str
) -> bool:
    """Whether there were shards, whose results are now those of this evaluation."""
    if not (out / FOLDER).is_dir():
        return False
    lineage = None
    if options.relaxation is not None:
        lineage = lineage_of(samples, control, options.relaxation, options.request.bulk_modulus)
    return join_shares(out, lineage, command)


def _relaxed(
    samples: Sequence[Sample], out: Path, options: Options, reference: Reference | None, clock: Clock
) -> tuple[list[Judged], Finished | None]:
    """The crystals of an input, described and, if that is asked for, relaxed."""
    make_folder(out)
    crystals = described(samples, options.where)
    clock.lap("describe")
    if options.relaxation is None:
        return crystals, None
    from crystalsmith.evaluation.potential.relaxation import relax_all

    finished = relax_all(crystals, out, options.relaxation, reference, options.where, options.resume)
    clock.lap("relax")
    return crystals, finished


def _moduli(crystals: Sequence[Judged], arrays: Callable[[Judged], Arrays | None], out: Path, options: Options) -> None:
    """Their bulk moduli, if these are asked for."""
    relaxation = options.relaxation
    if not options.request.bulk_modulus or relaxation is None:
        return
    from crystalsmith.evaluation.potential.elastic import bulk_moduli

    name, scale, limit = relaxation.potential, relaxation.energy_scale, relaxation.time_limit
    bulk_moduli(crystals, arrays, out, name, scale, limit, options.where, relaxation.device)


def _judged(
    samples: Sequence[Sample], out: Path, options: Options, reference: Reference | None, clock: Clock
) -> tuple[list[Judged], Callable[[Judged], Arrays | None], dict[str, Any] | None]:
    """The crystals of an input, each judged by itself; the function to the arrays that count; facts of the hull."""
    given = None if options.energies is None else read_energies(options.energies)
    crystals, finished = _relaxed(samples, out, options, reference, clock)
    arrays = _as_given if finished is None else finished.arrays
    if given is not None:
        place_energies(crystals, given, reference, options.corrections)
    hull: dict[str, Any] | None = None
    if reference is not None and reference.num_entries:
        if options.hull == "potential" and options.relaxation is not None and finished is not None:
            hull = place_by_potential(
                crystals, reference, out, options.relaxation, finished, options.where, options.hull_limit
            )
        else:
            hull = place_by_labels(crystals, reference)
        clock.lap("hull")
    _moduli(crystals, arrays, out, options)
    if options.request.bulk_modulus:
        clock.lap("bulk_modulus")
    return crystals, arrays, hull


def _variety(crystals: Sequence[Judged], arrays: Callable[[Judged], Arrays | None], options: Options) -> dict[str, Any]:
    from crystalsmith.evaluation.variety import coverage, variety

    made = [own for c in crystals if (own := arrays(c)) is not None]
    found: dict[str, Any] = {"vendi": variety(made)}
    if (held_out := options.held_out) is not None:
        others = [(s.id, s.arrays) for s in read_samples(held_out, disorder=options.disorder) if not s.failure]
        found["coverage"] = {"file": str(held_out), **coverage(made, others)}
    return found


def _release_warning(reference: Reference, options: Options) -> str | None:
    """What to say of the reference's corrections where an evaluation rests on them."""
    if not reference.num_entries or (options.energies is None and options.relaxation is None):
        return None
    return release_warning(reference.manifest)


def _as_given(crystal: Judged) -> Arrays | None:
    return crystal.sample.arrays if crystal.valid and not crystal.failure else None


class Clock:
    """Wall times of the stages, in seconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _facts_of_run(structures: Path, options: Options, reference: Reference | None) -> dict[str, Any]:
    relaxation = options.relaxation
    return {
        "structures": str(structures),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "disorder": options.disorder,
        "energies": None if options.energies is None else str(options.energies),
        "request": options.request.facts(),
        "relaxation": None if relaxation is None else asdict(relaxation),
        "preset": options.preset,
        "judged": "as given" if relaxation is None else f"relaxed by {relaxation.potential}",
        "hull": None if reference is None or not reference.num_entries else options.hull,
        "reference": None if reference is None else _facts_of_reference(reference),
        "matcher": MATCHER,
        "versions": {"crystalsmith": crystalsmith.__version__, **_versions(("pymatgen", "moyopy", "ase", "smact"))},
    }


def _facts_of_reference(reference: Reference) -> dict[str, Any]:
    known = ("name", "created", "sources", "splits", "corrections", "pymatgen", "counts")
    return {"path": str(reference.path), **{k: reference.manifest.get(k) for k in known}}


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
