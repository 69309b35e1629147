"""The archive that people open: an ASE database, a table and CIFs, all written from the ledger by this one process."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalsmith.discovery.candidate import STAGES, Candidate, State
from crystalsmith.evaluation.report.results import rounded
from crystalsmith.files import replace_text
from crystalsmith.formats import cif_text, symmetric_cif_text
from crystalsmith.symmetry.groups import symmetrise

DATABASE = "candidates.db"
TABLE = "candidates.csv"
CIFS = "cif"
SYMPREC = 0.1

HEAD = (
    "rank",
    "id",
    "formula",
    "num_atoms",
    "space_group",
    "energy_above_hull",
    "formation_energy_per_atom",
    "energy_per_atom",
    "matched",
    "verdict",
    "stage",
    "source",
    "kinds",
    "size",
    "parent",
    "exchange",
    "round",
    "lesson",
    "chance",
    "estimated_above_hull",
    "steps",
    "rmsd",
    "seconds",
)
"""Columns of ``candidates.csv`` before those of what was measured."""

HIDDEN = {"energy", "forces", "stress", "decomposition", "relatives", "force", "formula", "steps", "rmsd", "chance"}


class Archive:
    """The database of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: set[int] | None = None

    def keep(self, candidates: Sequence[Candidate], properties: Sequence[str]) -> None:
        """Put relaxed candidates with a verdict into the database, and the CIFs of accepted ones on disk.

        Those that stand there already are left alone, so it may be called again after any interruption.
        """
        from ase.db import connect

        database = connect(str(self.folder / DATABASE), type="db")
        if self._kept is None:
            self._kept = {int(row.candidate) for row in database.select(columns=["id", "key_value_pairs"])}
        fresh = [c for c in candidates if c.relaxed is not None and c.number not in self._kept and not c.open]
        with database:
            for candidate in fresh:
                if candidate.accepted:
                    self._write_cifs(candidate)
                self._insert(database, candidate, properties)
        self._kept |= {c.number for c in fresh}

    def _insert(self, database: Any, candidate: Candidate, properties: Sequence[str]) -> None:
        import numpy as np
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        assert candidate.relaxed is not None
        frac, cell, numbers = candidate.relaxed
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True)
        values = candidate.values
        found = {"energy": values["energy"], "forces": np.array(values["forces"]), "stress": np.array(values["stress"])}
        atoms.calc = SinglePointCalculator(atoms, **found)
        pairs: dict[str, Any] = {
            "candidate": candidate.number,
            "name": candidate.name,
            "accepted": candidate.accepted,
            "verdict": "accepted" if candidate.accepted else candidate.dropped,
            "source": candidate.plan["source"].replace(":", " at "),
            "round": candidate.round,
        }
        wanted = ("energy_above_hull", "formation_energy_per_atom", "space_group", *properties)
        pairs |= {n: values[n] for n in dict.fromkeys(wanted) if isinstance(values.get(n), int | float)}
        database.write(atoms, key_value_pairs=pairs, data={"plan": candidate.plan, "history": candidate.history})

    def _write_cifs(self, candidate: Candidate) -> None:
        place = self.folder / CIFS
        place.mkdir(exist_ok=True)
        assert candidate.raw is not None
        assert candidate.relaxed is not None
        replace_text(place / f"{candidate.name}-raw.cif", cif_text(f"{candidate.name}-raw", *candidate.raw))
        text = cif_text(f"{candidate.name}-relaxed", *candidate.relaxed)
        replace_text(place / f"{candidate.name}-relaxed.cif", text)
        symmetric = symmetrise(*candidate.relaxed, SYMPREC)
        if symmetric is not None:
            text = symmetric_cif_text(f"{candidate.name}-symmetrised", symmetric)
            replace_text(place / f"{candidate.name}-symmetrised.cif", text)


def ranked(state: State) -> list[Candidate]:
    """The accepted candidates, the most stable first: by the hull, or of one formula by their energy per atom.

    Where neither compares them, in the order they were found.
    """
    found, last = state.accepted, float("inf")
    if all("energy_above_hull" in c.values for c in found):
        return sorted(found, key=lambda c: c.values["energy_above_hull"])
    if len({c.values.get("formula") for c in found}) == 1:
        return sorted(found, key=lambda c: c.values.get("energy_per_atom", last))
    return found


def write_table(file: Path, state: State, properties: Sequence[str]) -> None:
    """``candidates.csv``: a row for every candidate, accepted ones first by rank, then by number."""
    order = ranked(state)
    place = {c.number: rank for rank, c in enumerate(order, start=1)}
    rest = [c for _, c in sorted(state.candidates.items()) if c.number not in place]
    columns = (*HEAD, *(p for p in properties if p not in HEAD), "detail")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for candidate in [*order, *rest]:
        row = row_of(candidate, place.get(candidate.number))
        writer.writerow([rounded(row.get(name)) for name in columns])
    replace_text(file, buffer.getvalue())


def row_of(candidate: Candidate, rank: int | None = None) -> dict[str, Any]:
    """What a table says of a candidate."""
    plan = candidate.plan
    verdict = "accepted" if candidate.accepted else candidate.dropped or "open"
    row = {k: v for k, v in candidate.values.items() if k not in HIDDEN and not isinstance(v, list | dict)}
    return row | {
        "rank": rank,
        "id": candidate.name,
        "formula": candidate.values.get("formula"),
        "num_atoms": None if candidate.raw is None else len(candidate.raw[2]),
        "verdict": verdict,
        "stage": candidate.stage,
        "source": plan["source"],
        "kinds": plan["kinds"],
        "size": plan["size"],
        "parent": plan.get("parent"),
        "exchange": " ".join(f"{a}->{b}" for a, b in (plan.get("exchange") or {}).items()),
        "round": candidate.round,
        "lesson": candidate.lesson,
        "chance": candidate.values.get("chance"),
        "steps": candidate.values.get("steps"),
        "rmsd": candidate.values.get("rmsd"),
        "seconds": candidate.seconds,
        "detail": candidate.detail,
    }


def funnel(state: State) -> list[dict[str, Any]]:
    """For each stage: how many reached it, what it dropped and why, and what it cost in seconds."""
    rows = []
    for stage in STAGES:
        reached = [c for c in state.candidates.values() if any(s == stage for s, _, _ in c.history)]
        why: dict[str, int] = {}
        for c in reached:
            if c.dropped and c.stage == stage:
                why[c.dropped] = why.get(c.dropped, 0) + 1
        seconds = sum(t for c in reached for s, _, t in c.history if s == stage)
        if reached or stage != "calculated":
            ordered = dict(sorted(why.items(), key=lambda x: -x[1]))
            rows.append({"stage": stage, "reached": len(reached), "dropped": ordered, "seconds": round(seconds, 2)})
    return [row for row in rows if row["stage"] != "chosen"]
