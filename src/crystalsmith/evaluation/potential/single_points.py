"""Energies of a reference's structures by a potential: single points on their cells, each kept as soon as it is known.

They stand in ``REFERENCE/potentials/`` in one file for each potential, version of its package and correction scheme, a
line for each structure. So every evaluation against the same reference goes on with what earlier ones computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crystalsmith.engine.run import Engine, run
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.potentials import (
    Potential,
    find_potential,
    refuse_scheme,
    scale_correction,
    worker_calculator,
)
from crystalsmith.evaluation.potential.relaxed import key_of, unknown_elements
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.files import append_line, read_lines
from crystalsmith.progress import metered
from crystalsmith.schema import interpreting, of_type, parse_lines

FOLDER = "potentials"

TIME_LIMIT = 300.0
"""Seconds for one structure; one that takes longer is left out this time and tried again the next."""


@dataclass(frozen=True)
class SinglePoint:
    """The energy of one structure.

    Attributes:
        id, key: the structure's name, and a hash of it.
        num_atoms: in the cell.
        energy: total, eV per cell, as the potential gives it; None where it gives none.
        correction: eV per cell that brings it to the reference's scheme.
        failure: why there is no energy.
        seconds: that it took.
    """

    id: str
    key: str
    num_atoms: int
    energy: float | None = None
    correction: float = 0.0
    failure: str = ""
    seconds: float = 0.0

    @property
    def energy_per_atom(self) -> float:
        """eV/atom on the reference's scale; NaN where it is not known."""
        return math.nan if self.energy is None else (self.energy + self.correction) / self.num_atoms


@dataclass(frozen=True)
class Computed:
    """What became of a request for energies.

    Attributes:
        by_row: structure number to its energy, those that have one.
        known: how many were on disk.
        computed: how many were computed now.
        failed: reason to number of structures.
        left_for_limit: how many a limit left out.
    """

    by_row: dict[int, SinglePoint]
    known: int
    computed: int
    failed: dict[str, int]
    left_for_limit: int


class Energies:
    """The energies by one potential of the structures of one reference, on disk.

    Args:
        fallback: folder to keep them in where the reference's cannot be written to.
        device: ``cpu``, ``cuda``, ...; None for a GPU where there is one.

    Raises:
        InputError: if the potential is unknown, or its energies do not belong to the reference.
    """

    def __init__(
        self,
        reference: Reference,
        potential: str,
        scale: str | None,
        fallback: Path | None = None,
        device: str | None = None,
    ) -> None:
        self.reference, self.potential = reference, find_potential(potential, scale)
        scheme = reference.corrections
        refuse_scheme(self.potential, scheme)
        self._setting = (potential, scale, scheme, device)
        self.file = potential_file(reference, self.potential, ".jsonl")
        if not self.file.exists() and fallback is not None and not os.access(reference.path, os.W_OK):
            self.file = fallback / self.file.name

    def compute(
        self,
        rows: Sequence[int],
        engine: Engine,
        limit: int | None = None,
        seconds_per_atom: float | None = None,
        announce: Callable[[str], None] = lambda _: None,
    ) -> Computed:
        """The energies of structures by their numbers, from disk where they are there, computed otherwise.

        Args:
            rows: the structures; with a limit the first ones are computed.
            limit: most structures to compute now.
            seconds_per_atom: what a single point is thought to take, where no earlier one tells.
            announce: is told how many single points are needed and for how long, before they begin.

        Raises:
            InputError: if the potential cannot be used or the disk is full.
        """
        done = self._recover()
        tasks: list[tuple[str, str, Arrays]] = []
        found: dict[int, SinglePoint] = {}
        wanted: dict[str, list[int]] = {}
        for row in rows:
            name, arrays = self.reference.structure(int(row))
            key = key_of(arrays)
            if key in done:
                found[int(row)] = done[key]
                continue
            if key not in wanted:
                tasks.append((name, key, arrays))
            wanted.setdefault(key, []).append(int(row))
        known, chosen = len(found), tasks[:limit]
        announce(_plan(len(rows), known, chosen, len(tasks), _pace(done) or seconds_per_atom, engine.workers))
        for point in self._run(chosen, engine):
            found |= dict.fromkeys(wanted[point.key], point)
        failed: dict[str, int] = {}
        for point in found.values():
            if point.failure:
                failed[point.failure] = failed.get(point.failure, 0) + 1
        by_row = {row: point for row, point in found.items() if not point.failure}
        return Computed(by_row, known, len(chosen), failed, len(tasks) - len(chosen))

    def _run(self, tasks: Sequence[tuple[str, str, Arrays]], engine: Engine) -> list[SinglePoint]:
        if not tasks:
            return []
        if not self.file.exists():
            _begin(self.file, _identity(self.potential, self.reference))
        points = []
        with metered(f"{self.potential.name} on the reference", len(tasks), "structures") as advance:
            for end in run(_start, tasks, engine, arguments=self._setting, time_limit=TIME_LIMIT):
                name, key, arrays = tasks[end.number]
                if end.status:
                    # Not kept: a machine that was short of time or memory may do it another day.
                    points.append(SinglePoint(name, key, len(arrays[2]), failure=end.status))
                else:
                    append_line(self.file, asdict(end.value))
                    points.append(end.value)
                advance(1)
        return points

    def _recover(self) -> dict[str, SinglePoint]:
        """Hash of the structure to what is known; the later one where two runs computed the same."""
        if not self.file.exists():
            return {}
        mend = "delete it, and its energies are computed again"
        with interpreting(str(self.file), mend):
            records = parse_lines(read_lines(self.file)[1:], str(self.file), of_type(SinglePoint), mend)
            points = [SinglePoint(**values) for values in records]
        return {point.key: point for point in points}


def potential_file(reference: Reference, potential: Potential, suffix: str) -> Path:
    """Where what a potential says of a reference is kept: by its name, version, scale and the correction scheme."""
    identity = json.dumps(_identity(potential, reference), sort_keys=True)
    words = [potential.name, potential.version, hashlib.sha256(identity.encode()).hexdigest()[:8]]
    return reference.path / FOLDER / (re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(w for w in words if w)) + suffix)


def _identity(potential: Potential, reference: Reference) -> dict[str, str | None]:
    return {
        "potential": potential.name,
        "package": potential.package,
        "version": potential.version,
        "scale": potential.scale,
        "corrections": reference.corrections,
    }


def _begin(file: Path, identity: dict[str, str | None]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {file.parent} cannot be made ({error.strerror}); mend that.") from None
    append_line(file, identity)


def _pace(done: dict[str, SinglePoint]) -> float | None:
    """Seconds per atom of the single points so far."""
    atoms = sum(p.num_atoms for p in done.values() if p.energy is not None)
    return sum(p.seconds for p in done.values() if p.energy is not None) / atoms if atoms else None


def _plan(
    rows: int, known: int, chosen: Sequence[tuple[str, str, Arrays]], open_: int, pace: float | None, jobs: int
) -> str:
    text = f"{rows} reference structures: {known} energies are known, {len(chosen)} single points to compute"
    if len(chosen) < open_:
        text += f" ({open_ - len(chosen)} more left out by the limit)"
    if chosen and pace is not None:
        seconds = pace * sum(len(arrays[2]) for _, _, arrays in chosen) / max(1, min(jobs, len(chosen)))
        text += f", about {duration(seconds)} in {jobs} {'process' if jobs == 1 else 'processes'}"
    elif chosen:
        text += ", for a time that no earlier one tells"
    return text + "."


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _start(
    potential: str, scale: str | None, scheme: str | None, device: str | None
) -> Callable[[tuple[str, str, Arrays]], SinglePoint]:
    """In a worker: load the potential once."""
    calculator = worker_calculator(potential, scale, device)
    known = find_potential(potential, scale)
    return lambda task: single_point(*task, calculator, known, scheme)


def single_point(
    name: str, key: str, arrays: Arrays, calculator: Any, potential: Potential, scheme: str | None
) -> SinglePoint:
    """The energy of one structure; whatever goes wrong is told in the result."""
    from ase import Atoms

    began = time.monotonic()
    frac, cell, numbers = arrays
    point = SinglePoint(name, key, len(numbers))
    if unknown_elements(calculator, numbers):
        return replace(point, failure="unknown_element")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch; the energy is checked to be finite
            atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True)
            atoms.calc = calculator
            energy = float(atoms.get_potential_energy())
            correction = scale_correction(potential, scheme, energy, arrays) if math.isfinite(energy) else 0.0
    except Exception:  # potentials fail in their own ways
        return replace(point, failure="potential_failed")
    seconds = round(time.monotonic() - began, 4)
    if not math.isfinite(energy):
        return replace(point, failure="not_finite", seconds=seconds)
    if not math.isfinite(correction):
        return replace(point, failure="no_correction", seconds=seconds)
    return replace(point, energy=energy, correction=correction, seconds=seconds)
