"""A limit on time holds in every thread, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from crystalsmith.engine.limits import TooSlow, at_most


def endless() -> None:
    for _ in range(3000):
        time.sleep(0.01)


def test_what_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(TooSlow, match=r"took more than 0.05 s"), at_most(0.05):
        endless()
    assert time.monotonic() - began < 10


def test_it_needs_neither_the_main_thread_nor_signals(monkeypatch) -> None:
    """As on Windows, which has no alarms."""
    monkeypatch.delattr(signal, "setitimer", raising=False)
    monkeypatch.delattr(signal, "SIGALRM", raising=False)
    ended = []

    def work() -> None:
        try:
            with at_most(0.05):
                endless()
        except TooSlow as slow:
            ended.append(str(slow))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ended == ["took more than 0.05 s"] * 3


def test_what_ends_about_when_the_time_is_up_is_not_struck_later() -> None:
    outcomes = set()
    for k in range(200):
        try:
            with at_most(0.002):
                time.sleep(0.0019 + 1e-6 * k)
            outcomes.add("in time")
        except TooSlow:
            outcomes.add("too slow")
    time.sleep(0.02)
    assert outcomes
    assert threading.active_count() < 10


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), at_most(5.0):
        raise KeyError("x")
