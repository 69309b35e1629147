"""``crystalsmith predict``: a property of crystals by a trained predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import DisorderOption, examples, print_json

EPILOG = examples(
    "crystalsmith predict gap/best crystals --out gaps.csv",
    "crystalsmith predict gap/best theirs.zip --json",
)


def predict(
    model: Annotated[Path, typer.Argument(help="Predictor made by crystalsmith train --task property.")],
    structures: Annotated[Path, typer.Argument(help="Whatever crystalsmith evaluate reads.")],
    out: Annotated[
        Path | None, typer.Option(help="Table to write (CSV).", show_default="STRUCTURES-PROPERTY.csv")
    ] = None,
    disorder: DisorderOption = "refuse",
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON too.")] = False,
) -> None:
    """Predict a property of crystals and write it as a table of id, formula and value.

    The value is empty for what could not be read and for crystals with elements that the predictor was not trained on.
    """
    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.evaluation.prediction.property import predicted_rows
    from crystalsmith.evaluation.report.results import csv_text
    from crystalsmith.evaluation.structures import read_samples
    from crystalsmith.files import replace_text

    predictor = load_predictor(model)
    rows = predicted_rows(predictor, read_samples(structures, disorder=disorder))
    place = out or structures.with_name(f"{structures.stem}-{predictor.name}.csv")
    replace_text(place, csv_text([list(rows[0]), *(list(row.values()) for row in rows)]))
    known = sum(row[predictor.name] is not None for row in rows)
    if as_json:
        print_json(
            {
                "property": predictor.name,
                "note": predictor.note,
                "values": {row["id"]: row[predictor.name] for row in rows},
            }
        )
    else:
        print(f"{predictor.name} of {known} of {len(rows)} crystals, {predictor.note}: {place}")
