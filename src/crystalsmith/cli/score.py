"""``crystalsmith score``: structure prediction against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import DisorderOption, examples, print_json
from crystalsmith.errors import InputError

EPILOG = examples(
    "crystalsmith generate run --model csp/best --compositions mp20/ --split test --limit 500 --samples 20",
    "crystalsmith score run mp20/",
    "crystalsmith score theirs.extxyz truth.parquet --samples 1,5,20",
)


def score(
    predicted: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTED",
            help="Predicted structures: a folder made by crystalsmith generate, a folder or zip of CIFs, extended XYZ, "
            "pymatgen JSON, Parquet, CSV or an ASE database; several samples of a target stand in their order.",
        ),
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="True structures: any of the same, or a prepared data set.")
    ],
    match_by: Annotated[
        str | None,
        typer.Option(
            help="How a prediction finds its target: target (a column of that name holds the target's id), name (its "
            "id is the target's, or that and a suffix such as _0), formula (reduced formula).",
            show_default="the first of these that serves all predictions",
        ),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(metavar="1,5,20", help="Numbers of samples to score at.", show_default="1 and all")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a prepared data set as TRUTH.", show_default="test; what was asked for where PREDICTED says"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Score only the first so many targets; 0 for all.")] = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds for one pair of structures.")] = 60.0,
    disorder: DisorderOption = "refuse",
    jobs: Annotated[int, typer.Option(help="Worker processes of one thread; 0 for all cores.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.", show_default="PREDICTED/score or beside the file"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print score.json.")] = False,
) -> None:
    """Score structure prediction: match rate, RMSE, METRe and cRMSE, each with its interval.

    A target is found if pymatgen's StructureMatcher (stol 0.5, angle_tol 10, ltol 0.3) matches one of its samples. The
    folder of results holds score.json and a row per target (targets.csv). Definitions: docs/evaluation.md.
    """
    import os

    from crystalsmith.evaluation.prediction.run import Options, score_files, sentences

    place = out or (predicted / "score" if predicted.is_dir() else predicted.with_name(f"{predicted.stem}-score"))
    options = Options(
        rule=match_by,
        samples=_samples(samples),
        split=split,
        limit=limit or None,
        jobs=jobs or os.cpu_count() or 1,
        time_limit=time_limit,
        disorder=disorder,
    )
    result = score_files(predicted, truth, place, options)
    if as_json:
        print_json(result)
    else:
        print(f"{sentences(result)}\nEach target: {place / 'targets.csv'}")


def _samples(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) >= 1 for part in parts):
        raise InputError(f"--samples {text!r} is not a list of numbers; write for example 1,5,20.")
    return [int(part) for part in parts]
