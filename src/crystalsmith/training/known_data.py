"""Data sets that the package knows by the hash of their source: what a card may say of them.

A note about data stands in a card only where the data are these very files; a recipe says nothing about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KnownData:
    """Attribution and licence of a known source."""

    name: str
    note: str
    licence: str


_MP20 = KnownData(
    "MP-20",
    "MP-20 (Xie et al., CDVAE, 2021) is a selection of crystals of the Materials Project (Jain et al., APL "
    "Materials 1, 011002, 2013). No validation or test crystal was used for training.",
    "CC BY 4.0",
)

KNOWN = {"3849e1bfecfad67437a8b2e1a48c14ce1a2019dd2455faefc945ae84e3c984d2": _MP20}
"""By SHA-256 of the file that was prepared."""


def known_data(manifest: Mapping[str, Any]) -> KnownData | None:
    """What is known of the data set with this manifest; None of a user's own."""
    return KNOWN.get(str(manifest.get("source_sha256", "")))
