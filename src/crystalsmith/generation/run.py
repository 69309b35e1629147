"""A run: from what the user asked to a folder of crystals, new or resumed."""

from __future__ import annotations

import platform
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalsmith import __version__
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.efficiency import peak_memory_mib
from crystalsmith.generation.device import choose_batch_size, choose_device, choose_precision
from crystalsmith.generation.folder import MEND, OutputFolder, is_occupied, now, refuse_occupied
from crystalsmith.generation.making import make_request, number_of, warnings_of
from crystalsmith.generation.num_atoms import parse_num_atoms
from crystalsmith.generation.progress import Reporter, Silent
from crystalsmith.generation.request import Request
from crystalsmith.generation.sampler import FinishedBatch, finished_batches
from crystalsmith.generation.steering import Steering
from crystalsmith.generation.workers import DescribedBatch, Work, batches_elsewhere, described, files_of
from crystalsmith.locks import locked
from crystalsmith.models import DEFAULT
from crystalsmith.shards import Shard, lineage
from crystalsmith.signals import Stopped, StopSignals

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model


DEFAULT_NUM = 16
SHARD_BATCH_SIZE = 32
"""Crystals at a time of a sharded run that names no number: the same whatever the machines."""

CIF_LIMIT = 10_000
"""Crystals up to which a run writes a CIF of each; a folder of more files is slow everywhere."""

_PACKAGES = ("torch", "numpy", "pymatgen", "ase", "moyopy")


@dataclass(frozen=True)
class Options:
    """What the user wrote; None means not given: the default in a new run, as before in a resumed one.

    Attributes:
        cif: write a CIF of each crystal; by default in runs of up to :data:`CIF_LIMIT`.
        shard: make this share of the run only.
        device: where the model runs; on a cluster, that of each worker.
        engine: this process, processes with a device each, or a cluster.
        command: the command line without its shard, for the sentence that asks for a missing one.
    """

    model: str | None = None
    num: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    num_atoms: str | None = None
    steps: int | None = None
    solver: str | None = None
    temperature: float | None = None
    precision: str | None = None
    trajectories: bool | None = None
    cif: bool | None = None
    device: str = "auto"
    engine: Engine = field(default_factory=Engine)
    compile: bool = False
    shard: Shard | None = None
    command: str = ""
    steering: Steering = field(default_factory=Steering)


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        out: the folder.
        status: ``complete`` or ``stopped``.
        requested, finished, written, valid, failed: numbers of crystals; finished = written + failed.
        seconds: wall time since the last start, reading the model included.
        seconds_per_crystal: wall time per crystal made since then (0 if none was).
        exit_code: 0, or 130 and 143 after a signal.
    """

    out: str
    model: str
    status: str
    requested: int
    finished: int
    written: int
    valid: int
    failed: int
    seconds: float
    seconds_per_crystal: float
    exit_code: int = 0


def generate(out: Path, options: Options, *, resume: bool = False, reporter: Reporter | None = None) -> Summary:
    """Make the crystals of a request and write them to ``out``, each batch while the next is made.

    A shard makes its share of them in a folder within ``out``, and goes on by itself where it was stopped.

    Args:
        out: a folder that does not exist or is empty; with ``resume``, that of an earlier run.
        options: what is asked for.
        resume: go on with the run in ``out``; where there is none yet, begin it.
        reporter: hears about the progress.

    Raises:
        InputError: if the request, the model or the folder cannot be used.
    """
    began = time.perf_counter()
    reporter = reporter or Silent()
    if options.shard is not None:
        _refuse_whole_run(out)
        out, resume = options.shard.folder(out), True
    if not (resume and is_occupied(out)):
        refuse_occupied(out)
    with locked(out, "crystalsmith generate"):
        resume = resume and is_occupied(out)
        if not resume:
            refuse_occupied(out)
        session = _resumed(out, options) if resume else _started(out, options, reporter)
        with StopSignals() as stop:
            made = session.folder.finished - session.folder.first
            reporter.start(len(session.span), made)
            try:
                _sample(session, reporter, stop)
                with stop.shield():
                    session.folder.update(status="complete")
                signum = None
            except Stopped as stopped:
                signum = stopped.signum
                stop.ignore()
                session.folder.update(status="stopped")
            finally:
                reporter.close()
            return _summary(session, made, time.perf_counter() - began, signum)


@dataclass(frozen=True)
class _Session:
    model: Model
    request: Request
    device: torch.device
    folder: OutputFolder
    options: Options

    @property
    def span(self) -> range:
        """The crystals of the request that this run makes."""
        return range(*self.folder.manifest.get("span", (0, self.request.num)))


def _refuse_whole_run(out: Path) -> None:
    if (out / "manifest.json").exists():
        raise InputError(f"{out} holds a whole run already; make shards in another folder, or leave --shard out.")


def _started(out: Path, options: Options, reporter: Reporter) -> _Session:
    from crystalsmith.checkpoints.find import find_model, load_model
    from crystalsmith.checkpoints.store import weights_sha256
    from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP

    device = _own_device(options)
    precision = choose_precision(options.precision or "auto", device)
    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f"--batch-size is {options.batch_size}; give 1 at least, or auto.")
    name = model_source(options.model or DEFAULT)
    model, digest = load_model(name), weights_sha256(find_model(name))
    request = make_request(
        model,
        num=number_of(options.steering, options.num, DEFAULT_NUM),
        seed=options.seed or 0,
        num_atoms=options.num_atoms,
        solver=options.solver,
        steps=options.steps,
        precision=precision,
        temperature=options.temperature,
        steering=options.steering,
    )
    for sentence in warnings_of(model, request, options.num_atoms):
        reporter.message(sentence)
    if request.choosing is not None and options.trajectories:
        raise InputError("--trajectories shows one way to a crystal; leave --novel-to out and give --select 1.")
    calls = NETWORK_CALLS_PER_STEP[request.solver]
    sharded = options.shard is not None or is_elsewhere(options)
    batch_size = options.batch_size or (
        SHARD_BATCH_SIZE if sharded else choose_batch_size(model, request, calls, device)
    )
    settings = request.to_dict() | {
        "batch_size": batch_size,
        "trajectories": bool(options.trajectories),
        "cif": request.num <= CIF_LIMIT if options.cif is None else options.cif,
    }
    head = manifest_head(model, name, digest, settings) | {"network_evaluations": request.steps * calls}
    if options.shard is not None:
        span = options.shard.span(request.num, batch_size)
        head |= {"span": [span.start, span.stop], "lineage": lineage(digest, settings, head["versions"])}
        head |= {"command": options.command}
    columns = request.columns
    folder = OutputFolder.create(out, head | {"columns": columns, "sessions": [_session_facts(device, 0)]})
    return _Session(model, request, device, folder, options)


def _resumed(out: Path, options: Options) -> _Session:
    from crystalsmith.checkpoints.find import find_model, load_model
    from crystalsmith.checkpoints.store import weights_sha256

    folder = OutputFolder.open(out)
    device = _own_device(options)
    known, settings = folder.manifest["model"], folder.manifest["settings"]
    request = Request.read(settings, f"{out / 'manifest.json'}", MEND)
    name = known["source"]
    source = options.model or name
    model = load_model(source)
    if weights_sha256(find_model(source)) != known["weights_sha256"]:
        raise InputError(
            f"The run in {out} was made by {name} with other weights than {source} has now; "
            "give --model the original ones or choose a new folder."
        )
    _refuse_changes(out, model, options, settings)
    done = folder.recover()
    folder.update(sessions=[*folder.manifest.get("sessions", []), _session_facts(device, done)])
    return _Session(model, request, device, folder, options)


def _refuse_changes(out: Path, model: Model, options: Options, settings: dict[str, Any]) -> None:
    """A resumed run goes on with its own settings; one that is given and differs is an error that names it."""
    from crystalsmith.diffusion.solvers import parse_solver

    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num", "seed", "steps", "solver", "temperature", "precision", "batch_size", "trajectories", "cif")
    }
    if options.precision == "auto":
        given["precision"] = None
    if options.solver is not None:
        solver, wanted = parse_solver(options.solver)
        if solver == settings.get("solver") and wanted.items() <= settings.get("solver_settings", {}).items():
            given["solver"] = None
    if options.batch_size is not None and options.batch_size == settings.get("batch_size_asked"):
        given["batch_size"] = None
    if options.num_atoms is not None:
        histogram = parse_num_atoms(options.num_atoms, model.metadata.num_atoms_histogram)
        given["num_atoms"] = {str(n): weight for n, weight in histogram.items()}
    before = settings.get("steering", {})
    for name, value in options.steering.given().items():
        given[name] = value
        settings = settings | {name: before.get(name)}
    for name, value in given.items():
        if value is not None and value != settings.get(name):
            flag = "--" + name.replace("_", "-")
            was = "another choice" if name == "num_atoms" else settings.get(name)
            raise InputError(
                f"The run in {out} was started with {flag} {was}, which differs from what is asked now; "
                f"leave {flag} out to go on with it, or choose a new folder."
            )


def _sample(session: _Session, reporter: Reporter, stop: StopSignals) -> None:
    folder, settings, asked = session.folder, session.folder.manifest["settings"], session.options
    cif, done = settings.get("cif", True), folder.finished - folder.first
    size, films, span = settings["batch_size"], settings["trajectories"], session.span
    batches: Generator[FinishedBatch | DescribedBatch, None, None]
    if is_elsewhere(asked):
        from crystalsmith.checkpoints.find import find_model

        files = files_of(find_model(asked.model or folder.manifest["model"]["source"]))
        work = Work(files, session.request, span, size, films, asked.compile, cif)
        batches = batches_elsewhere(work, done, asked.engine, asked.device, reporter)
    else:
        how: dict[str, Any] = {"span": span, "done": done, "batch_size": size}
        how |= {"trajectories": films, "compiled": asked.compile}
        batches = finished_batches(session.model, session.request, session.device, reporter, **how)

    def write(made: FinishedBatch | DescribedBatch) -> None:
        if isinstance(made, FinishedBatch):
            if made.batch_size != settings["batch_size"]:
                settings.update(batch_size=made.batch_size, batch_size_asked=settings["batch_size"])
            made = described(made, session.model, cif)
        folder.commit(made.stop, made.crystals, made.seconds, made.films)

    # A batch is described and written by one thread while the next is made; whatever ends the run waits for it.
    with ThreadPoolExecutor(1) as writer, closing(batches):
        last: Future[None] | None = None
        try:
            for made in batches:
                with stop.shield():
                    if last is not None:
                        last.result()
                    last = writer.submit(write, made)
        finally:
            with stop.shield():
                if last is not None:
                    last.result()


def is_elsewhere(options: Options) -> bool:
    """Whether other processes make the crystals."""
    return options.engine.is_ray or bool(options.engine.devices)


def _own_device(options: Options) -> torch.device:
    """The device that speaks for the run: where others make the crystals, the first of theirs; all must be there."""
    if options.engine.is_ray:
        return torch.device("cpu")
    first, *_ = [choose_device(name, apple=True) for name in options.engine.devices or (options.device,)]
    return first


def model_source(name: str) -> str:
    """A bundled name as it is, a folder as a whole path, so that a run can be resumed from anywhere."""
    from crystalsmith.checkpoints.find import list_models

    return name if name in list_models() else str(Path(name).resolve()) if Path(name).is_dir() else name


def manifest_head(model: Model, source: str, digest: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What ``manifest.json`` says of the model, the settings and the software."""
    return {
        "model": {
            "name": model.metadata.name,
            "source": source,
            "weights_sha256": digest,
            "licence": model.metadata.licence,
            "parameters": sum(p.numel() for p in model.network.parameters()),
        },
        "state": "as generated, not relaxed",
        "settings": settings,
        "versions": {"python": platform.python_version(), "crystalsmith": __version__}
        | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _session_facts(device: torch.device, done: int) -> dict[str, Any]:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    facts = {
        "started": now(),
        "from": done,
        "device": str(device),
        "machine": where,
        "threads": torch.get_num_threads(),
    }
    return facts | {"processor_seconds_before": round(time.process_time(), 3)}


def _peak_memory(device: torch.device) -> int | None:
    """MiB: the most that the device has held, or this process where the device is the processor."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak_memory_mib()


def _summary(session: _Session, before: int, seconds: float, signum: int | None) -> Summary:
    folder = session.folder
    counts = {"finished": 0, "written": 0, "valid": 0, "failed": 0} | folder.manifest["counts"]
    made = counts["finished"] - before
    each = seconds / made if made else 0.0
    sessions = folder.manifest["sessions"]
    sessions[-1] |= {"seconds": round(seconds, 3), "crystals": made, "seconds_per_crystal": round(each, 4)}
    spent = time.process_time() - sessions[-1].pop("processor_seconds_before", 0.0)
    sessions[-1] |= {"processor_seconds": round(spent, 3), "peak_memory_mib": _peak_memory(session.device)}
    folder.update(sessions=sessions)
    return Summary(
        out=str(folder.path),
        model=session.model.metadata.name,
        status=str(folder.manifest["status"]),
        requested=len(session.span),
        **counts,
        seconds=round(seconds, 3),
        seconds_per_crystal=round(each, 4),
        exit_code=0 if signum is None else 128 + signum,
    )
