"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what was wrong, where (file, row, property), and how to mend it. The command line
    prints it and exits with code 2; library callers catch it as a ``ValueError``.
    """


@contextmanager
def in_python() -> Iterator[None]:
    """Within the block an :class:`InputError` speaks of keyword arguments where its sentence names options."""
    try:
        yield
    except InputError as error:
        raise InputError(as_keywords(str(error))) from error.__cause__


class Spoken(Protocol[_P, _R_co]):
    """A function, and as ``__wrapped__`` the one whose errors name options."""

    @property
    def __wrapped__(self) -> Callable[_P, _R_co]: ...

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co: ...


def spoken(function: Callable[_P, _R]) -> Spoken[_P, _R]:
    """The function, its errors naming keywords where those of the command line name options."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with in_python():
            return function(*args, **kwargs)

    return call


def as_keywords(sentence: str) -> str:
    """``--num-atoms`` becomes ``num_atoms``, ``--property band_gap=2.0`` becomes ``properties={'band_gap': 2.0}``."""
    sentence = re.sub(r"--property ([A-Za-z_]\w*)=([\w.-]*\w)", r"properties={'\1': \2}", sentence)
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda m: _PLURAL.get(m[1], m[1].replace("-", "_")), sentence)


_PLURAL = {"property": "properties", "set": "settings"}


def brief(error: BaseException, most: int = 160) -> str:
    """What a library says of a failure, in one line and of bounded length: it may quote a whole file."""
    return " ".join(str(error).split())[:most] or type(error).__name__
