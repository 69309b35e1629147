"""``crystalsmith predict``: a property of crystals by a trained predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples, print_json

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON too.")] = False,
) -> None:
    """Predict a property of crystals and write it as a table of id, formula and value.

    The value is empty for what could not be read and for crystals with elements that the predictor was not trained on.
    """
    import math

    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.evaluation.facts import reduced_formula
    from crystalsmith.evaluation.report.results import csv_text
    from crystalsmith.evaluation.structures import read_samples
    from crystalsmith.files import write_atomically

    predictor = load_predictor(model)
    samples = read_samples(structures)
    whole = [s for s in samples if not s.failure]
    found = dict(zip((s.id for s in whole), predictor([s.arrays for s in whole]), strict=True))
    rows = []
    for sample in samples:
        value = found.get(sample.id, math.nan)
        formula = reduced_formula(sample.numbers) if len(sample.numbers) else ""
        rows.append((sample.id, formula, float(f"{value:.6g}") if math.isfinite(value) else None, sample.failure))
    place = out or structures.with_name(f"{structures.stem}-{predictor.name}.csv")
    write_atomically(place, csv_text([("id", "formula", predictor.name, "failure"), *rows]))
    known = sum(row[2] is not None for row in rows)
    if as_json:
        print_json({"property": predictor.name, "note": predictor.note, "values": {row[0]: row[2] for row in rows}})
    else:
        print(f"{predictor.name} of {known} of {len(rows)} crystals, {predictor.note}: {place}")
