"""``crystalsmith discover``: from a wish to a ranked list with evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli import _options as options
from crystalsmith.cli._options import RULES
from crystalsmith.cli._shared import EngineOption, PotentialJobs, RayOption, examples, print_json

EPILOG = examples(
    "crystalsmith discover out --want 20 --reference refs/mp",
    "crystalsmith discover out --want 50 --chemical-system Li-Mn-O --require 'energy_above_hull<0.05' "
    "--reference refs/mp --potential 7net-0",
    "crystalsmith discover hard --want 100 --require 'bulk_modulus>300' --deny-list scarce,radioactive "
    "--budget 180:bulk_modulus --hours 8 --reference refs/mp",
    "crystalsmith discover taught --budget 500:relaxations --reference refs/mp --learn prepared",
    "crystalsmith discover out --resume",
    "crystalsmith discover out --want 100",
    "crystalsmith discover out --energies dft.csv --corrections mp2020",
)

ENDS, HOW, JUDGE = "When it ends", "How candidates are made", "How they are judged"


def discover(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run: new or empty, or one to go on with.")],
    want: Annotated[int | None, typer.Option(help="End when so many are accepted.", rich_help_panel=ENDS)] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N:WHAT",
            help="End when spent: 500:relaxations, 180:bulk_modulus; repeatable.",
            rich_help_panel=ENDS,
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="End after so many hours of run time, all sessions.", rich_help_panel=ENDS)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.", rich_help_panel=ENDS)] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="What a candidate must meet: 'energy_above_hull<0.05', 'bulk_modulus>300', 'band_gap 1.5..2.5'; "
            "repeatable.",
            show_default="energy_above_hull<=0.1",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Known crystals and their hull (crystalsmith reference build).", rich_help_panel=JUDGE),
    ] = None,
    potential: Annotated[
        str | None,
        typer.Option(
            help="7net-0, 7net-l3i5, chgnet, or module:factory.", show_default="7net-0", rich_help_panel=JUDGE
        ),
    ] = None,
    energy_scale: Annotated[
        str | None, typer.Option(help="Of your own potential: pbe or mp2020.", rich_help_panel=JUDGE)
    ] = None,
    predictor: Annotated[
        list[Path] | None,
        typer.Option(
            help="Predictor of a property: band-gap, or a folder of train --task property; repeatable.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    chemical_system: options.ChemicalSystem = None,
    require_all: options.RequireAll = False,
    allow: options.Allow = None,
    deny: options.Deny = None,
    elements: options.RequiredElements = None,
    deny_list: options.DenyList = None,
    max_hhi: options.MaxHhi = None,
    prefer: options.Prefer = None,
    space_group: options.SpaceGroup = None,
    num_atoms: Annotated[
        str | None,
        typer.Option(metavar="N|LOW-HIGH", help="Atoms per cell.", show_default="1-20", rich_help_panel=RULES),
    ] = None,
    model: options.Model = None,
    property_: options.Property = None,
    guidance: options.Guidance = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Where candidates come from: templates, free, known:STRENGTH; repeatable.",
            show_default="templates, free, known:0, known:0.3, known:0.5",
            rich_help_panel=HOW,
        ),
    ] = None,
    steps: options.Steps = None,
    solver: options.Solver = None,
    seed: Annotated[int | None, typer.Option(help="Of the whole run.", show_default="0", rich_help_panel=HOW)] = None,
    proposals: Annotated[
        int | None, typer.Option(help="Candidates of each round.", show_default="32", rich_help_panel=HOW)
    ] = None,
    relaxations: Annotated[
        int | None, typer.Option(help="Of these, relaxed in each round.", show_default="8", rich_help_panel=HOW)
    ] = None,
    explore: Annotated[
        float | None,
        typer.Option(help="Share of proposals drawn evenly from all sources.", show_default="0.2", rich_help_panel=HOW),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="The model alone, every valid crystal relaxed: to compare with.", rich_help_panel=HOW
        ),
    ] = False,
    learn: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Train the model on with what the run finds, beside this prepared data set of real crystals.",
            rich_help_panel=HOW,
        ),
    ] = None,
    learn_every: Annotated[
        int | None, typer.Option(help="Relaxations between two lessons.", show_default="100", rich_help_panel=HOW)
    ] = None,
    learn_updates: Annotated[
        int | None, typer.Option(help="Training updates of a lesson.", show_default="300", rich_help_panel=HOW)
    ] = None,
    energies: Annotated[
        Path | None,
        typer.Option(
            help="Energies of a run's candidates, back from DFT (CSV of id and energy_per_atom): rank anew, and say "
            "how wrong the potential was.",
        ),
    ] = None,
    corrections: Annotated[str | None, typer.Option(help="Correction scheme of these energies.")] = None,
    device: options.Device = "auto",
    jobs: PotentialJobs = None,
    engine: EngineOption = "local",
    ray_address: RayOption = None,
    as_json: options.AsJson = False,
) -> None:
    """Propose, screen, estimate, relax, judge and keep crystals until enough meet the wish or the budget is spent.

    OUT holds the ledger of every candidate, an ASE database, candidates.csv, CIFs of the accepted and discover.html,
    which is rewritten while the run goes on. A run that was stopped or killed goes on with --resume; with a greater
    --want, --hours or --budget a finished one is extended. Where it learns what to propose next: docs/discover.md.
    """
    from crystalsmith import explore as python

    run = python.discover.__wrapped__(  # errors name options here, keywords in Python
        out,
        want,
        budget=budget or (),
        hours=hours,
        resume=resume,
        require=require or (),
        reference=reference,
        potential=potential,
        energy_scale=energy_scale,
        predictor=predictor or (),
        chemical_system=chemical_system,
        require_all=require_all,
        allow=allow,
        deny=deny,
        elements=elements,
        deny_list=deny_list,
        max_hhi=max_hhi,
        prefer=prefer,
        space_group=space_group,
        num_atoms=num_atoms,
        model=model,
        properties=property_,
        guidance=guidance,
        source=source or (),
        steps=steps,
        solver=solver,
        seed=seed,
        proposals=proposals,
        relaxations=relaxations,
        explore=explore,
        plain=plain,
        learn=learn,
        learn_every=learn_every,
        learn_updates=learn_updates,
        energies=energies,
        corrections=corrections,
        device=device,
        jobs=jobs,
        engine=engine,
        ray_address=ray_address,
        progress=True,
    )
    if as_json:
        print_json(run.facts)
    else:
        print(run)
    raise typer.Exit(0 if run.summary is None else run.summary.exit_code)
