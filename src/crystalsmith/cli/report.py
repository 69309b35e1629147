"""``crystalsmith report``: several evaluations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples
from crystalsmith.errors import InputError

EPILOG = examples("crystalsmith report crystals/evaluation others/evaluation --out compare.html")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by crystalsmith evaluate.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Put the metrics of several evaluations into one page, side by side."""
    import json

    from crystalsmith.evaluation.report.page import comparison
    from crystalsmith.evaluation.run import FORMAT
    from crystalsmith.files import write_atomically

    loaded = []
    for run in runs:
        file = run / "metrics.json" if run.is_dir() else run
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{file} cannot be read; give folders written by crystalsmith evaluate.") from None
        if not isinstance(metrics, dict) or metrics.get("format") != FORMAT:
            raise InputError(f"{file} is no evaluation of this version; run crystalsmith evaluate again.")
        loaded.append(metrics)
    write_atomically(out, comparison(loaded, [str(run) for run in runs]))
    print(f"{len(runs)} evaluations side by side in {out}.")
