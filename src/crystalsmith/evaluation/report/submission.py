"""A benchmark's submission from an evaluation: so many crystals as CIF files, and what they cost."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.evaluation.report.cifs import FOLDER, file_name
from crystalsmith.evaluation.structures import read_samples
from crystalsmith.files import make_folder, replace_text, replacing
from crystalsmith.formats import cif_text

NUM = 2500
"""Crystals that LeMat-GenBench asks for, no more and no fewer."""

CRYSTALS, DISCLOSURE = "crystals.zip", "disclosure.json"
STATES = ("given", "relaxed")
TIME_STAMP = (1980, 1, 1, 0, 0, 0)
"""Of every file in the archive, so that equal crystals make equal archives."""

TO_FILL = "to be told by the submitter"


def write_submission(run: Path, metrics: dict[str, Any], out: Path, state: str, num: int = NUM) -> dict[str, Any]:
    """Write ``crystals.zip`` and ``disclosure.json`` into a folder.

    Args:
        run: folder written by ``crystalsmith evaluate``.
        metrics: what its ``metrics.json`` holds.
        out: folder to write into.
        state: the crystals as ``given``, or ``relaxed`` by the evaluation.
        num: take the first so many that exist.

    Returns:
        The disclosure.

    Raises:
        InputError: if there are too few crystals, they were not relaxed, or the files cannot be read or written.
    """
    if state not in STATES:
        raise InputError(f"A submission holds the crystals as {' or '.join(STATES)}, not '{state}'.")
    texts = _given(Path(metrics["run"]["structures"])) if state == "given" else _relaxed(run, metrics)
    if len(texts) < num:
        raise InputError(
            f"The submission needs {num} crystals, but {run} has {len(texts)} {state} ones; generate and evaluate more."
        )
    names = list(texts)[:num]
    relaxation = metrics["run"]["relaxation"] or {}
    found = metrics["metrics"]
    told = {
        "crystals": num,
        "state": "as given, not relaxed here" if state == "given" else f"relaxed by {relaxation['potential']}",
        "relaxation": relaxation if state == "relaxed" else None,
        "requested": found["requested"],
        "selection": f"the first {num} of {len(texts)} that exist, in the order they were made",
        "cost": found.get("efficiency"),
        "floating_point_operations": TO_FILL,
        "training_data": TO_FILL,
        "judged_here": (found.get("conventions") or {}).get("lemat"),
        "reference": metrics["run"]["reference"],
        "versions": metrics["run"]["versions"],
    }
    make_folder(out)
    with replacing(out / CRYSTALS) as temporary:
        temporary.write_bytes(_archive({name: texts[name] for name in names}))
    replace_text(out / DISCLOSURE, json.dumps(told, indent=1) + "\n")
    return told


def _given(structures: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    taken: set[str] = set()
    for sample in read_samples(structures):
        if not sample.failure:
            name = file_name(sample.id, taken)
            names[name] = cif_text(name, *sample.arrays, "as given, not relaxed here")
    return names


def _relaxed(run: Path, metrics: dict[str, Any]) -> dict[str, str]:
    if metrics["run"]["relaxation"] is None or not (run / FOLDER).is_dir():
        raise InputError(f"{run} holds no relaxed crystals; evaluate with --potential, or submit them as given.")
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((run / FOLDER).glob("*.cif"))}


def _archive(texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.cif", TIME_STAMP), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
