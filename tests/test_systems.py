"""What differs between systems, tried on this one: names, paths, line ends, signals and modules that are not there."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

import crystalsmith
from crystalsmith.data.readers import open_source
from crystalsmith.data.writer import DEVICES, label_files
from crystalsmith.files import sha256_of

PACKAGE = Path(crystalsmith.__file__).parent
EXAMPLES = PACKAGE / "examples"


def with_crlf(path: Path, folder: Path) -> Path:
    """A copy with the line ends of Windows."""
    text = path.read_bytes().replace(b"\r\n", b"\n")
    copy = folder / path.name
    copy.write_bytes(text.replace(b"\n", b"\r\n"))
    assert copy.read_bytes() != path.read_bytes()
    return copy


def crystals_in(path: Path) -> list[tuple[Any, ...]]:
    rows = [row for chunk in open_source(path).chunks(99) for row in chunk.rows()]
    assert rows
    return [
        (row.id, row.frac_coords.tolist(), row.cell.tolist(), row.atomic_numbers.tolist(), row.labels) for row in rows
    ]


@pytest.mark.parametrize("kind", ["cif", "POSCAR", "extxyz", "csv"])
def test_line_ends_do_not_matter_to_crystals(kind: str, tmp_path: Path) -> None:
    from ase import Atoms
    from ase.build import bulk
    from ase.io import write

    if kind == "csv":
        path = EXAMPLES / "mine.csv"
    else:
        path = tmp_path / (kind if kind == "POSCAR" else f"salt.{kind}")
        salt: Atoms = bulk("NaCl", "rocksalt", a=5.64)
        write(path, salt, format={"POSCAR": "vasp"}.get(kind, kind))
    (tmp_path / "windows").mkdir()
    assert crystals_in(with_crlf(path, tmp_path / "windows")) == crystals_in(path)


def test_line_ends_do_not_matter_to_settings(tmp_path: Path, conditional: Path) -> None:
    from crystalsmith.training.config import find_recipe, load_recipe

    recipe = find_recipe("mp20-tiny")
    assert load_recipe(with_crlf(recipe, tmp_path)) == load_recipe(recipe)
    model = crystalsmith.load(conditional, device="cpu")
    table = tmp_path / "wanted.csv"
    table.write_bytes(b"band_gap\r\n1.5\r\n0.5\r\n")
    made = model.generate(targets=table, steps=1, num_atoms=2)
    assert made.table.column("target_band_gap") == [1.5, 0.5]
    formulas = tmp_path / "formulas.csv"
    formulas.write_bytes(b"id,formula,formula_units\r\nsalt,NaCl,1\r\n")
    assert model.generate(compositions=formulas, steps=1).table.column("target") == ["salt"]


def test_paths_with_backslashes_stay_whole() -> None:
    from crystalsmith.api import _assignments
    from crystalsmith.training.config import load_recipe

    for path in (r"C:\new\tables\x1", r"\\server\share\models", "runs/old"):
        assert load_recipe(None, _assignments({"base": path})).base == path


def test_names_in_files_of_ours_have_slashes() -> None:
    """A path below a folder goes into a file, a hash or a message by ``as_posix``, so it is the same everywhere."""
    for file in PACKAGE.rglob("*.py"):
        found = re.findall(r"str\([^()]*\.relative_to\([^()]*\)\)", file.read_text(encoding="utf-8"))
        assert not found, f"{file.name}: {found}"


def test_the_hash_of_a_folder_is_of_names_with_slashes(tmp_path: Path) -> None:
    texts = {"B/one.txt": b"1", "a.txt": b"2", "a/two.txt": b"3", "B.txt": b"4"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    order = sorted(texts, key=lambda name: PurePosixPath(name).parts)
    wanted = hashlib.sha256(b"".join(name.encode() + b"\0" + texts[name] for name in order)).hexdigest()
    assert sha256_of(tmp_path) == wanted
    assert [PureWindowsPath(name).as_posix() for name in order] == order


def test_files_of_labels_differ_in_any_case_and_are_no_devices(tmp_path: Path) -> None:
    names = ["Gap", "gap", "GAP", "gap_2", "a/b", "a\\b", "a:b", "AUX", "con", "com1.5", "LPT9", "..", "label"]
    places = label_files(names)
    assert list(places) == names
    assert len({place.lower() for place in places.values()}) == len(names)
    for place in places.values():
        assert place.split(".")[0].lower() not in DEVICES
        assert not set(place) & set('/\\:*?"<>|')
        assert PureWindowsPath(f"{place}.npy").name == f"{place}.npy"


def test_columns_that_differ_by_case_stay_apart(tmp_path: Path) -> None:
    from ase.build import bulk
    from ase.io import write

    salts = [bulk("NaCl", "rocksalt", a=a) for a in (5.4, 5.6, 5.8)]
    for i, salt in enumerate(salts):
        salt.info |= {"id": f"s{i}", "aux": float(i), "Hard": 10.0 + i, "hard": 20.0 + i}
    write(tmp_path / "salts.extxyz", salts, format="extxyz")
    data = crystalsmith.prepare(tmp_path / "salts.extxyz", split_fractions=(1.0, 0.0, 0.0)).dataset
    labels = data.labels(range(3), ("aux", "Hard", "hard"))
    for name, first in (("aux", 0.0), ("Hard", 10.0), ("hard", 20.0)):
        assert sorted(labels[name].tolist()) == [first, first + 1, first + 2]


@pytest.mark.parametrize("missing", [["SIGUSR1"], ["SIGHUP"], ["SIGUSR1", "SIGHUP", "pthread_sigmask"]])
def test_signals_that_a_system_lacks_are_not_needed(missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalsmith.signals import Stopped, StopSignals, exit_code, stop_on_signals

    for name in missing:
        monkeypatch.delattr(signal, name)
    with pytest.raises(Stopped) as stopped, StopSignals():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == exit_code(signal.SIGTERM) == 128 + signal.SIGTERM
    with stop_on_signals() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked.signum == signal.SIGTERM


BARE = """
import os, signal, subprocess, sys, types

import psutil  # which asks for resource here

for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "pthread_sigmask", "setitimer"):
    delattr(signal, name)
for name in ("getloadavg", "O_NOFOLLOW", "sched_getaffinity", "geteuid", "killpg", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
sys.modules["resource"] = None
taken = set()

def locking(file, mode, length):  # as on Windows: another holder is an error, and so is a wrong place
    at = os.lseek(file, 0, os.SEEK_CUR)
    if (os.fstat(file).st_ino, at) in taken:
        raise OSError(13, "locked")
    taken.add((os.fstat(file).st_ino, at))

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
import crystalsmith.locks

sys.modules["fcntl"] = None
crystalsmith.locks.sys = types.SimpleNamespace(platform="win32")
from crystalsmith.cli.main import main

sys.argv = ["crystalsmith", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there it is the case in earnest")
def test_commands_need_nothing_that_only_posix_has(untrained: Path, tmp_path: Path) -> None:
    """Generation, its continuation and evaluation with workers, without these signals, ``fcntl`` and ``resource``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    out = tmp_path / "out"
    for words in (
        ["generate", str(out), "--model", str(untrained), "--num", "2", "--num-atoms", "2", "--steps", "2"],
        ["generate", str(out), "--resume"],
        ["evaluate", str(out), "--jobs", "2"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", BARE, *words], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert (out / "evaluation" / "report.html").is_file()
    assert len((out / "crystals.csv").read_text(encoding="utf-8").splitlines()) == 3
