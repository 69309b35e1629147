"""``crystalsmith reference``: build the set that stability and novelty are judged against, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crystalsmith.cli._shared import Commands, DisorderOption, examples, print_json

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
    disorder: DisorderOption = "refuse",
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 for all cores.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier reference.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Index known structures by formula and energies by chemical system, so that evaluation opens them at once."""
    import os

    from crystalsmith.evaluation.reference.build import build_reference

    manifest = build_reference(
        [input, *(also or [])],
        output,
        hull=hull,
        corrections=corrections,
        elemental_energies=elemental_energies,
        splits=[s.strip() for s in splits.split(",") if s.strip()] if splits else None,
        name=name or None,
        disorder=disorder,
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
    from crystalsmith.evaluation.reference.known import Reference

    manifest = Reference.open(folder).manifest
    print_json(manifest) if as_json else print(_sentences(manifest))


@app.command(epilog=examples("crystalsmith reference bias refs/mp20 --potential 7net-0 --rows 2000"))
def bias(
    folder: Annotated[Path, typer.Argument(help="A folder made by crystalsmith reference build.")],
    potential: Annotated[
        str, typer.Option(help="7net-0, 7net-l3i5, chgnet, or module:factory of your own.")
    ] = "7net-0",
    rows: Annotated[int, typer.Option(help="Labelled structures to look at, spread over the elements.")] = 2000,
    energy_scale: Annotated[
        str | None, typer.Option(help="Of your own potential: pbe (plain PBE+U of the Materials Project) or mp2020.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of structures.")] = 0,
    jobs: Annotated[int, typer.Option(help="Worker processes of one thread; 0 for all cores.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how far a potential is off for each element, and keep it with the reference.

    Energies of labelled structures are computed on their cells and compared with the labels. Evaluations with the same
    potential flag the crystals that rest on an element with a bias above 50 meV/atom. Energies that were computed
    before are not computed again; a run that was stopped goes on.
    """
    import os
    import sys

    from crystalsmith.engine.run import Engine
    from crystalsmith.evaluation.potential.bias import measure_bias
    from crystalsmith.evaluation.reference.known import Reference

    found = measure_bias(
        Reference.open(folder),
        potential,
        energy_scale,
        rows,
        Engine(jobs or os.cpu_count() or 1),
        seed,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    print_json(found) if as_json else print(_bias_table(found))


def _bias_table(found: dict[str, Any]) -> str:
    from crystalsmith.evaluation.potential.bias import ElementBias

    lines = [
        f"{found['potential']} {found['version']} on {found['structures']} labelled structures, meV/atom: mean error "
        f"{1000 * found['mean_error']:.1f}, mean absolute {1000 * found['mean_absolute_error']:.1f}, after the fit "
        f"{1000 * found['mean_absolute_error_after_fit']:.1f}; {found['seconds_per_structure']:.3f} s each.",
        "element    bias  standard error  mean absolute error  structures",
    ]
    for symbol, values in sorted(found["elements"].items(), key=lambda x: -abs(x[1]["bias"])):
        bias, error, mae = (1000 * values[k] for k in ("bias", "standard_error", "mean_absolute_error"))
        mark = "  doubtful" if ElementBias(**values).doubtful else ""
        lines.append(f"{symbol:<7}{bias:>8.1f}{error:>16.1f}{mae:>21.1f}{values['structures']:>12}{mark}")
    failed = ", ".join(f"{why} {n}" for why, n in found["failed"].items())
    return "\n".join([*lines, *([f"Without energy: {failed}."] if failed else []), f"Kept in {found['file']}"])


def _sentences(manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    name = manifest.get("name", "The reference")
    lines = [f"{name}: {counts['structures']} structures, {counts['hull_entries']} hull entries."]
    if counts["hull_entries"]:
        placed = "known" if manifest.get("elemental_energies") else "not known, so total energies cannot be placed"
        lines.append(f"Corrections: {manifest.get('corrections')}; elements: {len(manifest.get('elements', ()))}; ")
        lines[-1] += f"elemental energies: {placed}."
    else:
        lines.append("No energies: novelty can be judged, stability cannot.")
    for what, names in manifest.get("hull_left_out", {}).items():
        count = counts.get("hull_left_out", {}).get(what, len(names))
        shown = ", ".join(names[:5]) + (", ..." if count > 5 else "")
        lines.append(f"Energies without a place: {count} for {what.replace('_', ' ')} ({shown}).")
    left_out = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.get("refused", {}).items()))
    return "\n".join([*lines, f"Left out: {left_out}."] if left_out else lines)
