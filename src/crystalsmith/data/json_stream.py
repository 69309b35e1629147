"""JSON read piece by piece, so that a file of many crystals never stands in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

BLOCK = 2**18
"""Characters read at a time."""

MAX_VALUE = 2**28
"""Characters of one value: a crystal in a list, or a column of a table."""

MAX_COST = 1.5e9
"""Bytes that one value may take in memory as Python objects, estimated from its brackets and commas."""

WRAPPERS = ("entries", "data", "structures", "results", "response", "docs")
"""Keys under which files keep their list of crystals."""

Piece = tuple[str, str, Any]
"""``list`` and its key; ``item``, key of the list (or nothing) and element; ``key``, key and value."""


def pieces(file: TextIO) -> Iterator[Piece]:
    """The elements of a top list, or the keys of a top object, the lists under :data:`WRAPPERS` element by element.

    Raises:
        ValueError: if the text is no JSON, or a value is larger than the limits.
        RecursionError: if it is nested too deeply.
    """
    stream = _Stream(file)
    first = stream.peek()
    if first == "[":
        for value in stream.elements():
            yield "item", "", value
    elif first == "{":
        stream.skip()
        more = stream.peek() != "}"
        if not more:
            stream.skip()
        while more:
            key = str(stream.value())
            stream.expect(":")
            if key in WRAPPERS and stream.peek() == "[":
                yield "list", key, None
                for value in stream.elements():
                    yield "item", key, value
            else:
                yield "key", key, stream.value()
            more = stream.another("}")
    else:
        stream.value()
        raise ValueError("neither a list nor an object")
    if stream.peek():
        raise ValueError("text follows the end of the JSON")


def loads(text: str) -> Any:
    """JSON text as an object, within the limits.

    Raises:
        ValueError: if it is no JSON, or larger than the limits.
        RecursionError: if it is nested too deeply.
    """
    _affordable(text, 0)
    return json.loads(text)


def _affordable(text: str, start: int) -> None:
    size = len(text) - start
    if size > MAX_VALUE:
        raise ValueError(f"a value of more than {MAX_VALUE // 2**20} MB")
    if size > 2**22:
        brackets = text.count("[", start) + text.count("{", start)
        if 72 * brackets + 32 * text.count(",", start) > MAX_COST:
            raise ValueError("a value that would take all memory")


class _Stream:
    """A window on the text that grows until a value fits."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._decoder = json.JSONDecoder()

    def _more(self, size: int = 0) -> None:
        self._text, self._at = self._text[self._at :], 0
        _affordable(self._text, 0)
        block = self._file.read(max(BLOCK, size))
        self._ended = not block
        self._text += block

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\r\n":
                    return character
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def skip(self) -> None:
        """Go past the character that was looked at."""
        self._at += 1

    def expect(self, character: str) -> None:
        """Go past this character.

        Raises:
            ValueError: if another one stands there.
        """
        if self.peek() != character:
            raise ValueError(f"'{character}' is missing")
        self.skip()

    def another(self, end: str) -> bool:
        """Whether a comma follows; the end of the list is gone past."""
        if self.peek() == ",":
            self.skip()
            return True
        self.expect(end)
        return False

    def value(self) -> Any:
        """The next value as a whole."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._at)
                # A number at the very end of the window may go on.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return found
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._more(len(self._text) - self._at)

    def elements(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.skip()
        if self.peek() == "]":
            self.skip()
            return
        while True:
            yield self.value()
            if not self.another("]"):
                return
