"""Every command of README and documentation exists as written, and what a newcomer pastes runs in order."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from tests.docs import snippets
from typer.testing import CliRunner

from crystalsmith.cli.main import app

STEPS, NUM = 3, 3
"""Denoising steps and crystals that a page's commands are cut down to."""

RUNNABLE = [
    page for page in snippets.PAGES if any(b.run and b.language in ("sh", "python") for b in snippets.blocks(page))
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of few steps and crystals, training runs of two steps; all else is as a user has it."""
    from crystalsmith.generation import request
    from crystalsmith.training import config

    make, load = request.make_request, config.load_recipe

    def small(model: Any, **wanted: Any) -> Any:
        made = make(model, **{**wanted, "num": min(NUM, wanted.get("num") or NUM)})
        return dataclasses.replace(made, steps=min(STEPS, made.steps))

    def short(path: Any, overrides: Any = ()) -> Any:
        few = ("limits.max_steps=2", "validation.max_crystals=4", "data.batch_size=8", "hardware.accelerator=cpu")
        return load(path, [*overrides, *few])

    for module in ("crystalsmith.generation.request", "crystalsmith.generation.run"):
        monkeypatch.setattr(f"{module}.make_request", small)
    for module in ("config", "finetune", "run"):
        monkeypatch.setattr(f"crystalsmith.training.{module}.load_recipe", short)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(snippets.ROOT)))
def test_a_page_pasted_from_top_to_bottom_runs(
    page: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYSTALSMITH_DEBUG", "0")
    space: dict[str, Any] = {"__name__": "__main__"}
    done = 0
    for block in snippets.blocks(page):
        if not block.run:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), space)
            done += 1
        for command in block.commands:
            if "--num" in command:
                command = [*command, "--num", str(NUM)]
            if command[0] == "evaluate":
                command = [*command, "--jobs", "1"]
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 0, f"{page.name}:{block.line}: {' '.join(command)}\n{result.output}"
            done += 1
    assert done > 0
    assert os.listdir(tmp_path)


@pytest.mark.parametrize("page", snippets.PAGES, ids=lambda page: str(page.relative_to(snippets.ROOT)))
def test_every_command_is_one_that_exists(page: Path) -> None:
    """Options, their values where they are numbers or choices, and the number of arguments."""
    root = typer.main.get_command(app)
    for block in snippets.blocks(page):
        for words in block.commands:
            words = [word for word in words if word not in ("...",)]
            command, context, rest = root, click.Context(root), list(words)
            while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
                name = rest.pop(0)
                found = command.get_command(context, name)
                assert found is not None, f"{page.name}:{block.line}: there is no command {' '.join(words)}"
                command, context = found, click.Context(found, parent=context, info_name=name)
            if isinstance(command, click.Group):
                continue
            try:
                command.make_context("crystalsmith", rest, resilient_parsing=False)
            except click.exceptions.Exit:
                continue  # --help
            except click.ClickException as error:
                raise AssertionError(f"{page.name}:{block.line}: {' '.join(words)}: {error.format_message()}") from None


def test_examples_of_every_command_exist() -> None:
    """The examples that ``--help`` shows."""
    from crystalsmith.cli import bench, evaluate, finetune, generate, predict, score, train

    root = typer.main.get_command(app)
    for module in (bench, evaluate, finetune, generate, predict, score, train):
        for line in module.EPILOG.splitlines():
            if line.strip().startswith("crystalsmith "):
                words = snippets.Block(Path("help"), 0, "sh", line.strip(), False).commands[0]
                command = root.get_command(click.Context(root), words[0])  # type: ignore[attr-defined]
                assert command is not None
                command.make_context(words[0], words[1:])
