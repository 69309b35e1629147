"""``crystalsmith evaluate``: are they valid, unique, novel, stable."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import DisorderOption, EngineOption, RayOption, examples, print_json

EPILOG = examples(
    "crystalsmith evaluate crystals",
    "crystalsmith evaluate crystals --reference refs/mp20 --potential 7net-0",
    "crystalsmith evaluate asked --control free --require 'density 5..7' --require 'num_elements<=3'",
    "crystalsmith evaluate crystals --reference refs/mp20 --potential 7net-0 --hull potential",
    "crystalsmith evaluate crystals --reference refs/mp20 --potential 7net-0 --shard 0/8",
    "crystalsmith evaluate theirs.zip --reference refs/mp20 --energies dft.csv --corrections mp2020",
)


def evaluate(
    structures: Annotated[
        Path,
        typer.Argument(
            help="A folder made by crystalsmith generate, a folder or zip of CIFs, extended XYZ, pymatgen JSON, "
            "Parquet, CSV or an ASE database."
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Folder made by crystalsmith reference build, for novelty and stability.")
    ] = None,
    energies: Annotated[
        Path | None,
        typer.Option(help="CSV, Parquet or JSON of id and formation_energy_per_atom or energy_per_atom (eV/atom)."),
    ] = None,
    corrections: Annotated[
        str | None, typer.Option(help="Correction scheme of these energies; must be that of the reference.")
    ] = None,
    potential: Annotated[
        str | None,
        typer.Option(help="Relax with this potential: 7net-0, 7net-l3i5, chgnet, or module:factory of your own."),
    ] = None,
    relax: Annotated[
        bool | None, typer.Option("--relax/--no-relax", help="Relax first, by 7net-0 if no potential is named.")
    ] = None,
    energy_scale: Annotated[
        str | None, typer.Option(help="Of your own potential: pbe (plain PBE+U of the Materials Project) or mp2020.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Relax as others do: mattergen (0.05 eV/angstrom within 500 steps, or failed) or lemat "
            "(LeMat-GenBench: 0.02 within 50 steps, then as it stands)."
        ),
    ] = "mattergen",
    fmax: Annotated[
        float | None,
        typer.Option(help="eV/angstrom at which a relaxation has converged.", show_default="that of the preset"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Most steps of a relaxation.", show_default="those of the preset")
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for one relaxation.")] = 600.0,
    max_volume_change: Annotated[float, typer.Option(help="Factor of volume beyond which a crystal explodes.")] = 4.0,
    batch_relax: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Crystals to relax at once, by FIRE in one process; 0 for one at a time, by BFGS in --jobs processes.",
            show_default="batches on a GPU if the potential computes them, else 0",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="For the potential: auto, cpu, cuda or cuda:1.")] = "auto",
    control: Annotated[
        Path | None,
        typer.Option(help="Crystals made without conditions, held against the targets of STRUCTURES."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="Count crystals that meet this: 'bulk_modulus>300', 'density 5..7', ...; repeatable."),
    ] = None,
    predictor: Annotated[
        list[Path] | None,
        typer.Option(help="Predictor of a property: band-gap, or a folder of train --task property; repeatable."),
    ] = None,
    bulk_modulus: Annotated[
        bool, typer.Option("--bulk-modulus", help="Equations of state by the potential, of the relaxed crystals.")
    ] = False,
    hull: Annotated[
        str,
        typer.Option(
            help="labels: the hull of the reference's energies. potential: of the potential's own energies of the "
            "reference's structures in the same chemical systems, computed once and kept with the reference."
        ),
    ] = "labels",
    hull_limit: Annotated[
        int | None,
        typer.Option(help="Compute at most so many energies for --hull potential.", show_default="all that are needed"),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Crystals that the model has not seen: how many the set covers and rediscovers."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.", show_default="STRUCTURES/evaluation or beside the file"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    jobs: Annotated[int, typer.Option(help="Worker processes of one thread; 0 for all cores.")] = 0,
    engine: EngineOption = "local",
    ray_address: RayOption = None,
    limit: Annotated[int, typer.Option(help="Judge only the first so many; 0 for all.")] = 0,
    disorder: DisorderOption = "refuse",
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Relax share K (from 0) of N only, into OUT/shards; without --shard the command then judges all. "
            "Within a SLURM array it is the task's own; 'none' judges all there.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json.")] = False,
) -> None:
    """Judge crystals: valid, unique, novel and stable, each rate with its interval.

    The folder of results holds metrics.json, a row per crystal (crystals.csv) and what failed (ledger.csv). What cannot
    be computed for want of a reference or of energies is named. Definitions: docs/evaluation.md.
    """
    from crystalsmith import api
    from crystalsmith.results import best_lines
    from crystalsmith.shards import choose_shard

    own_shard = choose_shard(shard, os.environ)
    if own_shard is not None and shard is None:
        print(f"This task of the SLURM array relaxes shard {own_shard}.", file=sys.stderr)
    place = out or default_folder(structures)
    judged = api.evaluate.__wrapped__(  # errors name options here, keywords in Python
        structures,
        reference,
        out=place,
        energies=energies,
        corrections=corrections,
        potential=potential,
        relax=relax,
        energy_scale=energy_scale,
        preset=preset,
        fmax=fmax,
        steps=steps,
        time_limit=time_limit,
        max_volume_change=max_volume_change,
        batch_relax=batch_relax,
        device=device,
        control=control,
        require=require or (),
        predictor=predictor or (),
        bulk_modulus=bulk_modulus,
        hull=hull,
        hull_limit=hull_limit,
        held_out=held_out,
        resume=resume,
        jobs=jobs or (0 if engine == "ray" else os.cpu_count() or 1),
        engine=engine,
        ray_address=ray_address,
        limit=limit or None,
        disorder=disorder,
        shard=None if own_shard is None else str(own_shard),
    )
    if as_json:
        print_json(judged.metrics)
    else:
        print(judged)
        if own_shard is not None:
            return
        for line in best_lines(judged.best):
            print(line)
        print(f"Report: {judged.report}")


def default_folder(structures: Path) -> Path:
    """Where results go if nothing is said: into the folder of the crystals, or beside their file."""
    return structures / "evaluation" if structures.is_dir() else structures.with_name(f"{structures.stem}-evaluation")
