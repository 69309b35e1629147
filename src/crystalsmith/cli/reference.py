"""``crystalsmith reference``: build the set that stability and novelty are judged against, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crystalsmith.cli._shared import Commands, examples, print_json

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Build reference sets for stability and novelty, and look at them.",
)

EXAMPLES = examples(
    "crystalsmith reference build mp20.parquet refs/mp20 --splits train,val --corrections mp2020",
    "crystalsmith reference build mp20.parquet refs/mp --also extra.parquet --hull hull.parquet --corrections mp2020",
    "crystalsmith reference build entries.json refs/mine --corrections none",
)


@app.command(epilog=EXAMPLES)
def build(
    input: Annotated[
        Path,
        typer.Argument(
            help="Structures in any format that data prepare reads, a prepared data set, a JSON of computed "
            "entries, or a table of compositions and formation energies."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    also: Annotated[list[Path] | None, typer.Option(help="Further structures; may be given several times.")] = None,
    hull: Annotated[
        Path | None,
        typer.Option(
            help="Table with composition and formation_energy_per_atom, or JSON of computed entries.",
            show_default="the energies in INPUT",
        ),
    ] = None,
    corrections: Annotated[
        str | None, typer.Option(help="Correction scheme of the energies: mp2020, none, or a name of yours.")
    ] = None,
    elemental_energies: Annotated[
        Path | None, typer.Option(help="JSON of symbol and eV/atom on the same scale, to place total energies.")
    ] = None,
    splits: Annotated[str | None, typer.Option(help="Take only these splits, such as train,val.")] = None,
    name: Annotated[str, typer.Option(help="Name of the set; that of the folder by default.")] = "",
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 for all cores.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier reference.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Index known structures by formula and energies by chemical system, so that evaluation opens them at once."""
    import os

    from crystalsmith.evaluation.reference_build import build_reference

    manifest = build_reference(
        [input, *(also or [])],
        output,
        hull=hull,
        corrections=corrections,
        elemental_energies=elemental_energies,
        splits=[s.strip() for s in splits.split(",") if s.strip()] if splits else None,
        name=name or None,
        jobs=jobs or os.cpu_count() or 1,
        overwrite=overwrite,
    )
    print_json(manifest) if as_json else print(_sentences(manifest))


@app.command(epilog=examples("crystalsmith reference info refs/mp20"))
def info(
    folder: Annotated[Path, typer.Argument(help="A folder made by crystalsmith reference build.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a reference holds: structures, hull entries, elements and the correction scheme."""
    from crystalsmith.evaluation.reference import Reference

    manifest = Reference.open(folder).manifest
    print_json(manifest) if as_json else print(_sentences(manifest))


def _sentences(manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    lines = [f"{manifest['name']}: {counts['structures']} structures, {counts['hull_entries']} hull entries."]
    if counts["hull_entries"]:
        placed = "known" if manifest["elemental_energies"] else "not known, so total energies cannot be placed"
        lines.append(f"Corrections: {manifest['corrections']}; elements: {len(manifest['elements'])}; ")
        lines[-1] += f"elemental energies: {placed}."
    else:
        lines.append("No energies: novelty can be judged, stability cannot.")
    left_out = ", ".join(f"{reason} {n}" for reason, n in sorted(counts["refused"].items()))
    return "\n".join([*lines, f"Left out: {left_out}."] if left_out else lines)
