"""``crystalsmith merge``: shards of a run into one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples, print_json

EPILOG = examples("crystalsmith merge crystals", "crystalsmith merge crystals --keep-shards")


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that the shards were made in.")],
    keep_shards: Annotated[
        bool, typer.Option("--keep-shards", help="Leave OUT/shards as they are; they are removed otherwise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Join the shards in OUT into one run.

    All shards must be finished and of one run: the same model, settings and versions. The result is the folder that
    crystalsmith generate writes without --shard. What is missing is named, with the command that makes it.
    """
    from crystalsmith.generation.merge import merge as join

    manifest = join(out, keep_shards)
    counts = manifest["counts"]
    if as_json:
        print_json({"out": str(out), "shards": manifest["merged"]} | counts)
    else:
        print(f"{counts['written']} crystals of {manifest['merged']} shards in {out}: {counts['valid']} valid.")
