"""One process at a time writes into a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crystalsmith.errors import InputError
from crystalsmith.locks import LOCK, is_empty, locked

HOLD = """
import sys, time
from pathlib import Path
from crystalsmith.locks import locked
with locked(Path(sys.argv[1]), "crystalsmith generate", beside=sys.argv[2] == "beside"):
    print("held", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys
from pathlib import Path
from crystalsmith.locks import locked
place = Path(sys.argv[1])
for _ in range(20):
    with locked(place / "run", "count", wait=60):
        number = int((place / "number").read_text())
        (place / "number").write_text(str(number + 1))
"""


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_the_second_is_refused_by_name_and_a_dead_ones_lock_is_taken_over(tmp_path, where) -> None:
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run), where], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"process {holder.pid} \(crystalsmith generate"):
            hold(run, where)
    finally:
        holder.kill()
        holder.wait()
    hold(run, where)


def hold(run: Path, where: str) -> None:
    with locked(run, "crystalsmith evaluate", beside=where == "beside"):
        pass


def test_one_process_refuses_itself_too(tmp_path) -> None:
    with locked(tmp_path, "train"), pytest.raises(InputError, match=str(os.getpid())), locked(tmp_path, "train"):
        pass


def test_nothing_is_left_behind(tmp_path) -> None:
    with locked(tmp_path / "new" / "run", "generate"):
        assert is_empty(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "run", "generate"):
        (tmp_path / "run" / "a").write_text("")
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["a"]
    with locked(tmp_path / "set", "data prepare", beside=True):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="links of a POSIX system")
def test_a_link_in_its_place_is_not_followed(tmp_path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="a link lies in its place"), locked(tmp_path / "run", "generate"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_many_take_turns(tmp_path) -> None:
    """A counter that is read and written under the lock loses nothing: no two hold it at once."""
    (tmp_path / "number").write_text("0")
    crowd = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]
    assert [one.wait(timeout=120) for one in crowd] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "60"


def test_a_stopped_holder_still_holds(tmp_path) -> None:
    if not hasattr(signal, "SIGSTOP"):
        pytest.skip("no stopping here")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "inside"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match="is being written"), locked(tmp_path, "generate"):
            pass
    finally:
        holder.kill()
        holder.wait()
