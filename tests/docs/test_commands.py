"""Every command of README and documentation exists as written, and what a newcomer pastes runs in order."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
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
    from crystalsmith.generation import making
    from crystalsmith.training import config

    make, load = making.make_request, config.load_recipe

    def small(model: Any, **wanted: Any) -> Any:
        made = make(model, **{**wanted, "num": min(NUM, wanted.get("num") or NUM)})
        return dataclasses.replace(made, steps=min(STEPS, made.steps))

    def short(path: Any, overrides: Any = ()) -> Any:
        few = ("limits.max_steps=2", "validation.max_crystals=4", "data.batch_size=8", "hardware.accelerator=cpu")
        return load(path, [*overrides, *few])

    for module in ("crystalsmith.generation.making", "crystalsmith.generation.run"):
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


def complaint(words: list[str]) -> str | None:
    """Why the program would not take these words; None where it would run."""
    command: Any = typer.main.get_command(app)
    path, rest = [], [re.sub(r"\$\w+", "1", word) for word in words]  # variables of a job script
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        path.append(rest.pop(0))
        if path[-1] not in command.commands:
            return f"there is no command {' '.join(path)}"
        command = command.commands[path[-1]]
    if hasattr(command, "commands"):
        return None
    try:
        command.make_context("crystalsmith", rest)
    except typer.Exit:
        return None  # --help
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return None


def test_what_does_not_exist_is_complained_about() -> None:
    assert complaint(["generate", "out", "--num", "4"]) is None
    assert complaint(["data", "prepare", "a", "b"]) is None
    for words in (["generat", "out"], ["generate"], ["generate", "out", "--nun", "4"], ["data", "prepare", "a"]):
        assert complaint(words), words
    assert complaint(["generate", "out", "--num", "four"])


@pytest.mark.parametrize("page", snippets.PAGES, ids=lambda page: str(page.relative_to(snippets.ROOT)))
def test_every_command_is_one_that_exists(page: Path) -> None:
    """Options, their values where they are numbers or choices, and the number of arguments."""
    for block in snippets.blocks(page):
        for words in block.commands:
            assert complaint(words) is None, f"{page.name}:{block.line}: {' '.join(words)}: {complaint(words)}"


def test_examples_of_every_command_exist() -> None:
    """The examples that ``--help`` shows."""
    from crystalsmith.cli import bench, evaluate, finetune, generate, merge, predict, score, train

    seen = 0
    for module in (bench, evaluate, finetune, generate, merge, predict, score, train):
        for line in module.EPILOG.splitlines():
            for words in snippets.Block(Path("help"), 0, "sh", line.strip(), False).commands:
                assert complaint(words) is None, f"{line}: {complaint(words)}"
                seen += 1
    assert seen > 20


@pytest.mark.skipif(shutil.which("bash") is None, reason="job scripts are read by bash")
def test_scripts_and_manifests_are_whole() -> None:
    """Job scripts are shell; what a manifest starts is a command that exists."""
    page = snippets.ROOT / "docs" / "scaling.md"
    scripts = [block.text for block in snippets.blocks(page) if "#SBATCH" in block.text]
    assert len(scripts) >= 3
    for text in scripts:
        assert text.startswith("#!/bin/bash\n#SBATCH ")
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    job = yaml.safe_load(next(block.text for block in snippets.blocks(page) if block.language == "yaml"))
    entry = snippets.Block(page, 0, "sh", job["spec"]["entrypoint"], False).commands
    assert [complaint(words) for words in entry] == [None]
    head, workers = (job["spec"]["rayClusterSpec"][key] for key in ("headGroupSpec", "workerGroupSpecs"))
    for pod in (head, *workers):  # each pod mounts volumes that it has
        spec = pod["template"]["spec"]
        mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in spec.get("volumes", [])}
