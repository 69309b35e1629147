"""What gives the energy above the hull of a proposal: a predictor, or one energy of a potential."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.potentials import POTENTIALS, find_potential

if TYPE_CHECKING:
    from crystalsmith.evaluation.potential.placing import Placing

DOUBTFUL = -0.15
"""eV/atom: a crystal that a potential places farther below the hull is more likely its error than a discovery."""

AT_ONCE = 16
"""Crystals in one call of a potential that takes several."""


class Selector(Protocol):
    """Values of crystals, of which the lowest is the best; NaN where there is none.

    Attributes:
        name: of the value, as ``energy_above_hull``.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, crystals: Sequence[Arrays]) -> Sequence[float] | NDArray[Any]: ...


def names_potential(selector: str) -> bool:
    """Whether a selector is a potential by name or ``module:factory``, not a predictor."""
    if selector in POTENTIALS:
        return True
    module, colon, factory = selector.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), factory))


@lru_cache(maxsize=4)
def find_selector(selector: str, reference: str) -> Selector:
    """The selector of a name.

    Args:
        selector: a bundled predictor, the folder of one, or a potential.
        reference: folder of the reference set whose hull a potential needs; empty if there is none.

    Raises:
        InputError: if it cannot be used.
    """
    if names_potential(selector):
        return OneEnergy(selector, reference)
    from crystalsmith.checkpoints.predictor import load_predictor

    return load_predictor(selector)


class OneEnergy:
    """The energy above a reference's hull of crystals as they are, not relaxed, by a potential.

    An upper bound to what relaxation gives. Values below :data:`DOUBTFUL` count as none.
    """

    name = "energy_above_hull"

    def __init__(self, potential: str, reference: str) -> None:
        if not reference:
            raise InputError(f"To select by the potential {potential} takes a hull; give --novel-to REF, too.")
        self.placing = _placing(potential, reference)
        self.energies = _energies(potential)

    def __call__(self, crystals: Sequence[Arrays]) -> list[float]:
        """eV/atom."""
        energies = self.energies(crystals)
        return [self._value(*one) for one in zip(crystals, energies, strict=True)]

    def _value(self, crystal: Arrays, energy: float) -> float:
        if not math.isfinite(energy):
            return math.nan
        value = float(self.placing.place(crystal, energy).get("energy_above_hull", math.nan))
        return value if value >= DOUBTFUL else math.nan


def _placing(potential: str, reference: str) -> Placing:
    from crystalsmith.evaluation.potential.placing import Placing
    from crystalsmith.evaluation.reference.known import Reference

    placing = Placing(Reference.open(reference), potential)
    if placing.reference is None:
        raise InputError(f"{reference} holds no energies; to select by a potential build it with --energies.")
    return placing


def _energies(name: str) -> Callable[[Sequence[Arrays]], list[float]]:
    """Crystals to total energies, eV per cell; NaN where a potential gives none."""
    from crystalsmith.evaluation.potential.batched import computes_batches, make_batch_potential
    from crystalsmith.evaluation.potential.potentials import make_calculator
    from crystalsmith.evaluation.potential.relaxed import unknown_elements

    potential = find_potential(name)
    if not computes_batches(potential):
        calculator = make_calculator(potential)
        return lambda crystals: [_one(calculator, crystal) for crystal in crystals]
    many = make_batch_potential(potential)

    def energies(crystals: Sequence[Arrays]) -> list[float]:
        found = np.full(len(crystals), math.nan)
        able = [i for i, crystal in enumerate(crystals) if not unknown_elements(many, crystal[2])]
        for cut in range(0, len(able), AT_ONCE):
            rows = able[cut : cut + AT_ONCE]
            batch = CrystalBatch.from_arrays([crystals[i] for i in rows], torch.float64).to(many.device)
            try:
                with torch.enable_grad():  # forces, which such a potential always gives, are derivatives
                    found[rows] = many.evaluate(batch).energy.cpu().numpy()
            except (RuntimeError, ValueError):  # a crystal it cannot compute; it is not chosen
                continue
        return found.tolist()

    return energies


def _one(calculator: Any, crystal: Arrays) -> float:
    from ase import Atoms

    atoms = Atoms(numbers=crystal[2], scaled_positions=crystal[0], cell=crystal[1], pbc=True)
    try:
        with torch.enable_grad():
            return float(calculator.get_potential_energy(atoms))
    except Exception:  # whatever a potential raises at a crystal: it is not chosen
        return math.nan
