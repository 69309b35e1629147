"""CIF text as data blocks: each a dictionary from tag to values, parsed by gemmi, one block at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crystalsmith.data.rows import RowError

MAX_TEXT = 4 * 2**20
"""Bytes of the largest data block read."""

MAX_FILE = 64 * 2**20
"""Bytes of the largest CIF read; one of many data blocks may be larger than any of them."""

MAX_LINE = 4096
"""Characters in a line; CIF allows 2048. Longer ones are no CIF, and would cost time squared."""

MAX_BLOCKS = 100_000
"""Data blocks in one CIF."""

UNKNOWN = ("?", ".", "")
"""Values that say nothing."""

_HEADER = re.compile(r"(?im)^[ \t]*data_[^\s]*")
_FIELD = re.compile(r"(?ms)^;.*?^;")


@dataclass
class Block:
    """One data block.

    Attributes:
        name: as the file has it, without ``data_``.
        values: tag in lower case, with ``.`` of dictionaries in the newer language as ``_``, to its values.
        twice: tags that stand twice with different values.
    """

    name: str
    values: dict[str, list[str]] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    def __contains__(self, tag: str) -> bool:
        return tag in self.values

    def column(self, tag: str) -> list[str]:
        """The values of a tag; empty where the block lacks it.

        Raises:
            RowError: if the tag stands twice with different values.
        """
        if tag in self.twice:
            raise RowError("contradiction", f"{tag} stands twice with different values")
        return self.values.get(tag, [])

    def one(self, *tags: str) -> str:
        """The first of these tags that says anything; empty where none does."""
        for tag in tags:
            for value in self.column(tag)[:1]:
                if value.strip() not in UNKNOWN:
                    return value.strip()
        return ""


def blocks(text: str) -> Iterator[Block | RowError]:
    """The data blocks of a text in order; an error in the place of one that is no CIF."""
    for name, part in _split(text):
        if len(part) > MAX_TEXT:
            yield RowError("too_large", f"data block {name[:40]} is longer than {MAX_TEXT // 2**20} MB")
            continue
        try:
            yield _parse(name, part)
        except RowError as error:
            yield error


def _split(text: str) -> list[tuple[str, str]]:
    """Name and text of each block; splitting first means that one broken block costs itself alone."""
    if len(text) > MAX_FILE:
        raise RowError("too_large", f"the CIF is longer than {MAX_FILE // 2**20} MB")
    # A byte order mark at the front, and what some editors leave at the end, belong to no value.
    text = text.lstrip("\ufeff").rstrip("\0\x1a \t\r\n") + "\n"
    if "\0" in text:
        raise RowError("unreadable", "binary data instead of CIF text")
    if text.count("\n") == 1 and "\\n" in text:
        text = text.replace("\\r", "").replace("\\n", "\n")  # line ends written out, as some tables have them
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").replace("\v", " ")
    # Language models and notes fence what they quote.
    text = "\n".join("" if line.startswith("```") else line for line in text.split("\n"))
    if max(map(len, text.split("\n")), default=0) > MAX_LINE:
        raise RowError("unreadable", f"a line is longer than {MAX_LINE} characters")
    inside = _FIELD.sub(lambda m: " " * len(m[0]), text) if "\n;" in text else text
    starts = [match.start() for match in _HEADER.finditer(inside)]
    if len(starts) > MAX_BLOCKS:
        raise RowError("too_large", f"{len(starts)} data blocks (at most {MAX_BLOCKS} are read)")
    head = text[: starts[0]] if starts else text
    if any(line.lstrip().lower().startswith(("_", "loop_")) for line in head.split("\n")):
        # Items before any header: what a person cut from a larger file. Prose before it is no part of the CIF.
        return _split("data_\n" + text)
    found = []
    for start, end in zip(starts, [*starts[1:], len(text)][: len(starts)], strict=True):
        part = text[start:end].lstrip()
        found.append((part.split(None, 1)[0][5:], part))
    return found


def _parse(name: str, text: str) -> Block:
    import gemmi

    try:
        # The header is replaced: names with characters that CIF does not allow cost nobody anything.
        parsed = gemmi.cif.read_string("data_x" + text[5 + len(name) :], check_level=0)
    except (ValueError, RuntimeError) as error:
        sentence = " ".join(str(error).split())
        raise RowError("unreadable", f"no CIF: {sentence[:160]}") from None
    block = Block(name)
    items: Any = parsed[0]
    for item in items:
        if item.pair is not None:
            _keep(block, item.pair[0], [item.pair[1]])
        elif item.loop is not None:
            tags, width = list(item.loop.tags), item.loop.width()
            values = list(item.loop.values)
            for k, tag in enumerate(tags):
                _keep(block, tag, values[k::width])
    return block


def _keep(block: Block, tag: str, raw: list[str]) -> None:
    import gemmi

    plain = tag.lower().replace(".", "_")
    # Only quoted values and text fields need unpacking.
    values = [gemmi.cif.as_string(v) if v[:1] in "'\";" and v else v for v in raw]
    known = block.values.setdefault(plain, values)
    if known is not values and known != values:
        if all(v.strip() in UNKNOWN for v in known):
            block.values[plain] = values
        elif not all(v.strip() in UNKNOWN for v in values):
            block.twice.add(plain)


def number(text: str, tag: str) -> float:
    """A CIF number without its uncertainty, ``5.6402(3)`` -> 5.6402.

    Raises:
        RowError: if it is no number (``?`` and ``.`` stand for unknown ones).
    """
    try:
        if len(text) > 40:
            raise ValueError
        return float(text.split("(")[0].replace("_", "x"))
    except ValueError:
        raise RowError("not_finite", f"'{text[:20]}' stands where a number should ({tag})") from None
