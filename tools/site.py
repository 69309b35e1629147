"""What the site makes from the program: the page of all commands (a hook of mkdocs)."""

from __future__ import annotations

from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands where a page asks for them."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def commands() -> str:
    """All commands as Markdown: what they do, their arguments and options, examples."""
    import typer

    from crystalsmith.cli.main import app

    parts: list[str] = []

    def walk(command: Any, path: str) -> None:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                walk(below, f"{path} {name}")
            return
        parts.append(f"## {path}\n\n{command.help or ''}\n")
        rows = ["| | |", "|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                names = f"`{(parameter.metavar or parameter.name).upper()}`"
            else:
                names = " ".join(f"`{one}`" for one in [*parameter.opts, *parameter.secondary_opts])
                if isinstance(parameter.metavar, str):
                    names += " `" + parameter.metavar.replace("|", "\\|") + "`"
            text = (getattr(parameter, "help", "") or "").replace("|", "\\|").replace("\n", " ")
            default = getattr(parameter, "show_default", None)
            if isinstance(default, str):
                text += f" Default: {default}."
            rows.append(f"| {names} | {text} |")
        parts.append("\n".join(rows) + "\n")
        shown = [line.strip() for line in (command.epilog or "").splitlines()]
        examples = [line for line in shown if line.startswith("crystalsmith")]
        if examples:
            parts.append("```sh\n" + "\n".join(examples) + "\n```\n")

    walk(typer.main.get_command(app), "crystalsmith")
    return "\n".join(parts)
