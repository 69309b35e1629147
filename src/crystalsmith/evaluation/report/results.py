"""What an evaluation leaves behind: ``metrics.json``, a row per crystal, the ledger of failures, and the report."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crystalsmith.evaluation.asked.request import Answer, answer_lines
from crystalsmith.evaluation.conventions import METASTABLE
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.metrics import THRESHOLDS
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.report.cifs import write_cifs
from crystalsmith.evaluation.report.hull import hull_sentences
from crystalsmith.evaluation.report.page import page
from crystalsmith.files import replace_text
from crystalsmith.tables import safe_cell

COLUMNS = (
    "id",
    "formula",
    "num_atoms",
    "space_group_0.1",
    "space_group_0.01",
    "density",
    "volume_per_atom",
    "shortest_distance",
    "valid",
    "charge_balanced",
    "plausible",
    "doubts",
    "condensed",
    "energy_above_hull",
    "energy_above_hull_given",
    "energy_above_label_hull",
    "formation_energy_per_atom",
    "energy_per_atom",
    "energy_rank",
    *(f"stable_{t:g}" for t in THRESHOLDS),
    "unique",
    "duplicate_of",
    "novel",
    "matched",
    "unique_disordered",
    "duplicate_of_disordered",
    "novel_disordered",
    "matched_disordered",
    "novel_composition",
    "novel_framework",
    "sun",
    "msun",
    "rmsd",
    "relaxed_space_group_0.01",
    "relaxed_density",
    "bulk_modulus",
    "bulk_modulus_note",
    "steps",
    "seconds",
    "decomposition",
    "hull_entries",
    "hull_entries_with_all",
    "hull_entries_by_size",
    "hull_gaps",
    "phases_left_out",
    "missing_elements",
    "biased_elements",
    "failure",
    "detail",
)
"""Columns of ``crystals.csv``: lengths in angstrom, energies in eV/atom, density in g/cm3; empty = not known."""


def row_of(crystal: Judged) -> dict[str, Any]:
    """The row of a crystal; targets and seeds of its input table follow under ``input_<name>``."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {name: getattr(crystal, name) for name in COLUMNS if hasattr(crystal, name)}
    row |= {"id": crystal.sample.id, "num_atoms": len(crystal.sample.numbers) or None}
    row["detail"] = crystal.detail or crystal.no_energy
    row["formation_energy_per_atom"] = crystal.formation_energy
    row["missing_elements"] = " ".join(crystal.missing_elements)
    row["biased_elements"] = " ".join(crystal.biased_elements)
    if crystal.facts is not None:
        facts = crystal.facts
        row |= {name: getattr(facts, name) for name in ("formula", "density", "volume_per_atom", "shortest_distance")}
        row |= {"space_group_0.1": facts.space_groups[0], "space_group_0.01": facts.space_groups[1]}
    if crystal.relaxed is not None:
        row["relaxed_space_group_0.01"] = crystal.relaxed.space_groups[1]
        row["relaxed_density"] = crystal.relaxed.density
    if crystal.plausibility is not None:
        row |= {"plausible": crystal.plausibility.plausible, "doubts": " ".join(crystal.plausibility.doubts)}
    if crystal.novel is not None and crystal.energy_above_hull is not None:
        row |= {"sun": crystal.stable(0.0) and crystal.new, "msun": crystal.stable(METASTABLE) and crystal.new}
    if crystal.energy_above_hull is not None:
        row |= {f"stable_{t:g}": crystal.stable(t) for t in THRESHOLDS}
    return {name: rounded(value) for name, value in row.items()}


def write_results(
    out: Path,
    metrics: dict[str, Any],
    crystals: Sequence[Judged],
    relaxed: Callable[[Judged], Arrays | None] | None,
    reference: Reference | None,
    asked: Answer,
) -> None:
    """Write all files, each as a whole.

    Args:
        relaxed: the relaxed crystal where there is one; None if nothing was relaxed.
        asked: targets and requirements; their columns follow those of every table.

    Raises:
        InputError: if the disk does not take them.
    """
    rows = [row_of(crystal) for crystal in crystals]
    hidden = {*COLUMNS, *asked.columns}
    extra = sorted({f"input_{name}" for c in crystals for name in c.sample.columns if name not in hidden})
    columns = (*COLUMNS, *asked.columns, *extra)
    for row, crystal, answers in zip(rows, crystals, asked.rows, strict=True):
        row |= {name: rounded(value) for name, value in answers.items()}
        row |= {name: crystal.sample.columns.get(name.removeprefix("input_")) for name in extra}
    ledger = [(c.sample.id, c.failure, c.detail) for c in crystals if c.failure]
    ledger += [(c.sample.id, "no_energy", c.no_energy) for c in crystals if c.no_energy and not c.failure]
    replace_text(out / "crystals.csv", csv_text([columns, *([r[n] for n in columns] for r in rows)]))
    if relaxed is not None:
        write_cifs(out, crystals, relaxed, str(metrics["run"]["relaxation"]["potential"]))
    replace_text(out / "ledger.csv", csv_text([("id", "failure", "detail"), *ledger]))
    replace_text(out / "report.html", page(finite(metrics), finite(rows), crystals, relaxed, reference, asked))
    replace_text(out / "metrics.json", json.dumps(finite(metrics), indent=1) + "\n")


def finite(value: Any) -> Any:
    """The same value with numbers that JSON does not know (NaN, infinity) as null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([safe_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def rounded(value: Any) -> Any:
    """Six significant digits: more than the numbers carry, and a table that reads well."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def sentences(metrics: dict[str, Any]) -> str:
    """The headline of an evaluation for the terminal."""
    if "shard" in metrics:
        share = metrics["shard"]
        return (
            f"Shard {share['name']} is finished: {share['crystals']} of {share['of']} crystals. When all shards are, "
            f"judge them with: {share['next']} --shard none"
        )
    found = metrics["metrics"]
    lines = [f"{found['requested']} crystals: {percent(found['valid'])} valid, {percent(found['unique'])} unique."]
    if "plausible" in found:
        doubts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found["doubts"].items())
        lines.append(f"Plausible: {percent(found['plausible'])}{f' (doubts: {doubts})' if doubts else ''}.")
    if "novel" in found:
        lines.append(
            f"Novel: {percent(found['novel'])}; by the disordered matcher too: {percent(found['novel_disordered'])}."
        )
    if "stable" in found:
        parts = ", ".join(f"{percent(found['stable'][k])} within {k} eV/atom" for k in found["stable"])
        lines.append(f"Stable: {parts}.")
    lines += hull_sentences(found)
    if "sun" in found:
        parts = ", ".join(f"{percent(found['sun'][k])} at {k}" for k in found["sun"])
        lines.append(f"Stable, unique and novel: {parts}.")
    if "conventions" in found:
        names = found["conventions"]
        lines.append(
            f"By the names of the field: SUN {percent(names['SUN'])}, MSUN {percent(names['MSUN'])}; "
            f"LeMat-GenBench, of plausible crystals: SUN {percent(names['lemat']['SUN'])}, "
            f"MSUN {percent(names['lemat']['MSUN'])}."
        )
    if "novel_composition" in found:
        framework = f"; framework {percent(found['novel_framework'])}" if "novel_framework" in found else ""
        lines.append(f"New in itself: composition {percent(found['novel_composition'])}{framework}.")
    if found.get("rmsd", {}).get("of"):
        lines.append(f"Displacement by relaxation: median {found['rmsd']['median']:.3f} angstrom.")
    lines += [f"{label}: {text}." for label, text in answer_lines(found)]
    if (without := found.get("no_energy")) is not None:
        named = ", ".join(without["ids"][:5]) + (", ..." if without["count"] > 5 else "")
        lines.append(f"Without energy: {without['count']} ({named}); they count as not stable.")
    if found["failures"]:
        lines.append("Failures: " + ", ".join(f"{name} {n}" for name, n in found["failures"].items()) + ".")
    for name, reason in found["missing"].items():
        lines.append(f"Not computed: {name}, because {reason}.")
    return "\n".join(lines)


def percent(value: dict[str, Any]) -> str:
    """A rate with its interval, as in ``61 % (58 to 64)``."""
    if not value["of"]:
        return "none"
    return f"{100 * value['rate']:.3g} % ({100 * value['low']:.3g} to {100 * value['high']:.3g})"
