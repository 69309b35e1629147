"""Every column that we write is explained in docs/reference/columns.md, under the table that it belongs to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.snippets import ROOT

from crystalsmith.data.prepare import LEDGER_COLUMNS
from crystalsmith.discovery.archive import HEAD as DISCOVERY
from crystalsmith.discovery.energies import COLUMNS as RERANKED
from crystalsmith.discovery.handoff import COLUMNS as EXPORT
from crystalsmith.evaluation.prediction.run import COLUMNS as SCORE
from crystalsmith.evaluation.report.results import COLUMNS as EVALUATION
from crystalsmith.evaluation.stability import LEFT_OUT_COLUMNS
from crystalsmith.generation.describe import COLUMNS as GENERATION
from crystalsmith.training.arrangements import COLUMNS as ARRANGEMENTS
from crystalsmith.training.predictor import COLUMNS as PREDICTOR
from crystalsmith.training.record import BIN_COLUMNS, COLUMNS

PAGE = (ROOT / "docs/reference/columns.md").read_text(encoding="utf-8")


def explained(heading: str) -> set[str]:
    """Names in code type under a heading."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`([^`]+)`", part))


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("crystals.csv of a generation", GENERATION),
        ("crystals.csv of an evaluation", EVALUATION),
        ("targets.csv of a score", SCORE),
        ("log.csv of a training run", (*COLUMNS, *BIN_COLUMNS, *PREDICTOR, *ARRANGEMENTS)),
        ("ledger.csv of a data set", LEDGER_COLUMNS),
        ("crystals.csv of an evaluation", LEFT_OUT_COLUMNS),
        ("candidates.csv of a discovery", (*DISCOVERY, "detail")),
        ("reranked.csv", RERANKED),
        ("index.csv of an export", EXPORT),
    ],
)
def test_every_column_is_explained(heading: str, columns: tuple[str, ...]) -> None:
    known = explained(heading)
    prefixes = tuple(name.removesuffix("NAME") for name in known if name.endswith("_NAME"))
    assert [name for name in columns if name not in known and not (prefixes and name.startswith(prefixes))] == []


def test_what_is_asked_of_a_crystal_is_explained(conditional: Path) -> None:
    import crystalsmith
    from crystalsmith.generation.making import make_request
    from crystalsmith.generation.steering import Steering

    model, known = crystalsmith.load(conditional).model, explained("crystals.csv of a generation")
    for steering in (
        Steering(formula="NaCl", space_group="any"),
        Steering(compositions=["NaCl"], samples=2),
        Steering(properties={"band_gap": 1.0}),
    ):
        for name in make_request(model, num=2, steering=steering).plan(0).columns():
            assert name in known or name.startswith("target_"), name
