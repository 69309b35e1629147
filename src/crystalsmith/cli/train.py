"""``crystalsmith train``: train a model on a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples, model_names, recipe_names
from crystalsmith.errors import InputError

EPILOG = examples(
    "crystalsmith train mp20/ run/ --recipe mp20-tiny --max-time 2h",
    "crystalsmith train mp20/ run/ --set model.preset=small --set optimizer.lr=3e-4 --set limits.max_epochs=50",
    "crystalsmith train mp20/ csp/ --task csp --base mp20-tiny --max-time 2h",
    "crystalsmith train mp20/ run/ --resume",
    "crystalsmith generate crystals/ --model run/best",
    "crystalsmith train mp20/ gap/ --task property --property band_gap --max-time 2h",
    "crystalsmith train mine/ arrangements/ --task arrangements",
)


def train(
    data: Annotated[Path, typer.Argument(help="Prepared data set (a folder written by crystalsmith data prepare).")],
    out: Annotated[Path, typer.Argument(help="Folder of the run; new or empty unless --resume.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="YAML file, or the name of a recipe of the package: mp20-tiny, taught-csp, published, ...",
            show_default="the published hyper-parameters",
            autocompletion=recipe_names,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the recipe; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT where it stopped.")] = False,
    max_time: Annotated[
        str | None, typer.Option(help="End after this training time over all sessions: 45m, 2h, 1h30m.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Devices (processes) per node.")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="Nodes, each started by SLURM or torchrun.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, tf32 or bf16-mixed.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write OUT/tensorboard as well.")] = False,
    property_: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="NAME[:KIND]",
            help="Condition the model on this property from the start; repeatable. With --task property: predict it.",
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Reference set to compute the property energy_above_hull from; see finetune.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="generate; csp: structures of given elements (structure prediction); property: predict --property; "
            "arrangements: which Wyckoff template a composition has, for generate --templates OUT.",
            show_default="generate",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Start from the weights of this model (bundled name or folder).", autocompletion=model_names),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a diffusion model on a prepared data set.

    OUT gets recipe.yaml, log.csv, val_bins.csv, and the models best/ (lowest validation loss) and last/. SIGTERM and
    Ctrl-C save and end the run; --resume continues it bit for bit where the hardware allows.
    """
    from crystalsmith.training.config import load_recipe
    from crystalsmith.training.log import duration
    from crystalsmith.training.run import resume_recipe
    from crystalsmith.training.run import train as run

    flags = {
        "limits.max_time": max_time,
        "hardware.devices": devices,
        "hardware.num_nodes": num_nodes,
        "hardware.precision": precision,
        "hardware.accelerator": accelerator,
        "output.tensorboard": "true" if tensorboard else None,
        "process.task": task,
        "base": base,
        "conditions.reference": None if reference is None else str(reference.resolve()),
    }
    overrides = [*(set_ or []), *(f"{key}={_quoted(value)}" for key, value in flags.items() if value is not None)]
    if task == "arrangements":
        _arrangements(data, out, [*overrides, *(property_ or [])], recipe, resume, quiet)
        return
    if task == "property":
        _predictor(data, out, property_ or [], recipe, overrides, resume, quiet)
        return
    if property_:
        import json

        from crystalsmith.training.finetune import parse_properties

        overrides.append(f"conditions.properties={json.dumps(parse_properties(property_))}")
    settings = resume_recipe(out, recipe, overrides) if resume else load_recipe(recipe, overrides)
    outcome = run(data, out, settings, resume=resume, quiet=quiet)
    if outcome.rank != 0:
        return
    how = "Stopped on request and saved; continue with --resume." if outcome.interrupted else "Training is complete."
    typer.echo(f"{how} {outcome.step:,} steps, {outcome.crystals:,} crystals in {duration(outcome.seconds)}.")
    if outcome.best["total"] is not None:
        typer.echo(f"Best validation loss {outcome.best['total']:.4g} at step {outcome.best['step']:,}: {out / 'best'}")
    typer.echo(f"Model: {out / 'last'}")
    raise typer.Exit(outcome.exit_code)


def _predictor(
    data: Path, out: Path, properties: list[str], recipe: Path | None, overrides: list[str], resume: bool, quiet: bool
) -> None:
    from crystalsmith.signals import exit_code
    from crystalsmith.training.log import duration
    from crystalsmith.training.predictor import property_recipe, train_predictor
    from crystalsmith.training.run import resume_recipe

    if len(properties) != 1:
        raise InputError("A predictor is of one property; give --property NAME once.")
    settings = resume_recipe(out, recipe, overrides) if resume else property_recipe(recipe, overrides)
    fitted = train_predictor(data, out, properties[0], settings, quiet, resume)
    how = "Stopped on request and saved; continue with --resume." if fitted.interrupted else "Training is complete."
    typer.echo(f"{how} {fitted.step:,} steps, {fitted.crystals:,} crystals in {duration(fitted.seconds)}.")
    if fitted.mae is not None:
        typer.echo(
            f"Mean absolute error on validation crystals {fitted.mae:.4g}; saying the mean, {fitted.baseline:.4g}."
        )
    typer.echo(f"Predictor: {out / 'best'}")
    raise typer.Exit(exit_code(fitted.signum if fitted.interrupted else None))


def _arrangements(data: Path, out: Path, options: list[str], recipe: Path | None, resume: bool, quiet: bool) -> None:
    from crystalsmith.signals import exit_code
    from crystalsmith.training.arrangements import train_arrangements
    from crystalsmith.training.log import duration

    if resume:
        raise InputError(
            f"--task arrangements takes minutes and cannot be resumed; remove {out} and start again without --resume."
        )
    if recipe is not None or len(options) > 1:  # the task itself is one
        raise InputError("--task arrangements takes a minute and no settings; leave the other options out.")
    learned = train_arrangements(data, out, quiet=quiet)
    typer.echo(f"{learned.templates:,} templates of {learned.crystals:,} crystals in {duration(learned.seconds)}.")
    if learned.held_out:
        typer.echo(
            f"Of {learned.held_out:,} validation crystals {learned.covered:.1%} have an arrangement seen in training; "
            f"for {learned.likeliest:.1%} it is the likeliest (the commonest of their counts: {learned.by_counts:.1%})."
        )
    typer.echo(f"Arrangements: {out}, for generate --templates")
    raise typer.Exit(exit_code(learned.signum))


def _quoted(value: object) -> str:
    """A flag's value as YAML that stays what it is: the precision 32 and the time 1:00:00 are texts."""
    return f"'{value}'" if isinstance(value, str) and value not in ("true", "false") else str(value)
