"""Files that are whole at every moment: replaced in one step, or grown line by line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole.

    Raises:
        InputError: if the disk does not take it.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); free some space, then run again (after relaxing: --resume)."
        ) from None


def append_line(file: Path, record: dict[str, Any]) -> None:
    """Add a record at the end of a file.

    Raises:
        InputError: if the disk does not take it.
    """
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise InputError(
            f"{file} cannot be extended ({error.strerror}); free some space and go on with --resume, nothing is lost."
        ) from None


def read_lines(file: Path) -> list[str]:
    """The whole lines of a file; a last one that a killed run cut short is dropped from the file as well."""
    text = file.read_bytes().decode("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        temporary = file.with_name(file.name + ".writing")
        temporary.write_text(whole, encoding="utf-8")
        os.replace(temporary, file)
    return whole.splitlines()
