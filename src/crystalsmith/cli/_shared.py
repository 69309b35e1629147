"""What every command shares: errors become one sentence and an exit code, JSON goes to stdout."""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crystalsmith.errors import InputError
from crystalsmith.signals import Stopped, StopSignals

EngineOption = Annotated[
    str,
    typer.Option(help="Where the work is done: local (processes of this machine) or ray (a cluster; docs/scaling.md)."),
]
DisorderOption = Annotated[
    str, typer.Option(help="Partly occupied sites: refuse the row, or take the largest occupancy of each site.")
]
RayOption = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster, as auto or ray://head:10001.", show_default="this machine alone"),
]

PotentialJobs = Annotated[
    int | None,
    typer.Option(
        help="Worker processes for the potential; the most actors of a cluster.",
        show_default="1; with ray as many as the cluster has room for",
    ),
]

EXIT_INPUT, EXIT_INTERRUPT = 2, 130


class Commands(TyperGroup):
    """The group of all commands: an :class:`InputError` ends with one sentence on stderr and exit code 2.

    With ``CRYSTALSMITH_DEBUG=1`` the traceback comes through.
    """

    def get_params(self, ctx: Any) -> Any:
        """The options of the group itself."""
        return _plain_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _plain_flags([*command.params, command.get_help_option(ctx)])
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with StopSignals("SIGTERM", "SIGHUP"):
                return super().invoke(ctx)
        except InputError as error:
            if os.environ.get("CRYSTALSMITH_DEBUG") == "1":
                raise
            print(f"crystalsmith: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_INPUT) from None
        except Stopped as stopped:
            print(f"crystalsmith: ended by {stopped}; what was finished is kept", file=sys.stderr)
            raise typer.Exit(stopped.exit_code) from None
        except KeyboardInterrupt:
            print("crystalsmith: interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPT) from None


def _plain_flags(options: list[Any]) -> list[Any]:
    """The options, of which flags show no type: ``--resume`` takes no ``<bool>``."""
    for option in options:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    return options


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, indent=1))


def flowing(text: str | None) -> str:
    """A docstring as help text: the lines of a paragraph joined, so that the terminal breaks them where it is wide."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def examples(*lines: str) -> str:
    """The epilogue of a help text: commands to copy, one to a line."""
    # Typer joins the lines of a paragraph; blank lines keep them apart.
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def model_names(incomplete: str) -> list[str]:
    """Completion of a model's name."""
    from crystalsmith.checkpoints.find import list_models

    return [name for name in list_models() if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """Completion of a recipe's name."""
    from crystalsmith.training.config import bundled_recipes

    return [name for name in bundled_recipes() if name.startswith(incomplete)]
