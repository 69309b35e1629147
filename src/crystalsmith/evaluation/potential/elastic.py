"""Bulk modulus of a relaxed crystal by a potential: energies at some volumes around it, and an equation of state.

The cell is scaled evenly and the atoms are relaxed at each volume, so that free coordinates answer to the pressure. The
third-order Birch-Murnaghan equation (Birch, Phys. Rev. 71, 809, 1947) is fitted by ASE.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.engine.run import Engine, run
from crystalsmith.engine.schedule import TIMED_OUT
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.potentials import worker_calculator
from crystalsmith.files import append_line
from crystalsmith.progress import metered
from crystalsmith.schema import of_type, parse_json

FILE = "elastic.jsonl"

MAX_MODULUS = 1000.0
"""GPa; about twice that of diamond. What lies above is an artefact of the potential."""

MAX_RESIDUAL = 0.03
"""Largest root mean square residual of the fit, as a share of the range of the energies."""


@dataclass(frozen=True)
class Strains:
    """How an equation of state is sampled.

    Attributes:
        largest: linear strain at both ends.
        points: volumes, evenly spaced in the linear strain.
        fmax: eV/angstrom that atoms are relaxed to at each volume.
        steps: most optimiser steps at each volume.
    """

    largest: float = 0.03
    points: int = 7
    fmax: float = 0.02
    steps: int = 60


@dataclass(frozen=True)
class Modulus:
    """The outcome of one equation of state.

    Attributes:
        key: a hash of the crystal and of how it was computed.
        value: GPa; None if the fit was rejected.
        reason: why it was.
        volumes, energies: cubic angstrom and eV, per cell.
    """

    id: str
    key: str
    value: float | None = None
    reason: str = ""
    volumes: Sequence[float] = ()
    energies: Sequence[float] = ()


def bulk_modulus(arrays: Arrays, calculator: Any, strains: Strains | None = None) -> Modulus:
    """The bulk modulus of a relaxed crystal; a fit that cannot be trusted has a reason instead of a value."""
    strains = strains or Strains()
    volumes, energies = _sample(arrays, calculator, strains)
    value, reason = fit_modulus(volumes, energies)
    return Modulus("", "", value, reason, volumes.tolist(), energies.tolist())


def _sample(arrays: Arrays, calculator: Any, strains: Strains) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from ase import Atoms
    from ase.optimize import FIRE

    frac, cell, numbers = arrays
    volumes, energies = [], []
    for strain in np.linspace(-strains.largest, strains.largest, strains.points):
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell * (1 + strain), pbc=True)
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=strains.fmax, steps=strains.steps)
        volumes.append(float(atoms.get_volume()))
        energies.append(float(atoms.get_potential_energy()))
    return np.array(volumes), np.array(energies)


def fit_modulus(volumes: NDArray[np.float64], energies: NDArray[np.float64]) -> tuple[float | None, str]:
    """Bulk modulus in GPa by the Birch-Murnaghan equation, or None and the reason.

    Args:
        volumes: ``(k,)`` cubic angstrom.
        energies: ``(k,)`` eV.
    """
    from ase.eos import EquationOfState
    from ase.units import GPa

    if not np.isfinite(energies).all():
        return None, "an energy is not finite"
    lowest = int(np.argmin(energies))
    if lowest in (0, len(energies) - 1):
        return None, "the energy has no minimum within the volumes sampled"
    equation = EquationOfState(volumes.tolist(), energies.tolist(), eos="birchmurnaghan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a poor fit, which is judged below
            volume, _, modulus = equation.fit(warn=False)
    except Exception as error:  # the fit fails in the ways of several libraries
        return None, f"the fit failed ({type(error).__name__})"
    value = float(modulus) / GPa
    if not (math.isfinite(value) and volumes.min() < volume < volumes.max()):
        return None, "the fitted minimum lies outside the volumes sampled"
    if not 0 < value < MAX_MODULUS:
        return None, f"{value:.4g} GPa is no bulk modulus"
    fitted = equation.func(volumes, *equation.eos_parameters)
    residual = float(np.sqrt(np.mean((fitted - energies) ** 2)) / np.ptp(energies))
    if residual > MAX_RESIDUAL:
        return None, f"the energies do not follow an equation of state (residual {100 * residual:.2g} % of their range)"
    return value, ""


def bulk_moduli(
    crystals: Sequence[Judged],
    arrays: Callable[[Judged], Arrays | None],
    out: Path,
    potential: str,
    scale: str | None,
    time_limit: float,
    engine: Engine,
    device: str | None = None,
) -> dict[str, int]:
    """Set the bulk modulus of every relaxed crystal; each result is kept at once, and used again for the same crystal.

    Args:
        arrays: the relaxed crystal; None if there is none.
        scale: of the energies of a potential of the user's own.
        time_limit: seconds for one crystal.
        device: ``cpu``, ``cuda``, ...; None for a GPU where there is one.

    Returns:
        How often each reason stood in the way.

    Raises:
        InputError: if the potential cannot be used or the disk is full.
    """
    file, strains = out / FILE, Strains()
    done = _read(file)
    tasks, by_key = [], {}
    for crystal in crystals:
        found = arrays(crystal)
        if found is None or crystal.relaxed is None:
            continue
        key = _key(found, potential, strains)
        by_key[crystal.sample.id] = key
        if key not in done:
            tasks.append((crystal.sample.id, key, found))
    setting = (potential, scale, strains, device)
    with metered("bulk moduli", len(by_key)) as advance:
        advance(len(by_key) - len(tasks))
        for end in run(_start, tasks, engine, arguments=setting, time_limit=time_limit):
            name, key, _ = tasks[end.number]
            result = end.value
            if end.status:
                what = f"more than {time_limit:g} s" if end.status == TIMED_OUT else "the process ended"
                result = Modulus(name, key, None, f"{end.status}: {what}")
            append_line(file, asdict(result))
            done[key] = result
            advance(1)
    reasons: dict[str, int] = {}
    for crystal in crystals:
        if crystal.sample.id in by_key:
            outcome = done[by_key[crystal.sample.id]]
            crystal.bulk_modulus, crystal.bulk_modulus_note = outcome.value, outcome.reason
            if outcome.reason:
                short = outcome.reason.split(" (")[0]
                reasons[short] = reasons.get(short, 0) + 1
    return reasons


def _start(
    potential: str, scale: str | None, strains: Strains, device: str | None
) -> Callable[[tuple[str, str, Arrays]], Modulus]:
    """In a worker: load the potential once."""
    calculator = worker_calculator(potential, scale, device)

    def job(task: tuple[str, str, Arrays]) -> Modulus:
        name, key, arrays = task
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch; energies are checked to be finite
                found = bulk_modulus(arrays, calculator, strains)
        except Exception as error:  # potentials fail in their own ways
            return Modulus(name, key, None, f"the potential failed ({type(error).__name__}: {str(error)[:120]})")
        return Modulus(name, key, found.value, found.reason, found.volumes, found.energies)

    return job


def _key(arrays: Arrays, potential: str, strains: Strains) -> str:
    digest = hashlib.sha256(json.dumps([potential, asdict(strains)]).encode())
    for part in arrays:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Modulus]:
    """The results on disk by key; a line cut short is dropped."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            result = Modulus(**parse_json(line, str(file), of_type(Modulus)))
        except (InputError, TypeError):
            continue
        found[result.key] = result
    return found
