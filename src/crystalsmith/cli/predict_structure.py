"""``crystalsmith predict-structure``: the structures of one composition, ranked by energy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli import _options as options
from crystalsmith.cli._shared import EngineOption, PotentialJobs, RayOption, examples, model_names, print_json
from crystalsmith.models import DEFAULT_CSP

EPILOG = examples(
    "crystalsmith predict-structure LiCoO2 --samples 32 --potential 7net-0",
    "crystalsmith predict-structure TiO2 --formula-units 1-4 --reference refs/mp",
    "crystalsmith predict-structure TiO2 --resume",
)


def predict_structure(
    formula: Annotated[str, typer.Argument(metavar="FORMULA", help="One formula unit, as LiCoO2.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="FORMULA")] = None,
    samples: Annotated[int, typer.Option(help="Proposals; equal ones are relaxed once.")] = 32,
    formula_units: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW-HIGH", help="Formula units per cell.", show_default="those of known crystals of such counts"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled model or a folder.", autocompletion=model_names)] = DEFAULT_CSP,
    potential: Annotated[str, typer.Option(help="7net-0, 7net-l3i5, chgnet, or module:factory.")] = "7net-0",
    reference: Annotated[
        Path | None, typer.Option(help="Known crystals and their hull: says which structures are known.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the proposals.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default="the model's")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    device: options.Device = "auto",
    jobs: PotentialJobs = None,
    engine: EngineOption = "local",
    ray_address: RayOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ranking as JSON.")] = False,
) -> None:
    """Predict the crystal structures of a composition: propose, relax, rank by energy.

    The folder holds the same files as a run of crystalsmith discover: candidates.csv, CIFs, an ASE database and one
    page, discover.html. What comes first is the lowest in energy by the potential, among what was proposed.
    """
    from crystalsmith import explore

    place = out or Path(formula)
    found = explore.predict_structure.__wrapped__(  # errors name options here, keywords in Python
        formula,
        place,
        samples=samples,
        formula_units=formula_units,
        model=model,
        potential=potential,
        reference=reference,
        seed=seed,
        steps=steps,
        resume=resume,
        device=device,
        jobs=jobs,
        engine=engine,
        ray_address=ray_address,
        progress=True,
    )
    rows, summary = found.ranking[:5], found.summary
    assert summary is not None
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            known = f", known as {row['matched']}" if row.get("matched") else ""
            print(
                f"{row['rank']}. {row['id']}: space group {row['space_group']}, {row['num_atoms']} atoms, "
                f"{1000 * row['above_best']:.0f} meV/atom above the best{known}"
            )
        print(f"{summary.accepted} structures of {summary.proposed} proposals. Page: {place / 'discover.html'}")
    raise typer.Exit(summary.exit_code)
