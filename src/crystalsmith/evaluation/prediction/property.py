"""A property of crystals by a predictor, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crystalsmith.evaluation.facts import reduced_formula
from crystalsmith.evaluation.structures import Sample


def predicted_rows(predictor: Any, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each crystal: id, formula, value and, where it could not be read, why.

    Args:
        predictor: has a ``name`` and gives one number for each of a list of crystals, NaN where it cannot.
        samples: the crystals.

    The value is None for what could not be read and for elements that the predictor was not trained on.
    """
    whole = [sample for sample in samples if not sample.failure]
    found = dict(zip((s.id for s in whole), predictor([s.arrays for s in whole]), strict=True))
    rows = []
    for sample in samples:
        value = found.get(sample.id, math.nan)
        rows.append(
            {
                "id": sample.id,
                "formula": reduced_formula(sample.numbers) if len(sample.numbers) else "",
                predictor.name: float(f"{value:.6g}") if math.isfinite(value) else None,
                "failure": sample.failure,
            }
        )
    return rows
