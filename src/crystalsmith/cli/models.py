"""``crystalsmith models``: which models there are and what they are."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from crystalsmith.cli import models_import
from crystalsmith.cli._shared import Commands, examples, flowing, model_names, print_json
from crystalsmith.errors import InputError

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="List the models, show what they are, import and export them."
)
app.command("import", epilog=models_import.IMPORT_EPILOG, help=flowing(models_import.import_model.__doc__))(
    models_import.import_model
)
app.command("export", epilog=models_import.EXPORT_EPILOG, help=flowing(models_import.export_model.__doc__))(
    models_import.export_model
)


@app.command("list", epilog=examples("crystalsmith models list", "crystalsmith models list --json"))
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the models: bundled with the package, cached from a hub, and imported."""
    from crystalsmith.checkpoints.facts import model_facts
    from crystalsmith.checkpoints.find import list_models

    facts, damaged = [], []
    for name, folder in list_models().items():
        try:
            facts.append({**model_facts(folder), "name": name})
        except InputError as error:
            damaged.append(f"{name}: {error}")
    for sentence in damaged:  # one that is damaged does not hide the others
        print(f"crystalsmith: warning: {sentence}", file=sys.stderr)
    if as_json:
        print_json({"models": facts})
        return
    if not facts:
        print("No model is bundled with this installation; give --model the folder of one.")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "purpose", "parameters", "size"):
        number = heading in ("parameters", "size")
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading != "purpose")
    for item in facts:
        table.add_row(
            escape(item["name"]),
            escape(item["purpose"]),
            f"{item['parameters']:,}",
            _megabytes(item["bytes"]),
        )
    Console().print(table)
    print("What each was trained on and how good it is: crystalsmith models show NAME")


@app.command("show", epilog=examples("crystalsmith models show mp20-tiny", "crystalsmith models show runs/mine/best"))
def show(
    name: Annotated[str, typer.Argument(help="A bundled model or a model folder.", autocompletion=model_names)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model is: its size, what it was trained on, how it samples, and its card."""
    from crystalsmith.checkpoints.facts import model_facts
    from crystalsmith.checkpoints.find import find_model

    facts = model_facts(find_model(name))
    if as_json:
        print_json(facts)
        return
    for heading, value in _lines(facts):
        print(f"{heading:12}{value}")
    if facts["card"]:
        from pathlib import Path

        print()
        print(Path(facts["card"]).read_text(encoding="utf-8").strip())


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    sizes = [int(n) for n in facts["num_atoms"]]
    published = facts["training"].get("parameters_published")
    note = f" ({published:,} as published, with energy heads)" if published else ""
    source = facts["training"].get("source")
    return [
        ("name", facts["name"]),
        ("purpose", facts["purpose"]),
        ("folder", facts["folder"]),
        *([("source", str(source))] if source else []),
        ("network", f"{facts['parameters']:,} parameters{note}, {_megabytes(facts['bytes'])}"),
        ("elements", f"{len(facts['elements'])}: {' '.join(facts['elements'])}"),
        ("atoms", f"{min(sizes)} to {max(sizes)} per cell" if sizes else "unknown"),
        ("conditions", ", ".join(facts["conditions"]) or "none"),
        ("sampling", ", ".join(f"{key} {value}" for key, value in facts["sampling"].items()) or "defaults"),
        ("licence", facts["licence"]),
        ("SHA-256", facts["weights_sha256"]),
        ("card", facts["card"] or "none"),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
