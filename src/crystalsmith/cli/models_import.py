"""``crystalsmith models import`` and ``crystalsmith models export``: to and from the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples, print_json
from crystalsmith.errors import InputError

IMPORT_EPILOG = examples(
    "crystalsmith models import runs/lightning_logs/version_0 my-model",
    "crystalsmith models import hf:microsoft/mattergen/mattergen_base mattergen-base",
)
EXPORT_EPILOG = examples("crystalsmith models export my-model published --format mattergen")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def import_model(
    source: Annotated[str, typer.Argument(help="A folder with config.yaml and checkpoints/, or hf:owner/repo/name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the model into.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; by default that of the source.")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best (lowest validation loss) or a file name.")] = "last",
    as_json: JsonOption = False,
) -> None:
    """Import a model in the layout of the published MatterGen code.

    Nothing in its files is executed. The imported model is the same function; a report says what it is.
    """
    from crystalsmith.checkpoints.cache import HUB_PREFIX, remember_import
    from crystalsmith.checkpoints.card import report_lines
    from crystalsmith.checkpoints.published.hub import import_from_hub
    from crystalsmith.checkpoints.published.mattergen import import_model as import_folder

    if source.startswith(HUB_PREFIX):
        if checkpoint != "last":
            raise InputError("A hub model has one checkpoint, the last; leave --checkpoint out.")
        report = import_from_hub(source, out, name)
    else:
        report = import_folder(source, out, name=name, checkpoint=checkpoint)
    remember_import(out)
    if as_json:
        print_json(report.to_dict())
        return
    lines = report_lines(report.to_dict())
    width = max(len(heading) for heading, _ in lines) + 2
    for heading, value in lines:
        print(f"{heading:{width}}{value}".rstrip())


def export_model(
    model: Annotated[str, typer.Argument(help="A model folder or the name of a model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write config.yaml and checkpoints/last.ckpt into.")],
    file_format: Annotated[str, typer.Option("--format", help="Layout of the files: mattergen.")] = "mattergen",
    as_json: JsonOption = False,
) -> None:
    """Export a model in the layout of the published MatterGen code."""
    if file_format != "mattergen":
        raise InputError(f"The format '{file_format}' is unknown; use mattergen.")
    from crystalsmith.checkpoints.find import find_model
    from crystalsmith.checkpoints.published.export import export_model as export

    written = export(find_model(model), out)
    if as_json:
        print_json(written)
        return
    print(f"{written['tensors']} tensors in {written['folder']}; energy heads: {written['energy_heads']}")
