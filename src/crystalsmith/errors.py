"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


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


def as_keywords(sentence: str) -> str:
    """``--num-atoms`` becomes ``num_atoms``, ``--property band_gap=2.0`` becomes ``properties={'band_gap': 2.0}``."""
    sentence = re.sub(r"--property ([A-Za-z_]\w*)=([\w.-]*\w)", r"properties={'\1': \2}", sentence)
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda m: _PLURAL.get(m[1], m[1].replace("-", "_")), sentence)


_PLURAL = {"property": "properties", "set": "settings"}
