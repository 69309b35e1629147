"""Energies of density functional theory, read back: a new ranking, and how wrong the potential was."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.discovery.archive import ranked
from crystalsmith.discovery.judging import Judge
from crystalsmith.discovery.ledger import Folder
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judge import check_scheme
from crystalsmith.evaluation.matching import formula_key
from crystalsmith.evaluation.reference.energies import read_energies
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.report.results import rounded
from crystalsmith.files import replace_text

TABLE, FACTS = "reranked.csv", "reranked.json"
COLUMNS = (
    "rank",
    "id",
    "formula",
    "rank_by_potential",
    "energy_above_hull_by_potential",
    "energy_above_hull",
    "decomposition",
)


@dataclass(frozen=True)
class Compared:
    """What the energies say of the potential; energies above the hull in eV/atom.

    Attributes:
        candidates: accepted ones that have an energy; ``missing`` have none.
        bias: mean of potential minus given; negative where the potential thinks crystals too stable.
        mae, rmse: mean absolute and root mean square difference.
        limit: what the wish allows; None if it says nothing of the hull.
        still: candidates that are within it by the given energies too.
        rank_correlation: Spearman's, of the two rankings; None below three candidates.
    """

    candidates: int
    missing: int
    bias: float
    mae: float
    rmse: float
    limit: float | None
    still: int
    rank_correlation: float | None


def compare(out: Path, file: Path, corrections: str | None) -> Compared:
    """Rank the accepted candidates of a run anew by given energies, and write ``reranked.csv``.

    Args:
        file: id and ``energy_per_atom`` (total, in the scheme of the reference) or ``formation_energy_per_atom``.
        corrections: the scheme of these energies.

    Raises:
        InputError: if the energies are not on the reference's scale, or belong to none of the candidates.
    """
    folder = Folder.open(out)
    wish = folder.wish
    if not wish.reference:
        raise InputError(f"The run in {out} has no reference, so there is no hull to place energies on.")
    reference = Reference.open(wish.reference)
    if corrections is None:
        raise InputError(
            f"Say with --corrections in which scheme the energies are; the reference {reference.name} is in "
            f"{reference.corrections}."
        )
    check_scheme(corrections, reference)
    given = read_energies(file)
    judge = Judge(reference, wish.potential, wish.energy_scale)
    best = ranked(folder.state())
    rows: list[dict[str, Any]] = []
    for rank, one in enumerate(best, start=1):
        energies = given.get(one.name, {})
        if one.relaxed is None or not energies or "energy_above_hull" not in one.values:
            continue
        composition = {z: float(n) for z, n in formula_key(one.relaxed[2])}
        formation = energies.get("formation")
        if formation is None:
            formation = reference.formation_energy(composition, energies["total"])
        placed = judge.place_formation(one.relaxed, formation)
        if "energy_above_hull" not in placed:
            continue
        rows.append(
            {
                "id": one.name,
                "formula": one.values["formula"],
                "rank_by_potential": rank,
                "energy_above_hull_by_potential": one.values["energy_above_hull"],
                "energy_above_hull": placed["energy_above_hull"],
                "decomposition": placed["decomposition"],
            }
        )
    if not rows:
        raise InputError(
            "None of the energies belongs to an accepted candidate; the ids must be those of candidates.csv."
        )
    rows.sort(key=lambda row: row["energy_above_hull"])
    replace_text(out / TABLE, _text(rows))
    found = _compared(rows, len(best) - len(rows), wish.hull_limit)
    replace_text(out / FACTS, json.dumps(asdict(found), indent=1) + "\n")
    return found


def _compared(rows: list[dict[str, Any]], missing: int, limit: float | None) -> Compared:
    ours = np.array([row["energy_above_hull_by_potential"] for row in rows])
    theirs = np.array([row["energy_above_hull"] for row in rows])
    errors = ours - theirs
    correlation = None
    if len(rows) > 2:
        first, second = (np.argsort(np.argsort(values)).astype(float) for values in (ours, theirs))
        correlation = round(float(np.corrcoef(first, second)[0, 1]), 4)
    still = len(rows) if limit is None else int((theirs <= limit).sum())
    bias, mae = round(float(errors.mean()), 6), round(float(np.abs(errors).mean()), 6)
    rmse = round(float(np.sqrt((errors**2).mean())), 6)
    return Compared(len(rows), missing, bias, mae, rmse, limit, still, correlation)


def _text(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, row in enumerate(rows, start=1):
        writer.writerow([rank, *(rounded(row[name]) for name in COLUMNS[1:])])
    return buffer.getvalue()


def sentence(found: Compared) -> str:
    """The comparison in words."""
    side = "too stable" if found.bias < 0 else "too unstable"
    text = (
        f"{found.candidates} candidates with an energy, {found.missing} without. The potential is off by "
        f"{1000 * found.mae:.0f} meV/atom on average and {1000 * abs(found.bias):.0f} meV/atom {side}."
    )
    if found.limit is not None:
        text += f" {found.still} of {found.candidates} are still within {found.limit:g} eV/atom of the hull."
    if found.rank_correlation is not None:
        text += f" Rank correlation {found.rank_correlation:.2f}."
    return text
