"""The command ``crystalsmith``: its subcommands, each in a module of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from crystalsmith import __version__
from crystalsmith.cli import (
    bench,
    data,
    discover,
    evaluate,
    export,
    finetune,
    generate,
    merge,
    models,
    predict,
    predict_structure,
    reference,
    report,
    score,
    train,
)
from crystalsmith.cli._shared import Commands, examples, flowing

app = typer.Typer(
    name="crystalsmith",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Generate inorganic crystals with a diffusion model: elements, coordinates and lattice together.",
    epilog=examples("crystalsmith generate crystals --num 16", "crystalsmith models list"),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"crystalsmith {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


app.command("generate", epilog=generate.EPILOG, help=flowing(generate.generate.__doc__))(generate.generate)
app.command("merge", epilog=merge.EPILOG, help=flowing(merge.merge.__doc__))(merge.merge)
app.command("discover", epilog=discover.EPILOG, help=flowing(discover.discover.__doc__))(discover.discover)
app.command("export", epilog=export.EPILOG, help=flowing(export.export.__doc__))(export.export)
app.command("evaluate", epilog=evaluate.EPILOG, help=flowing(evaluate.evaluate.__doc__))(evaluate.evaluate)
app.command("score", epilog=score.EPILOG, help=flowing(score.score.__doc__))(score.score)
app.command("train", epilog=train.EPILOG, help=flowing(train.train.__doc__))(train.train)
app.command("finetune", epilog=finetune.EPILOG, help=flowing(finetune.finetune.__doc__))(finetune.finetune)
app.command("predict", epilog=predict.EPILOG, help=flowing(predict.predict.__doc__))(predict.predict)
app.command(
    "predict-structure",
    epilog=predict_structure.EPILOG,
    help=flowing(predict_structure.predict_structure.__doc__),
)(predict_structure.predict_structure)
app.command("report", epilog=report.EPILOG, help=flowing(report.report.__doc__))(report.report)
app.command("bench", epilog=bench.EPILOG, help=flowing(bench.bench.__doc__))(bench.bench)


@app.command("examples", epilog=examples("crystalsmith examples", "crystalsmith examples first-steps"))
def copy_examples(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("examples"),
) -> None:
    """Copy the small files that the documentation uses into a folder."""
    import shutil
    from importlib.resources import files

    from crystalsmith.errors import InputError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; name a new folder.")
    source = Path(str(files("crystalsmith.examples")))
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    print(f"{', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}.")


app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(reference.app, name="reference")


def main() -> None:
    """The entry point of the console script."""
    # Threads that wait for work sleep instead of spinning: on a machine that does anything else, spinning threads made
    # a forward pass twenty times slower. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Kernels for bf16 are compiled for each shape and kept, a thousand of them twice over; every batch of crystals has
    # shapes of its own, so that 2,000 crystals took a gigabyte.
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")
    if (
        sys.platform == "darwin"
    ):  # what torch lacks on Apple's device runs on the processor; read when torch is imported
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    app()
