"""``crystalsmith report``: several evaluations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples
from crystalsmith.errors import InputError

EPILOG = examples(
    "crystalsmith report crystals/evaluation others/evaluation --out compare.html",
    "crystalsmith report crystals/evaluation --submission lemat/ --state given",
)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by crystalsmith evaluate.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    submission: Annotated[
        Path | None,
        typer.Option(
            help="Instead: a folder for what LeMat-GenBench asks of one run, crystals.zip and disclosure.json."
        ),
    ] = None,
    state: Annotated[str, typer.Option(help="Of the crystals to submit: given or relaxed.")] = "given",
    num: Annotated[int, typer.Option(min=1, help="How many of them.")] = 2500,
) -> None:
    """Put the metrics of several evaluations into one page, side by side; or make a submission of one."""
    from crystalsmith.evaluation.report.page import comparison
    from crystalsmith.evaluation.run import FORMAT
    from crystalsmith.files import replace_text
    from crystalsmith.schema import interpreting, read_json

    loaded = []
    for run in runs:
        file = run / "metrics.json" if run.is_dir() else run
        mend = "give folders written by crystalsmith evaluate"
        metrics = read_json(file, mend=mend)
        if not isinstance(metrics, dict) or metrics.get("format") != FORMAT:
            raise InputError(f"{file} is no evaluation of this version; run crystalsmith evaluate again.")
        with interpreting(str(file), mend):
            comparison([metrics], [str(run)])  # what cannot be shown is told by its file
        loaded.append(metrics)
    if submission is not None:
        from crystalsmith.evaluation.report.submission import write_submission

        if len(runs) != 1:
            raise InputError(f"A submission is made of one evaluation, not of {len(runs)}.")
        told = write_submission(runs[0] if runs[0].is_dir() else runs[0].parent, loaded[0], submission, state, num)
        print(
            f"{told['crystals']} crystals, {told['state']}, in {submission}; fill in what disclosure.json leaves open."
        )
        return
    replace_text(out, comparison(loaded, [str(run) for run in runs]))
    print(f"{len(runs)} evaluations side by side in {out}.")
