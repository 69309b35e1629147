"""Structures of one composition: proposals by a model, relaxed, ranked by energy, held against what is known.

It is a run of one round in which nothing needs to be new: so it has the same files, goes on after an interruption, and
its candidates can be exported.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from crystalsmith.discovery.archive import ranked, row_of
from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.proposals import ARRANGEMENTS
from crystalsmith.discovery.run import Summary, discover
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.generation.rules import parse_formula
from crystalsmith.models import DEFAULT_CSP


def predict_structure(
    formula: str,
    out: Path,
    *,
    samples: int = 32,
    units: str | None = None,
    model: str = DEFAULT_CSP,
    potential: str = "7net-0",
    reference: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    device: str = "auto",
    engine: Engine = Engine(),
    tell: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Propose, relax and rank structures of a composition.

    Args:
        formula: one formula unit, as ``LiCoO2``.
        out: folder for the results.
        samples: how many proposals; equal ones are relaxed once.
        units: formula units per cell, ``2`` or ``1-4``; None takes those that known crystals of such counts have.
        reference: known crystals, to say which of the structures are known and how far they lie above the hull.
        resume: go on with the run in ``out``.

    Raises:
        InputError: if a value cannot be used.
    """
    if resume and Folder.open(out):
        return discover(out, None, Limits(), device=device, engine=engine, tell=tell)
    parse_formula(formula)
    if samples < 1:
        raise InputError(f"--samples is {samples}; give 1 at least.")
    steering: dict[str, Any] = {"compositions": [formula]}
    if units is not None:
        steering = {"formula": formula, "formula_units": units}
    wish = Wish(
        model=model,
        seed=seed,
        steering=steering,
        requirements=(),
        reference="" if reference is None else str(reference.resolve()),
        potential=potential,
        proposals=samples,
        relaxations=samples,
        steps=steps,
        novel=False,
        sources=(ARRANGEMENTS,) if units is None else (),
    )
    return discover(out, wish, Limits(rounds=1), device=device, engine=engine, tell=tell)


def ranking(out: Path, most: int = 5) -> list[dict[str, Any]]:
    """The structures found, the lowest in energy first, with ``above_best`` in eV/atom."""
    best = ranked(Folder.open(out).state())
    rows = [row_of(one, rank) for rank, one in enumerate(best, start=1)]
    lowest = min((row["energy_per_atom"] for row in rows if row.get("energy_per_atom") is not None), default=0.0)
    return [row | {"above_best": row["energy_per_atom"] - lowest} for row in rows[:most]]
