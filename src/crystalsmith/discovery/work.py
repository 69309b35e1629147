"""What a potential does for candidates: one energy, a relaxation, a bulk modulus; in this process or in workers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crystalsmith.discovery.crew import Crew
from crystalsmith.engine.run import Engine, workers_of
from crystalsmith.engine.schedule import TIMED_OUT, schedule
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.elastic import bulk_modulus
from crystalsmith.evaluation.potential.potentials import worker_calculator
from crystalsmith.evaluation.potential.relaxation import GRACE, relax, relaxations
from crystalsmith.evaluation.potential.relaxation import batch_size as relaxations_at_once
from crystalsmith.evaluation.potential.relaxed import Relaxation, unknown_elements

Task = tuple[str, str, Arrays]
"""What to do (``energy``, ``relaxation``, ``bulk_modulus``), the candidate's name, the crystal."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        failure: a word, empty if all went well; ``detail`` the same for a person.
        values: what was found.
        crystal: the relaxed crystal.
        seconds: that it took.
    """

    failure: str = ""
    detail: str = ""
    values: dict[str, Any] | None = None
    crystal: Arrays | None = None
    seconds: float = 0.0


class Workshop:
    """Does tasks with one potential.

    Args:
        settings: of relaxations; they name the potential.
        engine: whose workers stay until :meth:`close`; one worker of this machine is this process.
    """

    def __init__(self, settings: Relaxation, engine: Engine = Engine()) -> None:
        self.settings, self.engine = settings, engine
        self._job: Callable[[Task], Outcome] | None = None
        self._crew: Crew | None = None
        self._tries = 1

    def close(self) -> None:
        """End the workers; a further task starts new ones."""
        if self._crew is not None:
            self._crew.close()
        self._crew = None

    @property
    def one_by_one(self) -> bool:
        """Whether tasks are done one after another, in the order they are given."""
        return self._here and not self._at_once

    @property
    def _here(self) -> bool:
        """Whether this process computes."""
        return self.engine.workers <= 1 and not self.engine.is_ray

    @property
    def _at_once(self) -> bool:
        """Whether many are relaxed in one call, on a GPU of this machine."""
        return not self.engine.is_ray and relaxations_at_once(self.settings) > 0

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        """Number of the task and its outcome, as they finish.

        Raises:
            InputError: if the potential cannot be used.
        """
        if tasks and tasks[0][0] == "relaxation" and self._at_once:
            yield from self._batched(tasks)
            return
        if self._here:
            self._job = self._job or start(self.settings)
            for number, task in enumerate(tasks):
                yield number, self._job(task)
            return
        limit = self.settings.time_limit + GRACE
        if self._crew is None:
            workers, self._tries = workers_of(start, (self.settings,), self.engine)
            self._crew = Crew(workers)
        for end in schedule(self._crew, tasks, ordered=False, time_limit=limit, tries=self._tries):
            if end.status:
                seconds = limit if end.status == TIMED_OUT else 0.0
                yield end.number, Outcome(end.status, end.detail, seconds=seconds)
            else:
                yield end.number, end.value

    def _batched(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        place = {name: number for number, (_, name, _) in enumerate(tasks)}
        for result in relaxations([(name, name, arrays) for _, name, arrays in tasks], self.settings, self.engine):
            yield place[result.id], _of_relaxation(result)


def start(settings: Relaxation) -> Callable[[Task], Outcome]:
    """In a worker: load the potential once; returns the job."""
    calculator = worker_calculator(settings.potential, settings.energy_scale, settings.device)
    return lambda task: do(task, calculator, settings)


def do(task: Task, calculator: Any, settings: Relaxation) -> Outcome:
    """One task; whatever goes wrong is told in the outcome."""
    kind, name, arrays = task
    began = time.monotonic()
    if kind == "relaxation":
        return _of_relaxation(relax(name, name, arrays, calculator, settings))
    if unknown := unknown_elements(calculator, arrays[2]):
        return Outcome("unknown_element", unknown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = _energy(arrays, calculator) if kind == "energy" else _modulus(arrays, calculator)
    except Exception as error:  # potentials fail in their own ways
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        return Outcome("potential_failed", detail, seconds=time.monotonic() - began)
    return Outcome(values=values, seconds=time.monotonic() - began)


def _energy(arrays: Arrays, calculator: Any) -> dict[str, Any]:
    """Total energy (eV per cell) and largest force (eV/angstrom, stress times volume per atom as one)."""
    from ase import Atoms

    frac, cell, numbers = arrays
    atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True)
    atoms.calc = calculator
    energy = float(atoms.get_potential_energy())
    forces = np.linalg.norm(atoms.get_forces(), axis=1).max()
    strain = np.abs(atoms.get_stress()).max() * atoms.get_volume() / len(numbers)
    return {"energy": energy, "force": float(max(forces, strain))}


def _modulus(arrays: Arrays, calculator: Any) -> dict[str, Any]:
    found = bulk_modulus(arrays, calculator)
    return {"value": found.value, "note": found.reason}


def _of_relaxation(result: Any) -> Outcome:
    plain = asdict(result)
    if result.failure or result.energy is None:
        return Outcome(result.failure or "exploded", result.detail, {"steps": result.steps}, None, result.seconds)
    values = {name: plain[name] for name in ("energy", "steps", "rmsd", "forces", "stress")}
    return Outcome("", "", values, result.arrays, result.seconds)
