"""The names that the field has for the same crystals: which threshold, which matcher, what has to be valid first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.statistics import rate, spread

METASTABLE = 0.1
"""eV/atom above the hull."""


@dataclass(frozen=True)
class Preset:
    """How a benchmark relaxes.

    Attributes:
        fmax: eV/angstrom.
        steps: most of them.
        unconverged: whether a crystal that has not converged within them is judged as it stands.
    """

    fmax: float
    steps: int
    unconverged: bool


PRESETS = {"mattergen": Preset(0.05, 500, False), "lemat": Preset(0.02, 50, True)}
"""MatterGen (Zeni et al., Nature 639, 624, 2025) and LeMat-GenBench (arXiv 2512.04562)."""


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        InputError: if there is none.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset '{name}'; use {' or '.join(PRESETS)}.")
    return PRESETS[name]


def conventions(crystals: Sequence[Judged]) -> dict[str, Any]:
    """Rates of all crystals requested under the names and rules of others.

    Returns:
        ``SUN``: stable (at most 0 eV/atom above the hull), unique and novel by the ordered matcher. ``MSUN``: the same
        at most 0.1. ``MatterGen``: below 0.1, by either matcher. ``lemat``: the columns of LeMat-GenBench, in which a
        crystal counts nowhere unless it is valid by the rules that are called plausible here.
    """

    def share(holds: Callable[[Judged], Any]) -> dict[str, Any]:
        return rate([bool(holds(c)) for c in crystals])

    def plausible(c: Judged) -> bool:
        return c.plausibility is not None and c.plausibility.plausible

    def below(c: Judged) -> bool:
        return c.energy_above_hull is not None and c.energy_above_hull < METASTABLE

    known = [c for c in crystals if plausible(c)]
    return {
        "SUN": share(lambda c: c.stable(0.0) and c.new),
        "MSUN": share(lambda c: c.stable(METASTABLE) and c.new),
        "MatterGen": share(lambda c: below(c) and c.new_disordered),
        "lemat": {
            "valid": share(plausible),
            "unique": share(lambda c: plausible(c) and c.unique),
            "novel": share(lambda c: plausible(c) and c.novel),
            "stable": share(lambda c: plausible(c) and c.stable(0.0)),
            "metastable": share(lambda c: plausible(c) and c.stable(METASTABLE)),
            "SUN": share(lambda c: plausible(c) and c.stable(0.0) and c.new),
            "MSUN": share(lambda c: plausible(c) and c.stable(METASTABLE) and c.new),
            "energy_above_hull": spread([c.energy_above_hull for c in known]),
            "rmsd": spread([c.rmsd for c in known]),
        },
    }
