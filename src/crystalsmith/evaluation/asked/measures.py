"""What a crystal has of a property, by whatever can measure it: the crystal itself, a potential, or a predictor.

Where crystals were relaxed, the relaxed crystal is measured, otherwise the crystal as given. Crystals that are not
valid have nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from crystalsmith.data.computed import compute
from crystalsmith.elements import chemical_system
from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.properties import PROPERTIES

Value = float | str | None
"""A number, a chemical system such as ``Fe-Li-O``, or None: not known."""

HHI = ("hhi_score", "hhi_production", "hhi_reserve")

OF_THE_CRYSTAL = ("chemical_system", "num_elements", "num_atoms", "density", "volume_per_atom", "space_group", *HHI)
"""Properties that a crystal shows by itself; the space group at 0.1 angstrom."""

OF_ENERGIES = {
    "energy_above_hull": "energy_above_hull",
    "formation_energy_per_atom": "formation_energy",
    "energy_per_atom": "energy_per_atom",
}
"""Those that an evaluation finds where energies are at hand, with the attribute of :class:`Judged` that holds them."""

COUNTED = ("space_group", "chemical_system", "num_elements", "num_atoms")
"""Properties that are hit or missed; of the others the error counts."""


class Predictor(Protocol):
    """A model of a property that nothing else measures.

    Attributes:
        name: canonical name of the property.
        note: what the predictor is and how far it errs, for every claim that rests on it.
    """

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str: ...

    def __call__(self, crystals: Sequence[Arrays]) -> list[float]:
        """The property of each crystal."""
        ...


def kind_of(name: str) -> str:
    """scalar, log, category or elements; scalar where the registry does not know the property."""
    return PROPERTIES[name].kind if name in PROPERTIES else "scalar"


def final_facts(crystal: Judged, relaxed: bool) -> Facts | None:
    """The facts that count: of the relaxed crystal where the set was relaxed, else as given; None if not valid."""
    if not crystal.valid:
        return None
    return crystal.relaxed if relaxed else crystal.facts


def measure(
    crystals: Sequence[Judged],
    relaxed: bool,
    predictors: Sequence[Predictor] = (),
    arrays: Callable[[Judged], Arrays | None] = lambda c: c.sample.arrays,
) -> tuple[Predictor, ...]:
    """Set ``measured`` of every crystal: all that can be measured, by canonical name.

    Args:
        relaxed: whether the set was relaxed.
        predictors: for further properties. One that was measured for any crystal is predicted for none.
        arrays: the crystal that a predictor sees; None if there is none.

    Returns:
        The predictors that were used.
    """
    hhi = _hhi(crystals)
    for k, crystal in enumerate(crystals):
        crystal.measured = {**_of_crystal(crystal, relaxed), **{n: hhi[n][k] for n in HHI if crystal.valid}}
        crystal.measured |= {name: getattr(crystal, held) for name, held in OF_ENERGIES.items()}
        crystal.measured["bulk_modulus"] = crystal.bulk_modulus
        crystal.measured = {n: v for n, v in crystal.measured.items() if _is_known(v)}
    used = tuple(p for p in predictors if not any(p.name in c.measured for c in crystals))
    for predictor in used:
        known = [(c, a) for c in crystals if c.valid and (a := arrays(c)) is not None]
        values = predictor([a for _, a in known])
        for (crystal, _), value in zip(known, values, strict=True):
            if math.isfinite(value):
                crystal.measured[predictor.name] = value
    return used


def _of_crystal(crystal: Judged, relaxed: bool) -> dict[str, Value]:
    if not crystal.valid:
        return {}
    numbers = crystal.sample.numbers.tolist()
    found: dict[str, Value] = {
        "chemical_system": chemical_system(numbers),
        "num_elements": float(len(set(numbers))),
        "num_atoms": float(len(numbers)),
    }
    facts = final_facts(crystal, relaxed)
    if facts is not None:
        group = facts.space_groups[0]
        found |= {"density": facts.density, "volume_per_atom": facts.volume_per_atom}
        found["space_group"] = None if group is None else float(group)
    return found


def _hhi(crystals: Sequence[Judged]) -> dict[str, list[float]]:
    """The indices of all crystals: functions of their elements alone."""
    import torch

    from crystalsmith.crystals import CrystalBatch

    sizes = [len(c.sample.numbers) for c in crystals]
    numbers = np.concatenate([c.sample.numbers for c in crystals]) if crystals else np.zeros(0, dtype=np.int64)
    batch = CrystalBatch(
        torch.zeros(len(numbers), 3),
        torch.eye(3).repeat(len(sizes), 1, 1),
        torch.from_numpy(numbers),
        torch.tensor(sizes),
    )
    with np.errstate(invalid="ignore"):  # a failed crystal has no atoms
        return {name: compute(name, batch).tolist() for name in HHI}


def _is_known(value: Value) -> bool:
    return value is not None and (isinstance(value, str) or math.isfinite(value))


def how_measured(name: str, relaxed: bool, potential: str | None, used: Sequence[Predictor]) -> str:
    """One phrase for the report: what a property was measured by; empty if nothing measures it."""
    if note := next((p.note for p in used if p.name == name), ""):
        return note
    if name in ("chemical_system", "num_elements", "num_atoms", *HHI):
        return "from the composition"
    if name in OF_THE_CRYSTAL:
        text = "of the relaxed crystal" if relaxed else "of the crystal as generated"
        return text + (", at 0.1 angstrom" if name == "space_group" else "")
    if name in OF_ENERGIES:
        return f"by {potential}" if potential else "from the given energies"
    return f"equation of state by {potential}" if name == "bulk_modulus" and potential else ""


def why_not(name: str) -> str:
    """What is missing to measure a property, as the end of a sentence."""
    if name == "bulk_modulus":
        return "it takes an equation of state (--potential with --bulk-modulus) or a predictor (--predictor)"
    if name in OF_ENERGIES:
        return "it takes energies and a reference with a hull (--reference with --potential or --energies)"
    return "nothing measures it but a predictor (--predictor: bundled, or of crystalsmith train --task property)"
