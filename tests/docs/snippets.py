"""The commands and snippets of a page, in order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

NOT_RUN = "<!-- parsed, not run"
"""Stands before a block whose commands are looked at only, with the reason."""


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page, line: where it stands.
        language: ``sh`` or ``python``; indented blocks are ``sh``.
        text: what is in it.
        run: whether it is run, or only read.
    """

    page: Path
    line: int
    language: str
    text: str
    run: bool

    @property
    def runs(self) -> bool:
        """Whether there is anything to run in it."""
        return self.run and (self.language == "python" or bool(self.commands))

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each ``crystalsmith`` command, comments and continuations resolved."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # FOO=bar crystalsmith ...
                words = words[1:]
            if words[:1] in (["srun"], ["torchrun"]) and "crystalsmith" in words:
                words = words[words.index("crystalsmith") :]
            if words[:1] == ["crystalsmith"]:
                end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", ";")), len(words))
                found.append(words[1:end])
        return found


def blocks(page: Path) -> list[Block]:
    """All blocks of code of a page: fenced ones run unless the page says otherwise, indented ones are read."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    i, skip = 0, False
    while i < len(lines):
        line = lines[i]
        if line.startswith(NOT_RUN):
            skip = True
        elif line.startswith("```"):
            language, start = line[3:].strip(), i + 1
            i += 1
            while not lines[i].startswith("```"):
                i += 1
            found.append(Block(page, start, language, "\n".join(lines[start:i]), run=not skip))
            skip = False
        elif line.startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            start = i
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            text = "\n".join(one[4:] for one in lines[start:i])
            found.append(Block(page, start + 1, "sh", text, run=False))
            continue
        i += 1
    return found
