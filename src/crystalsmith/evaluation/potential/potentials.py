"""The potentials that can relax crystals, and the scale that each one's energies are on.

A potential is an ASE calculator. Those named here are imported when they are asked for; any other is taken from a
function of the user's own as ``module:factory``, which returns a calculator with energy, forces and stress.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.errors import InputError

SCALES = ("pbe", "mp2020")
"""Scales of energies: total energies of PBE(+U) as the Materials Project computes them, plain or with its corrections
of 2020 (Wang et al., Scientific Reports 11, 15496, 2021)."""

HUBBARD_U = {"Co": 3.32, "Cr": 3.7, "Fe": 5.3, "Mn": 3.9, "Mo": 4.38, "Ni": 6.2, "V": 3.25, "W": 6.2}
"""eV, used by the Materials Project in oxides and fluorides."""


@dataclass(frozen=True)
class Potential:
    """A potential by name.

    Attributes:
        name: what it is called here.
        package: what to install.
        scale: one of ``SCALES``.
        make: device name (``cpu``, ``cuda``) to calculator.
    """

    name: str
    package: str
    scale: str
    make: Callable[[str], Any]

    @property
    def version(self) -> str:
        """The version of the package that it comes in; empty where that is not known."""
        from importlib import metadata

        try:
            return metadata.version(self.package.split(".")[0])
        except metadata.PackageNotFoundError:
            return ""


def find_potential(name: str, scale: str | None = None) -> Potential:
    """The potential of a name.

    Args:
        name: one of ``POTENTIALS`` or ``module:factory``.
        scale: the scale of the energies of a ``module:factory`` (default ``pbe``).

    Raises:
        InputError: if it is unknown.
    """
    if scale is not None and scale not in SCALES:
        raise InputError(f"The scale of energies is pbe or mp2020, not '{scale}'.")
    key = _ALIASES.get(name, name)
    if key in POTENTIALS:
        known = POTENTIALS[key]
        if scale is not None and scale != known.scale:
            raise InputError(f"The energies of {name} are on the scale {known.scale}; leave --energy-scale out.")
        return known
    if ":" in name:
        return Potential(name, name.split(":")[0], scale or "pbe", lambda device: _from_factory(name, device))
    raise InputError(f"There is no potential '{name}'; use {', '.join(POTENTIALS)}, or module:factory of your own.")


def make_calculator(potential: Potential, device: str | None = None) -> Any:
    """The calculator of a potential, on a GPU where there is one.

    Raises:
        InputError: if its package is not installed or cannot load.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages about their own future
            return potential.make(device or default_device())
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(
            f"The potential {potential.name} needs the package {potential.package} (missing: {error.name}); "
            f"install it, for the default one with pip install 'crystalsmith[evaluate]'."
        ) from None
    except Exception as error:
        raise InputError(
            f"The potential {potential.name} cannot be loaded ({type(error).__name__}: {error})."
        ) from error


def worker_calculator(name: str, scale: str | None, device: str | None = None) -> Any:
    """The calculator of a potential in a worker process, which computes with one thread.

    Raises:
        InputError: if it cannot be had.
    """
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    return make_calculator(find_potential(name, scale), device)


def default_device() -> str:
    """``cuda`` where there is such a GPU, else ``cpu``."""
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sevennet(model: str) -> Callable[[str], Any]:
    def make(device: str) -> Any:
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(model, device=device)

    return make


def _chgnet(device: str) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device=device)


def _from_factory(name: str, device: str) -> Any:
    from importlib import import_module
    from inspect import signature

    module, function = name.split(":", 1)
    try:
        factory = getattr(import_module(module), function)
    except AttributeError:
        raise InputError(f"The module {module} has no '{function}'; give module:factory.") from None
    return factory(device=device) if "device" in signature(factory).parameters else factory()


POTENTIALS: dict[str, Potential] = {
    p.name: p
    for p in (
        Potential("7net-0", "sevenn", "pbe", _sevennet("7net-0")),
        Potential("7net-l3i5", "sevenn", "pbe", _sevennet("7net-l3i5")),
        Potential("chgnet", "chgnet", "mp2020", _chgnet),
    )
}
"""Potentials whose weights come inside their packages."""

_ALIASES = {"sevennet": "7net-0", "sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5"}


def scale_correction(
    potential: Potential,
    corrections: str | None,
    energy: float,
    arrays: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]],
) -> float:
    """What to add to a total energy (eV per cell) to bring it to the scheme of a reference.

    Raises:
        InputError: if there is no way from the potential's scale to that scheme.
    """
    refuse_scheme(potential, corrections)
    return mp2020_correction(energy, arrays) if (potential.scale, corrections) == ("pbe", "mp2020") else 0.0


def refuse_scheme(potential: Potential, corrections: str | None) -> None:
    """Make sure that a potential's energies can be brought to the scheme of a reference.

    Raises:
        InputError: if they cannot.
    """
    if corrections is None or (potential.scale, corrections) in {
        ("pbe", "mp2020"),
        ("pbe", "none"),
        ("mp2020", "mp2020"),
    }:
        return
    raise InputError(
        f"The energies of {potential.name} are on the scale {potential.scale}, which cannot be brought to the "
        f"reference's scheme '{corrections}'; use another potential or reference."
    )


def mp2020_correction(
    energy: float, arrays: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
) -> float:
    """The Materials Project's correction of 2020 for a plain PBE(+U) energy, in eV per cell; NaN if it has none."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    frac, cell, numbers = arrays
    structure = Structure(Lattice(cell), [int(z) for z in numbers], frac)
    with warnings.catch_warnings():
        # pymatgen tells of oxidation states that it cannot guess, for which its scheme has a rule of its own.
        warnings.simplefilter("ignore")
        anion = max(structure.composition.elements, key=lambda e: 0.0 if np.isnan(e.X) else e.X).symbol
        present = {e.symbol for e in structure.composition.elements}
        values = {s: u for s, u in HUBBARD_U.items() if s in present} if anion in ("O", "F") else {}
        parameters = {"run_type": "GGA+U" if values else "GGA", "hubbards": values}
        entry = ComputedStructureEntry(structure, energy, parameters=parameters)
        done = _compatibility().process_entry(entry, clean=True)
    return float("nan") if done is None else float(done.correction)


@lru_cache(maxsize=1)
def _compatibility() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)
