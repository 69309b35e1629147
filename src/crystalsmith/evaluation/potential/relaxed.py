"""What a relaxation is asked to do and what it leaves behind, the same for crystals one by one and in batches."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crystalsmith.elements import SYMBOLS
from crystalsmith.engine.schedule import TIMED_OUT
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays, rms_displacement


@dataclass(frozen=True)
class Relaxation:
    """How crystals are relaxed.

    Attributes:
        potential: name or ``module:factory``; see :mod:`crystalsmith.evaluation.potential.potentials`.
        energy_scale: scale of a potential of the user's own.
        fmax: eV/angstrom, the largest force (and stress times volume, per atom-like degree of freedom) left.
        steps: most optimiser steps; a crystal that needs more has not converged.
        time_limit: seconds per crystal.
        max_volume_change: largest factor by which the volume may grow or shrink.
        device: ``cpu``, ``cuda``, ...; None for a GPU where there is one.
        batch: crystals at once, by FIRE in this process; 0 for one at a time, by BFGS in worker processes; None for
            batches on a GPU where the potential has them.
        unconverged: whether a crystal that has not converged within these steps is taken as it stands.
    """

    potential: str = "7net-0"
    energy_scale: str | None = None
    fmax: float = 0.05
    steps: int = 500
    time_limit: float = 600.0
    max_volume_change: float = 4.0
    device: str | None = None
    batch: int | None = None
    unconverged: bool = False


@dataclass(frozen=True)
class Relaxed:
    """How one relaxation ended.

    Attributes:
        id, key: the crystal's name, and a hash of it.
        failure: empty, ``exploded``, ``not_converged``, ``timed_out``, ``crashed``, ``unknown_element`` or
            ``potential_failed``.
        energy: total, eV per cell, as the potential gives it.
        energy_given: the same of the crystal before its first step; None where that is not known.
        frac_coords, cell, numbers: the crystal at the end.
        forces: eV/angstrom.
        stress: eV/cubic angstrom, Voigt order.
        rmsd: angstrom from the crystal as given; None where they no longer match.
        seconds: that it took; in a batch its share by the number of atoms.
        optimizer: ``bfgs``, or ``fire`` in a batch.
    """

    id: str
    key: str
    failure: str = ""
    detail: str = ""
    energy: float | None = None
    energy_given: float | None = None
    frac_coords: Any = None
    cell: Any = None
    numbers: Any = None
    forces: Any = None
    stress: Any = None
    rmsd: float | None = None
    steps: int = 0
    seconds: float = 0.0
    optimizer: str = "bfgs"

    @property
    def arrays(self) -> Arrays:
        """Fractional coordinates, cell and atomic numbers at the end."""
        return (
            np.array(self.frac_coords, dtype=np.float64).reshape(-1, 3),
            np.array(self.cell, dtype=np.float64),
            np.array(self.numbers, dtype=np.int64),
        )


@dataclass(frozen=True)
class Finished:
    """All relaxations of a set by the crystals' names."""

    by_id: dict[str, Relaxed]

    def arrays(self, crystal: Judged) -> Arrays | None:
        """The relaxed crystal; None where there is none."""
        found = self.by_id.get(crystal.sample.id)
        return None if found is None or found.failure or crystal.failure else found.arrays

    @property
    def seconds_per_atom(self) -> float | None:
        """What one step took for each atom of the cell; None if nothing was relaxed."""
        done = [r for r in self.by_id.values() if r.numbers is not None and r.seconds]
        steps = sum((r.steps + 1) * len(r.numbers) for r in done)
        return sum(r.seconds for r in done) / steps if steps else None


def unknown_elements(calculator: Any, numbers: Any) -> str:
    """Says which elements a potential does not know by its ``type_map``; empty if it knows all or has none."""

    known = getattr(calculator, "type_map", None)
    if not isinstance(known, dict):
        return ""
    symbols = " ".join(SYMBOLS[z - 1] for z in sorted({int(z) for z in numbers}) if z not in known)
    return f"the potential does not know {symbols}" if symbols else ""


LARGEST_ENERGY, LARGEST_FORCE = 1e8, 1e6
"""eV and eV/angstrom that no crystal has; a potential that gives more was asked far from what it learned."""


def ending(
    energy: float, largest: float, change: float, seconds: float, steps: int, settings: Relaxation
) -> tuple[bool, str, str]:
    """Whether a relaxation is over, as which failure (none if it has converged), and what there is to say of it.

    Args:
        energy: eV.
        largest: force in eV/angstrom, stress included.
        change: factor by which the volume has changed.
        seconds, steps: so far.
    """
    if not math.isfinite(change + largest + energy):
        return True, "exploded", "energy, forces or volume are not finite"
    if abs(energy) > LARGEST_ENERGY or largest > LARGEST_FORCE:
        return True, "exploded", f"the potential gives {energy:.3g} eV and forces of {largest:.3g} eV/angstrom"
    if not 1 / settings.max_volume_change <= change <= settings.max_volume_change:
        return True, "exploded", f"the volume changed by a factor of {change:.3g}"
    if largest < settings.fmax:
        return True, "", ""
    if seconds > settings.time_limit:
        return True, TIMED_OUT, f"more than {settings.time_limit:g} s"
    if steps >= settings.steps:
        failure = "" if settings.unconverged else "not_converged"
        return True, failure, f"largest force {largest:.3g} eV/angstrom after {steps} steps"
    return False, "", ""


def measured(result: Relaxed, given: Arrays, end: Arrays, energy: float, forces: Any, stress: Any) -> Relaxed:
    """A result with the crystal at the end, its energy, forces and stress (Voigt order)."""
    frac, cell, numbers = end
    return replace(
        result,
        energy=float(energy),
        frac_coords=frac.tolist(),
        cell=cell.tolist(),
        numbers=numbers.tolist(),
        forces=np.round(forces, 6).tolist(),
        stress=np.round(stress, 8).tolist(),
        rmsd=rms_displacement(given, end),
    )


def broken(result: Relaxed, error: Exception) -> Relaxed:
    """A result whose potential raised."""
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return replace(result, failure="potential_failed", detail=detail)


def key_of(arrays: Arrays) -> str:
    """A hash of a crystal: results on disk belong to exactly the crystals they were computed for."""
    digest = hashlib.sha256()
    for part in arrays:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
