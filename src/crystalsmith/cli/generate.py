"""``crystalsmith generate``: new crystals into a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalsmith.cli import _options as options
from crystalsmith.cli._options import RULES, SYMMETRY, TARGETS
from crystalsmith.cli._shared import EngineOption, RayOption, examples, print_json
from crystalsmith.errors import InputError

if TYPE_CHECKING:
    from crystalsmith.generation.run import Summary

EPILOG = examples(
    "crystalsmith generate crystals --num 16",
    "crystalsmith generate small --num 64 --num-atoms 4-8 --seed 7",
    "crystalsmith generate film --num 4 --trajectories",
    "crystalsmith generate oxides --chemical-system Li-Fe-O --require-all --num-atoms 4-12",
    "crystalsmith generate olivines --formula LiFePO4 --formula-units 1-4",
    "crystalsmith generate predicted --model csp --compositions mp20/ --split test --limit 500 --samples 20",
    "crystalsmith generate cubic --space-group cubic --num-atoms 4-10",
    "crystalsmith generate perovskites --templates perovskite.cif --require O --num 64",
    "crystalsmith generate relatives --start-from known.cif --strength 0.4",
    "crystalsmith generate cousins --start-from known.extxyz --redecorate --novel-to refs/mp --select 4",
    "crystalsmith generate doped --start-from host.cif --fix-cell --fix-sites 0-6 --require Al",
    "crystalsmith generate gapped --model tuned --property band_gap=0.5..3 --guidance 2",
    "crystalsmith generate crystals --resume",
    "crystalsmith generate many --num 100000 --shard 0/8",
)


START, CHOICE = "Starting from a crystal", "Choosing among proposals"


def generate(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the results: new or empty, or that of a run to resume.")
    ],
    num: Annotated[int | None, typer.Option(help="How many crystals.", show_default="16")] = None,
    model: options.Model = None,
    seed: Annotated[
        int | None, typer.Option(help="Crystal i depends on the seed and i alone.", show_default="0")
    ] = None,
    num_atoms: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW-HIGH|FILE",
            help="Atoms per crystal: a number, a range, or a JSON or CSV file of number and weight.",
            show_default="as in the training data",
        ),
    ] = None,
    steps: options.Steps = None,
    solver: options.Solver = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the elements' probabilities: below 1 likelier and simpler compositions, above 1 rarer ones.",
            show_default="the model's",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Crystals at a time; halved when memory runs out.", show_default="auto"),
    ] = None,
    device: options.Device = "auto",
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="cuda:0,cuda:1|cpu*2",
            help="Several devices of this machine, a process on each; one that fails twice is given nothing more.",
        ),
    ] = None,
    engine: EngineOption = "local",
    ray_address: RayOption = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the network's products: auto, float32 or bf16.", show_default="auto")
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the network first (a minute or more; needs a C++ compiler): for long runs."
        ),
    ] = False,
    trajectories: Annotated[
        bool, typer.Option("--trajectories", help="Write the way from noise to crystal, about 100 frames each.")
    ] = False,
    cif: Annotated[
        bool | None,
        typer.Option(
            "--cif/--no-cif", help="Write a CIF of each crystal.", show_default="runs of up to 10,000 crystals"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Make share K (from 0) of N only, into OUT/shards; crystalsmith merge OUT joins them. Within a SLURM "
            "array it is the task's own; 'none' makes the whole run there.",
        ),
    ] = None,
    chemical_system: options.ChemicalSystem = None,
    require_all: options.RequireAll = False,
    allow: options.Allow = None,
    deny: options.Deny = None,
    require: options.RequiredElements = None,
    deny_list: options.DenyList = None,
    max_hhi: options.MaxHhi = None,
    prefer: options.Prefer = None,
    formula: Annotated[
        str | None, typer.Option(metavar="LiFePO4", help="Exactly this composition.", rich_help_panel=RULES)
    ] = None,
    formula_units: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW-HIGH",
            help="Formula units per cell, taken in turn.",
            show_default="all that the model was trained on",
            rich_help_panel=RULES,
        ),
    ] = None,
    compositions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NaCl,MgO",
            help="Exactly these compositions, one after another: formulas, a CSV with a column formula (and id, "
            "formula_units or num_atoms; the formula as written is the cell otherwise), a prepared data set, or "
            "structures.",
            rich_help_panel=RULES,
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Crystals of each composition.", show_default="1", rich_help_panel=RULES)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of a data set as --compositions.", show_default="test", rich_help_panel=RULES),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Only so many of the compositions, evenly spaced.", show_default="all", rich_help_panel=RULES
        ),
    ] = None,
    space_group: options.SpaceGroup = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Wyckoff templates to draw from: a folder of train --task arrangements, templates.json of data "
            "symmetry, a crystal whose own is taken (CIF, POSCAR, XYZ), or taught-csp for those of that model.",
            show_default="the model's own, or those of MP-20",
            rich_help_panel=SYMMETRY,
        ),
    ] = None,
    template_elements: Annotated[
        str | None,
        typer.Option(
            metavar="Sr=Ba,O=O",
            help="What stands in place of the elements of the crystal in --templates; the other orbits are open.",
            rich_help_panel=SYMMETRY,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from this crystal (CIF, POSCAR, XYZ; several are taken in turn).",
            rich_help_panel=START,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How far it is noised: near 0 its relatives, 1 nothing is left of it but what is kept.",
            show_default="0.4, or 1 where parts are kept",
            rich_help_panel=START,
        ),
    ] = None,
    fix_sites: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,5",
            help="Keep positions and elements of these sites, counted from 0; 0-6 is a range.",
            rich_help_panel=START,
        ),
    ] = None,
    fix_cell: Annotated[bool, typer.Option("--fix-cell", help="Keep the cell.", rich_help_panel=START)] = False,
    fix_elements: Annotated[
        bool, typer.Option("--fix-elements", help="Keep the element of every atom.", rich_help_panel=START)
    ] = False,
    resample: Annotated[
        int | None,
        typer.Option(
            help="Passes through each stretch of the way, so that free and kept parts agree better; costs as many "
            "times the work.",
            show_default="1",
            rich_help_panel=START,
        ),
    ] = None,
    redecorate: Annotated[
        bool,
        typer.Option(
            "--redecorate",
            help="Keep the space group and, as far as --strength says, the geometry; draw all elements anew.",
            rich_help_panel=START,
        ),
    ] = False,
    disorder: Annotated[
        str | None,
        typer.Option(
            help="Partly occupied sites in the files of --start-from, --templates and --compositions: refuse the "
            "crystal, or take the largest occupancy of each site.",
            show_default="refuse",
            rich_help_panel=START,
        ),
    ] = None,
    novel_to: Annotated[
        Path | None,
        typer.Option(
            metavar="REF",
            help="Turn down a crystal whose reduced formula this reference set holds and make the next proposal.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    select: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Make K proposals for each crystal and keep the one of the lowest predicted energy above the hull.",
            show_default="1, or the model's own",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            metavar="PREDICTOR|POTENTIAL|own",
            help="What else to select by: a folder of train --task property, or a potential (7net-0, chgnet): one "
            "energy of each proposal, on the hull of --novel-to; own: what the model itself would change least.",
            show_default="energy-above-hull",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    property_: options.Property = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Targets, a column per property, rows taken in turn.", rich_help_panel=TARGETS
        ),
    ] = None,
    guidance: options.Guidance = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH",
            help="Times (1 is noise, 0 the end) between which guidance acts; it is 1 elsewhere.",
            show_default="0..1",
            rich_help_panel=TARGETS,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT, with its settings; begin it if there is none.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Generate crystals and write them to OUT.

    OUT holds a CIF per crystal (cif/, symmetrised at 0.1 angstrom where a space group is found), all crystals as
    generated (crystals.extxyz), a table (crystals.csv) and the record of the run (manifest.json). Each finished batch
    is written while the next is made; an interrupted run keeps what it has and goes on with --resume.
    """
    from crystalsmith.engine.run import Engine
    from crystalsmith.generation.device import parse_devices
    from crystalsmith.generation.progress import reporter
    from crystalsmith.generation.run import Options
    from crystalsmith.generation.run import generate as run
    from crystalsmith.generation.steering import Steering
    from crystalsmith.shards import choose_shard, command_line

    own_shard = choose_shard(shard, os.environ)
    if devices is not None and device != "auto":
        raise InputError("--devices names every device; leave --device out.")
    many = () if devices is None else parse_devices(devices)
    where = Engine(0, engine, ray_address, gpus=0.0 if device == "cpu" else None, devices=many)
    if own_shard is not None and shard is None:
        print(f"This task of the SLURM array makes shard {own_shard}.", file=sys.stderr)
    steering = Steering(
        chemical_system=chemical_system,
        require_all=require_all,
        allow=allow,
        deny=deny,
        require=require,
        deny_list=deny_list,
        max_hhi=max_hhi,
        prefer=prefer,
        formula=formula,
        formula_units=formula_units,
        compositions=None if compositions is None else str(compositions),
        samples=samples,
        split=split,
        limit=limit,
        space_group=space_group,
        templates=None if templates is None else str(templates),
        template_elements=template_elements,
        start_from=None if start_from is None else str(start_from),
        strength=strength,
        fix_sites=fix_sites,
        fix_cell=fix_cell,
        fix_elements=fix_elements,
        resample=resample,
        redecorate=redecorate,
        novel_to=None if novel_to is None else str(novel_to.resolve()),
        select=select,
        selector=selector,
        disorder=disorder,
        properties=property_ or None,
        targets=None if targets is None else str(targets),
        guidance=guidance or None,
        guidance_interval=guidance_interval,
    )
    wanted = Options(
        model=model,
        num=num,
        seed=seed,
        batch_size=_batch_size(batch_size),
        num_atoms=num_atoms,
        steps=steps,
        solver=solver,
        temperature=temperature,
        precision=precision,
        trajectories=trajectories or None,
        cif=cif,
        shard=own_shard,
        command="" if own_shard is None else command_line(sys.argv),
        device=device,
        engine=where,
        compile=compile_,
        steering=steering,
    )
    summary = run(out, wanted, resume=resume, reporter=reporter(enabled=True))
    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(summary))
    else:
        print(sentence(summary))
    raise typer.Exit(summary.exit_code)


def sentence(summary: Summary) -> str:
    """The end of a run as a person wants it."""
    if summary.status != "complete":
        return (
            f"Stopped after {summary.finished} of {summary.requested} crystals; all files in {summary.out} are valid. "
            f"Go on with: crystalsmith generate {summary.out} --resume"
        )
    if summary.finished and not summary.seconds_per_crystal:
        return f"The run in {summary.out} was complete already: {summary.written} crystals, {summary.valid} valid."
    failed = f", {summary.failed} failed (see the notes in crystals.csv)" if summary.failed else ""
    speed = f", {summary.seconds_per_crystal:.2g} s per crystal" if summary.seconds_per_crystal else ""
    return (
        f"{summary.written} crystals by {summary.model} in {summary.out}: {summary.valid} valid{failed}. "
        f"{summary.seconds:.1f} s{speed}."
    )


def _batch_size(text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not text.isdigit():
        raise InputError(f"--batch-size {text!r} is not a number; write for example 32, or auto.")
    return int(text)
