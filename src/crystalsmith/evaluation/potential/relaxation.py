"""Relaxation by a potential: positions and cell together, one process per crystal at a time, each result kept at once.

``relaxed.jsonl`` begins with the settings and gains a line per crystal as it finishes, the failed ones included; a run
that goes on skips what stands there.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.engine.run import Engine, run
from crystalsmith.engine.schedule import TIMED_OUT
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judge import facts_or_problem
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.plausible import condensed
from crystalsmith.evaluation.potential.potentials import (
    default_device,
    find_potential,
    refuse_scheme,
    scale_correction,
    worker_calculator,
)
from crystalsmith.evaluation.potential.relaxed import (
    Finished,
    Relaxation,
    Relaxed,
    broken,
    ending,
    key_of,
    measured,
    unknown_elements,
)
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.files import append_line, read_lines, replace_text
from crystalsmith.progress import metered
from crystalsmith.schema import (
    Items,
    Number,
    Record,
    Text,
    interpreting,
    parse_json,
    parse_lines,
    whole,
)

FILE = "relaxed.jsonl"
GEOMETRIES = "relaxed.extxyz"

GRACE = 30.0
"""Seconds beyond the time limit that a process gets to notice by itself that its time is up."""

BATCH = 128
"""Crystals at once on a GPU; where its memory does not hold them, fewer."""

STIFFNESS = 30.0
"""eV per square angstrom: the curvature that the optimiser presumes before it has seen any."""


def relax_all(
    crystals: Sequence[Judged],
    out: Path,
    settings: Relaxation,
    reference: Reference | None,
    engine: Engine,
    resume: bool,
) -> Finished:
    """Relax the valid crystals, keep each result as it comes, and set energies, relaxed facts and failures.

    Raises:
        InputError: if the potential cannot be used or its energies do not belong to the reference, if there are results
            of other settings, or if the disk is full.
    """
    scheme = reference.corrections if reference is not None and reference.num_entries else None
    potential = find_potential(settings.potential, settings.energy_scale)
    refuse_scheme(potential, scheme)
    file = out / FILE
    done = recover(file, settings, resume)
    wanted = {c.sample.id: key_of(c.sample.arrays) for c in crystals if c.valid and not c.failure}
    finished = {r.id: r for r in done if wanted.get(r.id) == r.key}
    tasks = [(c.sample.id, wanted[c.sample.id], c.sample.arrays) for c in crystals if c.sample.id in wanted]
    tasks = [t for t in tasks if t[0] not in finished]
    with metered("relaxing", len(wanted)) as advance:
        advance(len(finished))
        for result in relaxations(tasks, settings, engine):
            append_line(file, asdict(result))
            finished[result.id] = result
            advance(1)
    for crystal in crystals:
        if crystal.sample.id in finished:
            _apply(crystal, finished[crystal.sample.id], potential, scheme, reference)
    _write_geometries(out / GEOMETRIES, [finished[c.sample.id] for c in crystals if c.sample.id in finished])
    return Finished(finished)


def relaxations(tasks: Sequence[tuple[str, str, Arrays]], settings: Relaxation, engine: Engine) -> Iterator[Relaxed]:
    """Relax ``(id, key, arrays)`` in a batch or in worker processes; results come as they finish."""
    if tasks and (size := batch_size(settings)):
        from crystalsmith.evaluation.potential.batch_relaxation import relax_in_batches
        from crystalsmith.evaluation.potential.batched import make_batch_potential

        potential = make_batch_potential(find_potential(settings.potential, settings.energy_scale), settings.device)
        yield from relax_in_batches(tasks, settings, potential, size)
        return
    limit = settings.time_limit + GRACE
    for end in run(_start, tasks, engine, arguments=(settings,), time_limit=limit):
        name, key, _ = tasks[end.number]
        if end.status == TIMED_OUT:
            yield Relaxed(name, key, TIMED_OUT, f"more than {settings.time_limit:g} s", seconds=limit)
        else:
            yield Relaxed(name, key, end.status, end.detail) if end.status else end.value


def batch_size(settings: Relaxation) -> int:
    """Crystals to relax at once; 0 for one at a time.

    Raises:
        InputError: if the potential is unknown.
    """
    if settings.batch is not None:
        return settings.batch
    # Batches gain nothing on a CPU thread, where worker processes use the cores (docs/evaluation.md).
    if not (settings.device or default_device()).startswith("cuda"):
        return 0
    from crystalsmith.evaluation.potential.batched import computes_batches

    return BATCH if computes_batches(find_potential(settings.potential, settings.energy_scale)) else 0


def _start(settings: Relaxation) -> Callable[[tuple[str, str, Arrays]], Relaxed]:
    """In a worker: load the potential once."""
    calculator = worker_calculator(settings.potential, settings.energy_scale, settings.device)
    return lambda task: relax(*task, calculator, settings)


def relax(name: str, key: str, arrays: Arrays, calculator: Any, settings: Relaxation) -> Relaxed:
    """Relax one crystal; whatever goes wrong is told in the result."""
    began = time.monotonic()
    unknown = unknown_elements(calculator, arrays[2])
    if unknown:
        return Relaxed(name, key, "unknown_element", unknown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and ASE; energies and forces are checked to be finite
            result = _optimise(Relaxed(name, key), arrays, calculator, settings, began)
    except Exception as error:  # potentials fail in their own ways
        result = broken(Relaxed(name, key), error)
    return replace(result, seconds=round(time.monotonic() - began, 3))


def _optimise(result: Relaxed, arrays: Arrays, calculator: Any, settings: Relaxation, began: float) -> Relaxed:
    from ase import Atoms
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    frac, cell, numbers = arrays
    atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True)
    atoms.calc = calculator
    volume = atoms.get_volume()
    # A strain times this length is a coordinate about as stiff as an atom's, whatever the size of the cell.
    length = math.sqrt(len(atoms))
    filtered = FrechetCellFilter(atoms, exp_cell_factor=length)
    optimizer = BFGS(filtered, logfile=None, alpha=STIFFNESS)
    failure, detail = "", ""
    for _ in optimizer.irun(fmax=0.0, steps=settings.steps):
        seconds, change = time.monotonic() - began, atoms.get_volume() / volume
        energy, largest = float(atoms.get_potential_energy()), _largest_force(filtered, length)
        if result.energy_given is None and math.isfinite(energy):
            result = replace(result, energy_given=energy)
        over, failure, detail = ending(energy, largest, change, seconds, int(optimizer.nsteps), settings)
        if over:
            break
    result = replace(result, failure=failure, detail=detail, steps=int(optimizer.nsteps))
    if failure == "exploded":
        return result
    end = (atoms.get_scaled_positions(), atoms.cell.array, numbers)
    return measured(result, arrays, end, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())


def _largest_force(filtered: Any, length: float) -> float:
    """The largest force in eV/angstrom, where stress times volume per atom counts as one, as the field has it."""
    forces = np.array(filtered.get_forces())
    num_atoms = len(forces) - 3
    forces[num_atoms:] *= length / num_atoms
    return float(np.linalg.norm(forces, axis=1).max())


def _apply(crystal: Judged, result: Relaxed, potential: Any, scheme: str | None, reference: Reference | None) -> None:
    crystal.steps, crystal.seconds, crystal.rmsd = result.steps, result.seconds, result.rmsd
    if result.failure:
        crystal.failure, crystal.detail = result.failure, result.detail
        return
    facts, problem = facts_or_problem(result.arrays)
    if facts is None or not facts.valid or result.energy is None:
        crystal.failure, crystal.detail = "exploded", problem or "the relaxed crystal is not valid"
        return
    crystal.relaxed, crystal.condensed = facts, condensed(*result.arrays)
    if scheme is None or reference is None:
        crystal.energy_per_atom = result.energy / facts.num_atoms
        return
    total = result.energy + scale_correction(potential, scheme, result.energy, result.arrays)
    crystal.energy_per_atom = total / facts.num_atoms if math.isfinite(total) else None
    if crystal.energy_per_atom is None:
        crystal.failure, crystal.detail = "no_correction", f"the scheme {scheme} has none for this composition"
        return
    counts = {int(z): float((result.arrays[2] == z).sum()) for z in set(result.numbers)}
    formation = reference.formation_energy(counts, crystal.energy_per_atom)
    crystal.formation_energy = formation if math.isfinite(formation) else None
    crystal.missing_elements = reference.without_elemental_energy(counts)
    if result.energy_given is not None:
        given = result.energy_given + scale_correction(potential, scheme, result.energy_given, crystal.sample.arrays)
        formation = reference.formation_energy(counts, given / facts.num_atoms)
        crystal.formation_energy_given = formation if math.isfinite(formation) else None


def identity(settings: Relaxation) -> dict[str, Any]:
    """The settings that results on disk belong to; where and how many at once a later run may choose anew."""
    return {name: value for name, value in asdict(settings).items() if name not in ("device", "batch")}


_ANY = Number(-1e300, 1e300, none=True)
_VECTORS = Items(Items(_ANY, 3, 3), 0, 10_000, none=True)
RESULT = Record(
    {"id": Text(), "key": Text(200)},
    {
        "failure": Text(200),
        "detail": Text(),
        "energy": _ANY,
        "energy_given": _ANY,
        "frac_coords": _VECTORS,
        "cell": Items(Items(Number(-1e6, 1e6), 3, 3), 3, 3, none=True),
        "numbers": Items(whole(1, 118), 0, 10_000, none=True),
        "forces": _VECTORS,
        "stress": Items(_ANY, 6, 6, none=True),
        "rmsd": Number(0, none=True),
        "steps": whole(),
        "seconds": Number(0, 1e12),
        "optimizer": Text(40),
    },
)
"""One line of ``relaxed.jsonl``."""


def recover(file: Path, settings: Relaxation, resume: bool) -> list[Relaxed]:
    """The results on disk; a last line cut short is dropped; a file without results is begun anew.

    Raises:
        InputError: if there are results and none are to be taken, or they are of other settings.
    """
    lines = read_lines(file) if file.exists() else []
    if len(lines) < 2:  # nothing was relaxed: its potential could not be loaded, say
        replace_text(file, "")
        append_line(file, {"settings": identity(settings)})
        return []
    if not resume:
        raise InputError(f"{file} holds relaxations already; add --resume to go on with them, or choose another --out.")
    mend = "choose another --out"
    head = parse_json(lines[0], str(file), Record({"settings": Record()}), mend)["settings"]
    with interpreting(str(file), mend):
        results = [Relaxed(**values) for values in parse_lines(lines[1:], str(file), RESULT, mend)]
        for result in results:
            if not result.failure:
                _check_arrays(result)
    wanted = identity(settings)
    head = identity(Relaxation()) | head  # a setting that came later had its default
    if head != wanted:
        changed = sorted(k for k in {*head, *wanted} if head.get(k) != wanted.get(k))
        raise InputError(
            f"{file} was made with another {' and '.join(changed)}; go on with the same, or choose another --out."
        )
    return results


def _check_arrays(result: Relaxed) -> None:
    """A relaxed crystal has as many coordinates and forces as atoms."""
    atoms = len(result.numbers or ())
    if not atoms or len(result.frac_coords or ()) != atoms or len(result.forces or ()) != atoms:
        raise ValueError(f"the arrays of {result.id} differ in length")


def _write_geometries(file: Path, results: Sequence[Relaxed]) -> None:
    """The relaxed crystals with energy, forces and stress as extended XYZ."""
    import io

    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for result in results:
        if result.failure or result.energy is None:
            continue
        frac, cell, numbers = result.arrays
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, info={"id": result.id})
        values = {"energy": result.energy, "forces": np.array(result.forces), "stress": np.array(result.stress)}
        atoms.calc = SinglePointCalculator(atoms, **values)
        frames.append(atoms)
    buffer = io.StringIO()
    if frames:
        write(buffer, frames, format="extxyz")
    replace_text(file, buffer.getvalue())
