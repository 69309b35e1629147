"""Distances to the hull: of the reference's labels, or of a potential's own energies; and what there is to doubt."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judge import composition_of, place_on_hull
from crystalsmith.evaluation.judged import Judged, system_of
from crystalsmith.evaluation.potential.bias import flag_biased, read_bias
from crystalsmith.evaluation.potential.hull import LEFT_OUT, potential_hull
from crystalsmith.evaluation.potential.potentials import find_potential
from crystalsmith.evaluation.potential.relaxed import Finished, Relaxation
from crystalsmith.evaluation.potential.single_points import Energies
from crystalsmith.evaluation.reference.completeness import survey
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.files import replace_text

HULLS = ("labels", "potential")
"""Whose energies a hull is made of."""

LEFT_OUT_COLUMNS = ("id", "composition", "chemical_system", "formation_energy_per_atom", "energy_above_hull", "reason")
"""Of ``hull_left_out.csv``."""


def check_hull(kind: str, limit: int | None, relaxation: Relaxation | None, reference: Reference | None) -> None:
    """Make sure that the hull that is asked for can be had.

    Raises:
        InputError: if it cannot.
    """
    if kind not in HULLS:
        raise InputError(f"The hull is of labels or of the potential (--hull {' or '.join(HULLS)}), not '{kind}'.")
    if limit is not None and (kind != "potential" or limit < 0):
        raise InputError("--hull-limit is a number of single points for --hull potential; leave it out otherwise.")
    if kind == "labels":
        return
    if relaxation is None:
        raise InputError("--hull potential needs crystals relaxed by that potential; add --potential, as in 7net-0.")
    if reference is None or not (reference.num_entries and reference.num_structures):
        raise InputError("--hull potential needs a --reference with both structures and energies.")
    if not reference.manifest.get("elemental_energies"):
        raise InputError(
            f"--hull potential needs elemental energies, which the reference {reference.path} does not know; build it "
            "with --elemental-energies."
        )


def place_by_labels(crystals: Sequence[Judged], reference: Reference) -> dict[str, Any]:
    """Set energies above the hull of the reference's labelled energies; returns what ``metrics.json`` says of it."""
    place_on_hull(crystals, reference.hull, reference.entry_name)
    return {"kind": "labels", **survey(crystals, reference.hull, reference.entry_name)}


def place_by_potential(
    crystals: Sequence[Judged],
    reference: Reference,
    out: Path,
    relaxation: Relaxation,
    finished: Finished,
    engine: Engine,
    limit: int | None,
) -> dict[str, Any]:
    """Set energies above the hull of the potential's own energies, with those above the labels' hull beside them.

    Returns:
        What ``metrics.json`` says of it. The entries that could not take part stand in ``hull_left_out.csv``.

    Raises:
        InputError: if the potential cannot be used, or the disk is full.
    """
    place_on_hull(crystals, reference.hull, reference.entry_name)
    judged = [c for c in crystals if c.facts is not None and c.formation_energy is not None]
    systems = sorted({system_of(c) for c in judged})
    energies = Energies(reference, relaxation.potential, relaxation.energy_scale, out, relaxation.device)
    found = potential_hull(systems, reference, energies, engine, limit, finished.seconds_per_atom, _announce)
    for crystal in crystals:
        crystal.energy_above_label_hull = crystal.energy_above_hull
        crystal.energy_above_hull, crystal.decomposition = None, ""
        crystal.hull_entries = crystal.hull_entries_with_all = None
    for crystal in judged:
        mixture = reference.hull.distance(composition_of(crystal), 0.0).decomposition
        lost = [reference.entry_name(entry) for entry in mixture if entry in found.left_out]
        crystal.phases_left_out = " ".join(sorted(lost))
    place_on_hull(judged, found.hull, lambda entry: found.names[entry])
    _write_left_out(out / LEFT_OUT, found.left_out_rows(reference))
    left_out = [tuple(sorted(reference.hull.composition(entry))) for entry in found.left_out]
    return {
        "kind": "potential",
        "potential": energies.potential.name,
        "version": energies.potential.version,
        "energies": str(energies.file),
        **found.facts(),
        "crystals_whose_phases_were_left_out": sum(bool(c.phases_left_out) for c in judged),
        **survey(judged, found.hull, lambda entry: found.names[entry], left_out),
    }


def doubtful_energies(
    crystals: Sequence[Judged], reference: Reference, relaxation: Relaxation
) -> dict[str, Any] | None:
    """Flag the crystals that rest on elements the potential gets wrong; None where that was not measured."""
    biases = read_bias(reference, find_potential(relaxation.potential, relaxation.energy_scale))
    return None if biases is None else flag_biased(crystals, biases)


def _announce(text: str) -> None:
    print(f"Hull of the potential: {text}", file=sys.stderr, flush=True)


def _write_left_out(file: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([LEFT_OUT_COLUMNS, *rows])
    replace_text(file, buffer.getvalue())
