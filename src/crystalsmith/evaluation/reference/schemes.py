"""Correction schemes by name, and the release of the package that computes them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

_OTHER_NAMES = {
    "mp2020": "mp2020",
    "materialsproject2020": "mp2020",
    "materialsproject2020compatibility": "mp2020",
    "mp2020compatibility": "mp2020",
    "no": "none",
    "raw": "none",
    "uncorrected": "none",
}


def scheme_name(text: str | None) -> str | None:
    """Our name of a scheme, in any case of letters; a name that is the user's own comes back in small letters."""
    if text is None:
        return None
    name = text.strip().lower()
    return _OTHER_NAMES.get(name.replace("-", "").replace("_", "").replace(" ", ""), name)


def pymatgen_release() -> str | None:
    """The installed release of pymatgen, whose tables the corrections are; None where it is not installed."""
    for name in ("pymatgen", "pymatgen-core"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def release_warning(manifest: Mapping[str, Any]) -> str | None:
    """What a user should know when corrections computed now meet a reference that was built with another release.

    MP2020 corrections change with the release: by 119 to 217 meV/atom for three of 500 structures between 2023.5 and
    2026.5.
    """
    if manifest.get("corrections") != "mp2020":
        return None
    built, now = manifest.get("pymatgen"), pymatgen_release()
    if built == now:
        return None
    with_what = f"with pymatgen {built}" if built else "by a version that did not note its release of pymatgen"
    return (
        f"The reference {manifest.get('name')} was built {with_what}, and pymatgen {now} is installed: MP2020 "
        "corrections differ between releases, by 0.1 to 0.2 eV/atom for some crystals; build the reference again."
    )
