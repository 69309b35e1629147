"""Files of one JSON record a line that grow as results come and lose nothing when a run is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError


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
