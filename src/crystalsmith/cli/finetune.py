"""``crystalsmith finetune``: teach a model to follow properties."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples, model_names

EPILOG = examples(
    "crystalsmith finetune mp20-tiny mp20/ gapped/ --property band_gap",
    "crystalsmith finetune mp20-tiny mine.csv tuned/ --property hardness:log --property space_group",
    "crystalsmith finetune gapped/best mp20/ both/ --property bulk_modulus --freeze-base",
    "crystalsmith finetune mp20-tiny mp20/ stable/ --property energy_above_hull --reference refs/mp",
    "crystalsmith generate crystals/ --model gapped/best --property band_gap=2.0 --guidance 2",
)


def finetune(
    model: Annotated[
        str, typer.Argument(help="Bundled model or model folder to start from.", autocompletion=model_names)
    ],
    data: Annotated[
        Path, typer.Argument(help="Prepared data set, or anything that data prepare reads (prepared in OUT-data).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the run; new or empty unless --resume.")],
    property_: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="NAME[:KIND]",
            help="Property to follow: a label of the data, or one that is computed (chemical_system, space_group, "
            "density, num_elements, hhi_score, hhi_production, hhi_reserve). KIND is scalar, log, category or "
            "elements; inferred if left out. Repeatable.",
        ),
    ] = None,
    freeze_base: Annotated[
        bool, typer.Option("--freeze-base", help="Train the new adapters only, not the whole network.")
    ] = False,
    dropout: Annotated[
        str,
        typer.Option(
            help="How labels are hidden in training: independent (property by property), joint (all at once) or "
            "subsets (all at once, else every other one)."
        ),
    ] = "independent",
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default="5e-6; 1e-4 for networks narrower than the published one"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the data.", show_default="200")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Crystals per step.", show_default="8 to 512, by the size of the data")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a better loss that end the run.", show_default="10")
    ] = None,
    max_time: Annotated[str | None, typer.Option(help="End after this training time: 45m, 2h, 1h30m.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Folder made by crystalsmith reference build: energy_above_hull is computed from the data's formation "
            "energies (of the same corrections) and its hull."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe (see train); repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT where it stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Fine-tune a model on properties, so that generate can be asked for them.

    OUT gets what train writes; OUT/best is the model. It prints how many crystals carry each label and over which
    range, leaves out impossible values, and refuses to train where no crystal carries a label.
    """
    from crystalsmith.training.finetune import finetune as run
    from crystalsmith.training.log import duration

    settings = {
        "optimizer.lr": lr,
        "limits.max_epochs": epochs,
        "data.batch_size": batch_size,
        "limits.patience": patience,
        "limits.max_time": None if max_time is None else f"'{max_time}'",
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in settings.items() if value is not None)]
    outcome = run(
        model,
        data,
        out,
        property_ or [],
        freeze_base=freeze_base,
        dropout=dropout,
        overrides=overrides,
        reference=reference,
        resume=resume,
        quiet=quiet,
    )
    if outcome.rank != 0:
        return
    how = "Stopped on request and saved; continue with --resume." if outcome.interrupted else "Fine-tuning is complete."
    typer.echo(f"{how} {outcome.step:,} steps, {outcome.crystals:,} crystals in {duration(outcome.seconds)}.")
    if outcome.best["total"] is not None:
        typer.echo(f"Best validation loss {outcome.best['total']:.4g} at step {outcome.best['step']:,}.")
    typer.echo(f"Model: {out / ('best' if outcome.best['total'] is not None else 'last')}")
    raise typer.Exit(outcome.exit_code)
