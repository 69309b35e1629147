"""Files that earlier versions wrote: small updates lead from each format to the next, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Document = dict[str, Any]
Update = Callable[[Document], Document]
"""Makes a document of one version one of the next; it may change what it is given."""


def up_to_date(document: object, name: str, updates: Sequence[Update]) -> Document | None:
    """The document in the present format, or None where it is none of this kind or of a later version.

    Args:
        document: what a JSON file held; its key ``format`` is ``NAME-VERSION``, or the bare number where there is no
            name.
        name: of the format, as ``crystalsmith-reference``; may be empty.
        updates: the first brings version 1 to 2, and so on; the present version is one more than there are.
    """
    if not isinstance(document, Mapping):
        return None
    version = _version(document.get("format"), name)
    if version is None or not 1 <= version <= len(updates) + 1:
        return None
    found = dict(document)
    for number, update in enumerate(updates[version - 1 :], start=version + 1):
        found = update(found) | {"format": f"{name}-{number}" if name else number}
    return found


def _version(written: object, name: str) -> int | None:
    if not name:
        return written if isinstance(written, int) and not isinstance(written, bool) else None
    number = str(written).removeprefix(f"{name}-")
    known = number.isascii() and number.isdigit() and len(number) < 6
    return int(number) if known and str(written).startswith(f"{name}-") else None
