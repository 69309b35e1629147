"""Relaxation of many crystals at once, for potentials that compute a batch in one call.

Crystals leave the batch when they are done and the next ones enter, so that it stays full. Each has a time step of its
own (:mod:`crystalsmith.evaluation.potential.fire`) and is judged by itself: where it ends does not depend on its
companions.

Why not torch-sim-atomistic: it needs Python 3.12 (we support 3.11) and brings h5py, tables and nvalchemi-toolkit-ops.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from crystalsmith.crystals import CrystalBatch, wrap
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.batched import BatchPotential, Evaluated
from crystalsmith.evaluation.potential.fire import Walk, largest_force, step
from crystalsmith.evaluation.potential.relaxed import Relaxation, Relaxed, broken, ending, measured, unknown_elements

OPTIMIZER = "fire"

Task = tuple[str, str, Arrays]
"""Name, hash and arrays of a crystal."""


def relax_in_batches(
    tasks: Sequence[Task], settings: Relaxation, potential: BatchPotential, size: int
) -> Iterator[Relaxed]:
    """Relax crystals, at most ``size`` at a time; results come as they finish.

    The time that a step takes is shared among its crystals by their numbers of atoms; the time limit is for that share.

    Raises:
        InputError: if the potential stops working altogether.
    """
    waiting, crowd = deque(tasks), _Crowd(_Asking(potential))
    while True:
        yield from crowd.fill(waiting, size)
        if not crowd.running:
            torch.cuda.empty_cache()  # the processes of later stages may compute on the same device
            return
        yield from crowd.advance(settings)


@dataclass
class _Running:
    """A crystal in the batch: its volume (cubic angstrom) and energy (eV) at the start, and what it has cost so far."""

    task: Task
    volume: float
    steps: int = 0
    seconds: float = 0.0
    energy_given: float | None = None

    @property
    def result(self) -> Relaxed:
        name, key, _ = self.task
        found = Relaxed(name, key, steps=self.steps, seconds=round(self.seconds, 3), optimizer=OPTIMIZER)
        return replace(found, energy_given=self.energy_given)


class _Crowd:
    """The crystals in the batch."""

    def __init__(self, ask: _Asking) -> None:
        self.ask = ask
        self.running: list[_Running] = []
        empty = torch.zeros(0, 3, dtype=torch.float64, device=ask.potential.device)
        none = torch.zeros(0, dtype=torch.int64, device=empty.device)
        self.walk = Walk.start(CrystalBatch(empty, empty.view(0, 3, 3), none, none))

    def fill(self, waiting: deque[Task], size: int) -> Iterator[Relaxed]:
        """Let crystals in while there is room; those that the potential does not know are failures at once."""
        entering: list[Task] = []
        atoms = len(self.walk.velocity)
        while waiting and len(self.running) + len(entering) < size:
            name, key, arrays = waiting[0]
            unknown = unknown_elements(self.ask.potential, arrays[2])
            if not unknown and atoms and self.ask.most_atoms and atoms + len(arrays[2]) > self.ask.most_atoms:
                break
            waiting.popleft()
            if unknown:
                yield Relaxed(name, key, "unknown_element", unknown, optimizer=OPTIMIZER)
                continue
            entering.append((name, key, arrays))
            atoms += len(arrays[2])
        if entering:
            batch = CrystalBatch.from_arrays([arrays for _, _, arrays in entering], torch.float64)
            self.walk = self.walk.join(Walk.start(batch.to(self.ask.potential.device)))
            self.running += [_Running(t, v) for t, v in zip(entering, batch.volume.tolist(), strict=True)]

    def advance(self, settings: Relaxation) -> Iterator[Relaxed]:
        """Evaluate all, let go of those that are done, and move the others by a step."""
        began, batch = time.monotonic(), self.walk.batch
        found, errors = self.ask(batch)
        largest = largest_force(batch, found.forces, found.stress)
        facts = torch.stack([found.energy, largest, batch.volume], 1).tolist()
        share = (time.monotonic() - began) / len(batch.frac_coords)
        stay, leave = [], []
        for place, (run, (energy, force, volume)) in enumerate(zip(self.running, facts, strict=True)):
            run.seconds += share * len(run.task[2][2])
            if place in errors:
                leave.append(broken(run.result, errors[place]))
                continue
            if run.energy_given is None and math.isfinite(energy):
                run.energy_given = energy
            over, failure, detail = ending(energy, force, volume / run.volume, run.seconds, run.steps, settings)
            if not over:
                run.steps += 1
                stay.append(place)
                continue
            result = replace(run.result, failure=failure, detail=detail)
            leave.append(result if failure == "exploded" else _measured(result, run.task[2], batch, found, place))
        if leave:
            found = found.select(batch, stay)
            self.walk = self.walk.select(stay)
            self.running = [self.running[place] for place in stay]
        if stay:
            self.walk = step(self.walk, found.forces, found.stress)
        yield from leave


def _measured(result: Relaxed, given: Arrays, batch: CrystalBatch, found: Evaluated, place: int) -> Relaxed:
    """The result with crystal, energy, forces and stress at the end."""
    one, own = batch.select([place]), found.select(batch, [place])
    end = one.replace(frac_coords=wrap(one.frac_coords)).crystals()[0]
    stress = own.stress[0].cpu().numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    try:
        return measured(result, given, end, float(own.energy), own.forces.cpu().numpy(), stress)
    except Exception as error:  # the matcher gives up in ways of its own
        return broken(result, error)


class _Asking:
    """Asks the potential, in smaller batches where it does not stand the whole one.

    Attributes:
        most_atoms: of a batch that fits into memory; 0 as long as all did.
    """

    def __init__(self, potential: BatchPotential) -> None:
        self.potential, self.most_atoms = potential, 0
        self._good: CrystalBatch | None = None

    def __call__(self, batch: CrystalBatch) -> tuple[Evaluated, dict[int, Exception]]:
        """What the potential says, NaN where it failed, and its error for each crystal that it failed for.

        Raises:
            InputError: if it no longer computes what it has computed before.
        """
        found: list[Evaluated] = []
        errors: dict[int, Exception] = {}
        for places in self._parts(batch.num_atoms.tolist()):
            part = batch if len(places) == len(batch) else batch.select(places)
            evaluated, failed = self._try(part)
            found.append(evaluated)
            errors |= {places[place]: error for place, error in failed.items()}
        return Evaluated.concatenate(found), errors

    def _parts(self, sizes: Sequence[int]) -> list[list[int]]:
        """Places of the crystals in groups of no more than ``most_atoms``, or of one."""
        parts: list[list[int]] = []
        atoms = 0
        for place, size in enumerate(sizes):
            if not parts or (self.most_atoms and atoms + size > self.most_atoms):
                parts.append([])
                atoms = 0
            parts[-1].append(place)
            atoms += size
        return parts

    def _try(self, batch: CrystalBatch) -> tuple[Evaluated, dict[int, Exception]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch; energies and forces are checked to be finite
                found = self.potential.evaluate(batch)
            self._good = batch.select([0])
            return found, {}
        except Exception as raised:  # potentials fail in their own ways
            # The traceback holds on to what the device needs to forget first.
            error = raised.with_traceback(None)
        full = isinstance(error, torch.OutOfMemoryError)
        if len(batch) == 1:
            self._refuse_if_dead(error)
            return Evaluated.nothing(batch), {0: error}
        if full:
            self.most_atoms = max(1, len(batch.frac_coords) // 2)
            torch.cuda.empty_cache()
            return self(batch)
        half = len(batch) // 2
        first, errors = self._try(batch.select(list(range(half))))
        second, more = self._try(batch.select(list(range(half, len(batch)))))
        return Evaluated.concatenate([first, second]), errors | {half + place: e for place, e in more.items()}

    def _refuse_if_dead(self, error: Exception) -> None:
        """Make sure that a failure is the crystal's own: what was computed before can be computed again."""
        if self._good is None:
            return
        try:
            self.potential.evaluate(self._good)
        except Exception:
            raise InputError(
                f"The potential no longer computes on {self.potential.device} ({type(error).__name__}: {error}); "
                "go on with --resume, nothing is lost."
            ) from None
