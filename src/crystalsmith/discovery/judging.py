"""Where a candidate stands: energies on the reference's scale, the hull, and all that can be measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crystalsmith.evaluation.asked.measures import Predictor, measure
from crystalsmith.evaluation.asked.requirements import Requirement
from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.placing import Placing
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import Sample


class Judge(Placing):
    """Places crystals on the hull of a reference and measures them.

    Args:
        reference: None where there is none; then there is no hull.
        potential, scale: whose energies are placed.
        predictors: of properties that nothing else measures.

    Raises:
        InputError: if the energies of the potential and the reference do not belong together.
    """

    def __init__(
        self, reference: Reference | None, potential: str, scale: str | None, predictors: Sequence[Predictor] = ()
    ) -> None:
        super().__init__(reference, potential, scale)
        self.predictors = tuple(predictors)

    def measure(self, name: str, arrays: Arrays, facts: Facts, values: dict[str, Any]) -> dict[str, Any]:
        """All that can be measured of a crystal, by canonical name."""
        crystal = Judged(Sample(name, *arrays), facts=facts, relaxed=facts)
        crystal.energy_per_atom = values.get("energy_per_atom")
        crystal.formation_energy = values.get("formation_energy_per_atom")
        crystal.energy_above_hull = values.get("energy_above_hull")
        crystal.bulk_modulus = values.get("bulk_modulus")
        measure([crystal], True, self.predictors, lambda _: arrays)
        return dict(crystal.measured)


def unmet(tests: Sequence[Requirement], values: dict[str, Any], yet_to_come: Sequence[str] = ()) -> str:
    """The first requirement that a candidate does not meet; empty if it meets all but those on what is yet to come."""
    for test in tests:
        if test.name in yet_to_come:
            continue
        if not test.met(values.get(test.name)):
            return test.text
    return ""
