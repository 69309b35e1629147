"""The command line starts at once, and importing the package costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

import crystalsmith

resource = pytest.importorskip("resource")  # not on Windows

PROGRAM = [sys.executable, "-m", "crystalsmith"]
HEAVY = ("torch", "pymatgen", "ase", "moyopy", "lightning", "pyarrow", "numpy")


def fastest(command: list[str], tries: int = 4) -> float:
    """Processor seconds of the quickest of a few runs: what the clock shows on a machine with nothing else to do."""
    times = []
    for _ in range(tries):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def loaded_by(code: str) -> set[str]:
    names = f"[name for name in {HEAVY!r} if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*{names})"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


def test_import_is_light():
    assert loaded_by("import crystalsmith") == set()
    assert fastest([sys.executable, "-c", "import crystalsmith"]) < 1.0


def test_the_command_line_loads_nothing_heavy_before_it_must():
    assert loaded_by("import crystalsmith.cli.main") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["models", "--help"]])
def test_help_is_quick(arguments):
    assert fastest([*PROGRAM, *arguments]) < 0.5


def test_every_command_has_help_with_examples():
    from typer.main import get_command
    from typer.testing import CliRunner

    from crystalsmith.cli.main import app

    def walk(command, path):
        yield path
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, [*path, name])

    runner = CliRunner()
    for path in walk(get_command(app), []):
        result = runner.invoke(app, [*path, "--help"])
        assert result.exit_code == 0
        assert path == [] or "crystalsmith" in result.output or path[-1] == "models"
        assert "<bool>" not in result.output.lower(), path  # a flag takes no value


def test_an_option_of_two_commands_is_one_declaration():
    from crystalsmith.cli.discover import discover
    from crystalsmith.cli.generate import generate

    one, other = (get_type_hints(command, include_extras=True) for command in (generate, discover))
    other["require"] = other.pop("elements")  # there, --require is what is measured
    meant_otherwise = {"out", "num_atoms", "seed", "resume", "return"}
    for name in one.keys() & other.keys() - meant_otherwise:
        assert one[name].__metadata__[0] is other[name].__metadata__[0], name


@pytest.mark.parametrize("command", ["generate", "discover", "predict-structure", "finetune", "train"])
def test_names_of_models_are_completed(command):
    from typer.main import get_command

    from crystalsmith.cli._shared import model_names
    from crystalsmith.cli.main import app

    named = {param.name: param for param in get_command(app).commands[command].params}
    option = named["base" if command == "train" else "model"]
    assert option._custom_shell_complete is not None
    assert "mp20-tiny" in model_names("mp")


def test_version():
    done = subprocess.run([*PROGRAM, "--version"], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"crystalsmith {crystalsmith.__version__}"


def test_public_names_exist():
    for name in crystalsmith.__all__:
        assert getattr(crystalsmith, name) is not None
    assert set(dir(crystalsmith)) >= set(crystalsmith.__all__)
    with pytest.raises(AttributeError):
        crystalsmith.no_such_name  # noqa: B018
