"""The report as one self-contained page that opens offline, for one evaluation or several side by side."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.evaluation.asked.request import HIT, Answer, budget_table, target_table
from crystalsmith.evaluation.conventions import METASTABLE
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.report.headline import ORDER, headline, tiles
from crystalsmith.evaluation.report.hull import SYSTEM_HEAD, system_rows
from crystalsmith.evaluation.report.phases import phase_diagrams
from crystalsmith.symmetry.groups import centring

SHOWN = (
    "id",
    "formula",
    "space_group_0.1",
    "energy_above_hull",
    "energy_above_hull_given",
    "energy_per_atom",
    "energy_rank",
    "msun",
    "sun",
    "novel",
    "unique",
    "plausible",
    "doubts",
    "num_atoms",
    "density",
    "rmsd",
    "energy_above_label_hull",
    "novel_composition",
    "novel_framework",
    "valid",
    "shortest_distance",
    "bulk_modulus",
    "matched",
    "duplicate_of",
    "hull_gaps",
    "phases_left_out",
    "biased_elements",
    "failure",
    "detail",
)
"""Columns of the table of crystals; those without any value are left out."""

FLAGS = ("msun", "sun", "valid", "plausible", "unique", "novel", "novel_composition", "novel_framework")

CENTRING_SYMPREC = 0.1
"""Angstrom; the tolerance of the page's space groups."""

CAVEAT = (
    "A hull knows only the entries of its reference: the distance to an incomplete one is a lower bound, and figures "
    "of different references do not compare."
)


def page(
    metrics: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    crystals: Sequence[Judged],
    relaxed: Callable[[Judged], Arrays | None] | None,
    reference: Reference | None,
    asked: Answer,
) -> str:
    """The report of one evaluation.

    Args:
        metrics: as in ``metrics.json``.
        rows: as in ``crystals.csv``.
        relaxed: the relaxed crystal where there is one; None if nothing was relaxed.
        asked: targets and requirements.
    """
    wanted = (*SHOWN[:2], *asked.columns, *SHOWN[2:])
    columns = [name for name in wanted if any(row[name] not in (None, "") for row in rows)]
    payload = _common([metrics], [""]) | {
        "tiles": tiles(metrics["metrics"]),
        "columns": columns,
        "flags": [name for name in columns if name in FLAGS or name.startswith(HIT) or name == "meets_requirements"],
        "rows": [[row[name] for name in columns] for row in rows],
        "before": [None if c.facts is None else compact(c.sample.arrays) for c in crystals],
        "after": [None if relaxed is None else compact(relaxed(c)) for c in crystals],
        "charts": _charts(crystals, reference),
        "targets": target_table(metrics["metrics"]),
        "target_charts": asked.charts,
        "budgets": budget_table(metrics["metrics"]),
        "elements": element_shares([c.sample.numbers for c in crystals], reference),
        "phases": phase_diagrams(crystals, reference),
        "above": [c.energy_above_hull for c in crystals],
        "hits": [c.stable(METASTABLE) and c.new for c in crystals],
        "systems": {"head": SYSTEM_HEAD, "rows": system_rows(metrics["metrics"])},
    }
    found = metrics["run"].get("reference")
    against = "without a reference" if found is None else f"against {found['name']} ({_size(found)})"
    subtitle = f"{metrics['metrics']['requested']:,} crystals of {metrics['run']['structures']}, {against}; "
    return _fill("Evaluation of crystals", subtitle + str(metrics["run"]["created"])[:16].replace("T", " "), payload)


def comparison(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Several evaluations side by side; ``runs`` are what their ``metrics.json`` hold."""
    return _fill("Evaluations side by side", " · ".join(names), _common(runs, names))


def _common(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    tables = [headline(run["metrics"]) for run in runs]
    texts = [{line.label: line.text for line in table} for table in tables]
    lines = {line.label: line for table in tables for line in table}
    ordered = sorted(lines.values(), key=lambda line: ORDER.index(line.group))
    failures = list(dict.fromkeys(name for run in runs for name in run["metrics"]["failures"]))
    missing = {n: f"{why}" for run in runs for n, why in run["metrics"]["missing"].items()}
    return {
        "symbols": SYMBOLS,
        "names": list(names),
        "headline": [[line.label, *(text.get(line.label, "") for text in texts)] for line in ordered],
        "groups": [line.group for line in ordered],
        "meanings": [line.meaning for line in ordered],
        "failures": [[n, *(run["metrics"]["failures"].get(n, 0) for run in runs)] for n in failures],
        "missing": [[name, why] for name, why in missing.items()],
        "rows": None,
    }


def _size(reference: dict[str, Any]) -> str:
    counts = reference["counts"]
    scheme = reference.get("corrections") or "no energies"
    return f"{counts.get('structures', 0):,} structures, {counts.get('hull_entries', 0):,} hull entries, {scheme}"


def compact(arrays: Arrays | None) -> dict[str, list[float]] | None:
    """A crystal as the viewer of a page takes it; ``steps`` lead to a conventional cell that is larger than its own."""
    if arrays is None:
        return None
    frac, cell, numbers = arrays
    found = {
        "frac": np.round(frac.reshape(-1) % 1.0, 5).tolist(),
        "cell": np.round(cell.reshape(-1), 5).tolist(),
        "z": numbers.tolist(),
    }
    steps = centring(frac, cell, numbers, CENTRING_SYMPREC)
    return found if steps is None else found | {"steps": steps.reshape(-1).tolist()}


def _charts(crystals: Sequence[Judged], reference: Reference | None) -> list[dict[str, Any]]:
    facts = [c.facts for c in crystals if c.facts is not None and c.facts.valid]
    known = reference if reference is not None and reference.num_structures else None
    charts = []
    energies = [c.energy_above_hull for c in crystals if c.energy_above_hull is not None]
    if energies:
        charts.append(
            _histogram("Energy above hull, eV/atom (ends collect the rest)", energies, None, np.linspace(-0.1, 0.5, 25))
        )
    if not facts:
        return charts
    densities = [f.density for f in facts]
    edges = np.linspace(0.0, max(20.0, min(30.0, float(np.quantile(densities, 0.99)))), 31)
    charts.append(_histogram("Density, g/cm³", densities, None if known is None else known.density, edges))
    atoms = [f.num_atoms for f in facts]
    theirs = None if known is None else known.num_atoms
    charts.append(_bars("Atoms in the cell", atoms, theirs, range(1, min(40, max(atoms)) + 1)))
    kinds = None if known is None else known.num_elements
    charts.append(_bars("Elements in a crystal", [f.num_elements for f in facts], kinds, range(1, 9)))
    groups = [f.space_groups[0] for f in facts if f.space_groups[0]]
    common = [g for g, _ in sorted(_counted(groups).items(), key=lambda x: -x[1])[:20]]
    theirs = None if known is None else known.space_groups
    charts.append(_bars("Commonest space groups, 0.1 Å", groups, theirs, common))
    if any(c.rmsd is not None for c in crystals):
        values = [c.rmsd for c in crystals if c.rmsd is not None]
        charts.append(_histogram("Displacement by relaxation, Å", values, None, np.linspace(0, 1, 26)))
    return charts


def _counted(values: Sequence[int | None]) -> dict[int, int]:
    return {int(v): values.count(v) for v in set(values) if v}


def _histogram(title: str, ours: ArrayLike, theirs: ArrayLike | None, edges: Any) -> dict[str, Any]:
    def share(values: ArrayLike) -> list[float]:
        inside = np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1])
        return (np.histogram(inside, edges)[0] / len(inside)).round(5).tolist()

    labels = [f"{x:.3g}" for x in edges[:-1]]
    return {
        "title": title,
        "labels": labels,
        "ours": share(ours),
        "reference": None if theirs is None else share(theirs),
    }


def _bars(title: str, ours: ArrayLike, theirs: ArrayLike | None, values: Sequence[int]) -> dict[str, Any]:
    def share(sample: ArrayLike) -> list[float]:
        array = np.asarray(sample)
        return [round(float((array == v).mean()), 5) if len(array) else 0.0 for v in values]

    reference = None if theirs is None else share(theirs)
    return {"title": title, "labels": [str(v) for v in values], "ours": share(ours), "reference": reference}


def element_shares(crystals: Sequence[NDArray[np.int64]], reference: Reference | None) -> list[dict[str, Any]]:
    """The periodic table of a page: each element's place, its share of the crystals and of their atoms.

    Args:
        crystals: the atomic numbers of each.
        reference: to compare with, where there is one.
    """
    counts, holding = np.zeros(101), np.zeros(101)
    for numbers in crystals:
        counts += np.bincount(numbers, minlength=101)[:101]
        holding[np.unique(numbers)] += 1
    known = reference.element_counts if reference is not None and reference.num_structures else None
    found = []
    for z, symbol in enumerate(SYMBOLS, start=1):
        group, period = _place(z)
        found.append(
            {
                "symbol": symbol,
                "group": group,
                "period": period,
                "share": round(float(holding[z] / max(1, len(crystals))), 5),
                "ours": round(float(counts[z] / max(1, counts.sum())), 6),
                "reference": None if known is None else round(float(known[z] / known.sum()), 6),
            }
        )
    return found


def _place(z: int) -> tuple[int, int]:
    """Column and row of an element in the periodic table; lanthanides and actinides in rows of their own."""
    starts = ((1, 1), (3, 2), (11, 3), (19, 4), (37, 5), (55, 6), (87, 7))
    first, period = next((f, p) for f, p in reversed(starts) if z >= f)
    k = z - first
    if period == 1:
        return (1, 1) if z == 1 else (18, 1)
    if period in (2, 3):
        return (k + 1 if k < 2 else k + 11), period
    if period in (4, 5) or k < 2:
        return k + 1, period
    if k < 17:
        return k + 1, period + 3  # La to Lu, Ac to Fm, below a gap
    return k - 13, period


def _fill(title: str, subtitle: str, payload: dict[str, Any]) -> str:
    return fill(
        asset("report.html"),
        title,
        subtitle,
        payload,
        {"CAVEAT": CAVEAT, "SCRIPT": asset("common.js") + asset("report.js")},
    )


def asset(name: str) -> str:
    """The text of one of the files that pages are made of."""
    place = resources.files("crystalsmith.evaluation.report") / "assets" / name
    return place.read_text(encoding="utf-8")


def fill(template: str, title: str, subtitle: str, payload: dict[str, Any], parts: Mapping[str, str]) -> str:
    """A page that opens offline: a template with its title, its data, the common style and the viewer of crystals.

    Args:
        template: with places such as ``@@TITLE@@``.
        payload: for JSON; the page's script reads it from the element ``data``.
        parts: texts of the template's own places.
    """
    # Inside a script element only "<" could end the data early; JSON may write it as an escape.
    data = json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    texts = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "CSS": asset("report.css"),
        "VIEWER": asset("3Dmol-min.js"),
        "DATA": data,
        **parts,
    }
    # Each place is filled from the template alone: what a formula or file name holds is never searched for places.
    pieces: list[str] = []
    while "@@" in template:
        before, rest = template.split("@@", 1)
        name, template = rest.split("@@", 1)
        pieces += [before, texts[name]]
    return "".join([*pieces, template])
