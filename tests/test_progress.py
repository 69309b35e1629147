"""Progress fits a terminal of 80 columns, and a log gets a line now and then."""

from __future__ import annotations

import io
import sys

import pytest

from crystalsmith import progress
from crystalsmith.generation.progress import Shown
from crystalsmith.progress import Lines, Meter, clock, fitting


class Recorder:
    """Keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[float | None, list[str]]] = []
        self.said: list[str] = []

    def show(self, share: float | None, parts: list[str]) -> None:
        self.shown.append((share, parts))

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None: ...


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_time_left_comes_from_what_was_done_in_this_run(time: list[float]) -> None:
    face = Recorder()
    meter = Meter("making", 100, "rows", done=40, face=face)
    time[0] += 10
    meter.update(60)
    share, parts = face.shown[-1]
    assert share == 0.6
    assert parts == ["60 of 100 rows", "0:20 left", "2/s"]  # 20 rows in 10 s, 40 to go


def test_the_widest_line_of_generate_fits_80_columns(time: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    shown = Shown()
    shown.start(10000, 0)
    time[0] += 100
    shown.step(1234, 128, 150, 200)
    shown._meter._face._bar.refresh()  # type: ignore[union-attr]
    shown.close()
    import re

    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in stream.getvalue().replace("\r", "\n").split("\n")]
    last = max(lines, key=len)
    assert len(last.rstrip()) <= 80
    assert "1,234 of 10,000 crystals" in last
    assert "left" in last
    assert last.count("━") + last.count("╸") + last.count("╺") >= progress.BAR_WIDTH - 1


def test_without_a_terminal_a_line_comes_now_and_then(time: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter("making", 10, face=Lines("making"))
    for done in range(1, 10):
        time[0] += 15
        meter.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("making: 2 of 10 crystals")  # at 30 s
    assert 2 <= len(lines) <= 3  # of 135 s


def test_words_that_do_not_fit_are_left_out_the_dearest_last() -> None:
    assert fitting(["12 of 16", "0:20 left", "a very long detail"], 20) == "12 of 16, 0:20 left"
    assert fitting(["a word too long"], 6) == "a word"
    assert [clock(s) for s in (42, 725, 11220)] == ["0:42", "12:05", "3:07:00"]
