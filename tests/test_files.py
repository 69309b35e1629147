"""Files are whole at every moment: whatever fails or ends the program, the earlier one stands."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crystalsmith import files
from crystalsmith.errors import InputError
from crystalsmith.files import (
    append_line,
    append_text,
    is_unfinished,
    read_lines,
    replace_text,
    replacing,
    replacing_folder,
    restore_folder,
    sha256_of,
    sweep,
)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_a_file_is_replaced_when_its_maker_ends_well_and_only_then(tmp_path) -> None:
    path = tmp_path / "a"
    replace_text(path, "one\r\n")
    assert path.read_bytes() == b"one\r\n"

    def broken() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_bytes() == b"one\r\n"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert path.read_bytes() == b"one\r\n"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_disk_refuses_is_one_sentence_and_costs_nothing(tmp_path, monkeypatch, number, mend) -> None:
    path = tmp_path / "a"
    replace_text(path, "one")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=mend) as told:
        replace_text(path, "two")
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_limit_on_file_sizes_leaves_what_was_there(tmp_path) -> None:
    script = f"""
import resource
from pathlib import Path
import torch
from crystalsmith.errors import InputError
from crystalsmith.files import append_text, replace_text, replacing_folder
from crystalsmith.training.state import save_state
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
place = Path({str(tmp_path)!r})
def folder():
    with replacing_folder(place / "d") as new:
        (new / "x").write_bytes(bytes(80_000))
for act in (
    lambda: replace_text(place / "a", "x" * 80_000),
    lambda: append_text(place / "b", "x" * 80_000),
    lambda: save_state(place / "c", {{"x": torch.zeros(80_000)}}, {{}}),
    folder,
):
    try:
        act()
    except InputError as error:
        print(error)
"""
    for name in "abc":
        (tmp_path / name).write_text(f"as it was: {name}\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("old")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    said = result.stdout.splitlines()
    assert [f"{tmp_path / name} cannot be written" in line for name, line in zip("abcd", said, strict=True)] == [
        True
    ] * 4
    assert all("limit on file sizes" in line for line in said)
    assert [(tmp_path / name).read_text() for name in "abc"] == [f"as it was: {name}\n" for name in "abc"]
    assert (tmp_path / "d" / "x").read_text() == "old"
    assert names(tmp_path) == ["a", "b", "c", "d"]


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("precious")
    path.write_text("one")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 12)
    (tmp_path / f".a.{'0' * 12}.writing").symlink_to(victim)
    with pytest.raises(InputError, match="lies in its place"):
        replace_text(path, "two")
    assert victim.read_text() == "precious"
    assert path.read_text() == "one"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("precious")
    path.symlink_to(victim)
    replace_text(path, "two")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "two", False)


def test_lines_survive_one_that_was_cut_short(tmp_path) -> None:
    path = tmp_path / "lines"
    append_line(path, {"a": 1})
    append_text(path, '{"a": 2')
    append_line(path, {"a": 3})
    append_text(path, '{"a"')
    assert [line for line in read_lines(path) if line.endswith("}")] == ['{"a": 1}', '{"a": 3}']
    assert path.read_text().endswith('{"a": 3}\n')


# ---- folders


def write_folder(path: Path, content: str) -> None:
    with replacing_folder(path) as new:
        for name in ("one", "two"):
            (new / name).write_text(content)


def test_a_folder_is_the_old_one_or_the_new_one_at_every_moment(tmp_path) -> None:
    path, torn, over = tmp_path / "d", [], threading.Event()
    write_folder(path, "0")

    def look() -> None:
        while not over.is_set():
            try:
                there = os.open(path, os.O_RDONLY)
                try:
                    os.stat("one", dir_fd=there)
                    os.stat("two", dir_fd=there)
                finally:
                    os.close(there)
            except FileNotFoundError as error:
                # A folder that was opened and then left is emptied; opening it by name must never fail.
                if error.filename == str(path) or error.filename == path:
                    torn.append(error)

    if sys.platform != "linux":
        pytest.skip("the exchange in one step is tried on Linux")
    looking = threading.Thread(target=look)
    looking.start()
    for k in range(100):
        write_folder(path, str(k))
    over.set()
    looking.join()
    assert not torn
    assert (path / "one").read_text() == "99"
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, monkeypatch, at_once) -> None:
    path = tmp_path / "d"
    if not at_once:
        monkeypatch.setattr(files, "_swap", lambda *_: False)
    write_folder(path, "old")

    def broken() -> None:
        with replacing_folder(path) as new:
            (new / "one").write_text("new")
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        broken()
    assert (path / "two").read_text() == "old"
    write_folder(path, "new")
    assert (path / "two").read_text() == "new"
    assert names(tmp_path) == ["d"]


def test_a_kill_between_two_renames_is_put_right(tmp_path, monkeypatch) -> None:
    path, plain = tmp_path / "d", os.rename
    write_folder(path, "old")
    calls = []

    def killed(source, target) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise SystemExit
        plain(source, target)

    monkeypatch.setattr(files, "_swap", lambda *_: False)
    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(SystemExit):
        write_folder(path, "new")
    assert not path.exists()
    monkeypatch.setattr(os, "rename", plain)
    restore_folder(path)
    assert (path / "one").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_what_is_to_be_kept_of_the_earlier_folder_is_kept(tmp_path) -> None:
    path = tmp_path / "d"
    write_folder(path, "old")
    (path / "deep").mkdir()
    (path / "deep" / "kept").write_text("hours of work")
    (path / "deep" / "left").write_text("stale")
    with replacing_folder(path, keep=lambda file: file.match("deep/kept")) as new:
        (new / "one").write_text("new")
    assert (path / "deep" / "kept").read_text() == "hours of work"
    assert names(path) == ["deep", "one"]
    assert names(path / "deep") == ["kept"]


def test_sweeping_removes_leftovers_and_nothing_of_other_runs(tmp_path) -> None:
    run, other, within = tmp_path / "run", tmp_path / "run.2", tmp_path / "run" / "evaluation"
    within.mkdir(parents=True)
    other.mkdir()
    token = "0123456789ab"
    leftovers = [
        run / f".table.csv.{token}.writing",
        tmp_path / f".run.{token}.writing",
        run / "sub" / f".x.{token}.old",
    ]
    for item in leftovers:
        item.parent.mkdir(exist_ok=True)
        item.write_text("")
    (within / ".lock").write_text("")
    kept = [within / f".y.{token}.writing", tmp_path / f".run.2.{token}.writing", run / "my.writing", run / "notes"]
    for item in kept:
        item.write_text("")
    sweep(run, ".lock")
    assert [item.exists() for item in leftovers] == [False] * 3
    assert [item.exists() for item in kept] == [True] * 4
    assert [is_unfinished(item) for item in kept] == [True, True, False, False]


def test_hashes_tell_contents_and_names_apart(tmp_path) -> None:
    write_folder(tmp_path / "a", "same")
    write_folder(tmp_path / "b", "same")
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    (tmp_path / "b" / "two").rename(tmp_path / "b" / "three")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")
    # FIPS 180-4, the digest of "abc"
    replace_text(tmp_path / "abc", "abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")
    assert json.dumps(names(tmp_path)) == '["a", "abc", "b"]'
