"""The tables of ``peers.py``: one for each potential, and what at least two of the potentials say together."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from crystalsmith.evaluation.statistics import rate
from crystalsmith.files import replace_text

Row = dict[str, Any]
"""A system under one potential: ``system``, ``num``, ``available``, ``left_out``, ``metrics`` and ``folder``."""

RATES = {
    "valid": ("valid",),
    "plausible": ("plausible",),
    "unique": ("unique",),
    "novel": ("novel",),
    "new composition": ("novel_composition",),
    "new framework": ("novel_framework",),
    "stable at 0": ("stable", "0"),
    "metastable at 0.05": ("stable", "0.05"),
    "metastable at 0.1": ("stable", "0.1"),
    "SUN (0)": ("sun", "0"),
    "MSUN (0.05)": ("sun", "0.05"),
    "MSUN (0.1)": ("sun", "0.1"),
    "as given: stable at 0": ("as_given", "stable", "0"),
    "as given: metastable at 0.1": ("as_given", "stable", "0.1"),
    "as given: MSUN (0.1)": ("as_given", "sun", "0.1"),
    "symmetry kept": ("symmetry_kept", "0.01"),
    "in P1": ("diversity", "in_p1"),
    "hold Yb": ("ytterbium", "crystals"),
    "MSUN (0.1) without Yb": ("ytterbium", "sun", "0.1"),
}
"""Columns of rates in percent, and where they stand in the metrics."""

MSUN = RATES["MSUN (0.1)"]


def write_table(state: Path, potential: str, rows: Sequence[Row]) -> str:
    """Write ``table-POTENTIAL.json`` and ``.md``; returns the latter."""
    rows = sorted(rows, key=lambda row: -share(row))
    columns = ["system", "crystals", *RATES, "energy above hull, median", "displacement, median A"]
    columns += ["elements, JS distance", "wall s per relaxation", "left out (size)"]
    lines = []
    for row in rows:
        found = row["metrics"]
        cells = [row["system"], str(row["num"]), *(percent(dig(found, place)) for place in RATES.values())]
        cells += [spread(found.get("energy_above_hull")), spread(found.get("rmsd"))]
        distance = (found.get("distributions") or {}).get("elements_jensen_shannon")
        seconds = found.get("seconds_per_crystal", {}).get("mean")
        cells += ["" if value is None else f"{value:.2f}" for value in (distance, seconds)]
        lines.append([*cells, f"{row['left_out']} of {row['available']}"])
    return write(state, f"table-{plain(potential)}", {"potential": potential, "rows": rows}, potential, columns, lines)


def write_consensus(state: Path, tables: Mapping[str, Sequence[Row]]) -> str:
    """Write ``consensus.json`` and ``.md``: systems that two potentials or more have judged; returns the latter.

    Args:
        tables: the rows of each potential.
    """
    by_system: dict[str, dict[str, Row]] = {}
    for potential, rows in tables.items():
        for row in rows:
            by_system.setdefault(row["system"], {})[potential] = row
    both = {name: rulers for name, rulers in by_system.items() if len(rulers) > 1}
    found = {name: consensus([Path(row["folder"]) for row in rulers.values()]) for name, rulers in both.items()}
    names = sorted(both, key=lambda name: -found[name]["msun"]["rate"])
    columns = ["system", "crystals", "metastable at 0.1 by two", "MSUN (0.1) by two", "the same without Yb"]
    columns += [f"MSUN (0.1) by {potential}" for potential in tables]
    lines = []
    for name in names:
        own = found[name]
        cells = [
            name,
            str(own["msun"]["of"]),
            *(percent(own[key]) for key in ("metastable", "msun", "msun_without_yb")),
        ]
        rulers = both[name]
        lines.append([*cells, *(percent(dig(rulers[p]["metrics"], MSUN)) if p in rulers else "" for p in tables)])
    said = disagreements({name: {p: dig(r["metrics"], MSUN) for p, r in both[name].items()} for name in names})
    record = {"systems": {name: found[name] for name in names}, "disagreements": said}
    title = "By two potentials: a crystal counts if at least two of them say so"
    return write(state, "consensus", record, title, columns, lines, "\n".join(said))


def consensus(folders: Sequence[Path]) -> dict[str, Any]:
    """What at least two evaluations of the same crystals say; only crystals that all have judged are counted.

    Args:
        folders: of the evaluations, each with its ``crystals.csv``.

    Returns:
        Rates ``metastable`` (within 0.1 eV/atom), ``msun`` (the same, unique, novel and condensed) and
        ``msun_without_yb``.
    """
    tables = []
    for folder in folders:
        with (folder / "crystals.csv").open(newline="", encoding="utf-8") as file:
            tables.append({row["id"]: row for row in csv.DictReader(file)})
    shared = [name for name in tables[0] if all(name in table for table in tables)]

    def two(column: str, names: Sequence[str]) -> dict[str, Any]:
        return rate([sum(table[name][column] == "True" for table in tables) >= 2 for name in names])

    free = [name for name in shared if "Yb" not in tables[0][name]["formula"]]
    return {
        "metastable": two("stable_0.1", shared),
        "msun": two("msun", shared),
        "msun_without_yb": two("msun", free),
    }


def disagreements(rates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each two systems whose order two potentials see differently, and one that counts them.

    Args:
        rates: of each system, by potential: ``rate``, ``low`` and ``high``.
    """
    sentences: list[str] = []
    pairs = alike = 0
    for one, other in combinations(rates, 2):
        rulers = [p for p in rates[one] if rates[one][p] and rates[other].get(p)]
        if len(rulers) < 2:
            continue
        by = {p: (rates[one][p], rates[other][p]) for p in rulers}
        ahead = {p: a["rate"] - b["rate"] for p, (a, b) in by.items()}
        turned = [(p, q) for p, q in combinations(rulers, 2) if ahead[p] * ahead[q] < 0]
        pairs, alike = pairs + 1, alike + (not turned)
        for two in turned:
            words = [
                f"by {p} {one} stands {'above' if ahead[p] > 0 else 'below'} {other} "
                f"({100 * by[p][0]['rate']:.0f} and {100 * by[p][1]['rate']:.0f} %)"
                for p in two
            ]
            sure = [p for p in two if beyond_chance(*by[p])]
            tail = f"beyond chance by {' and '.join(sure)}" if sure else "neither beyond chance"
            sentences.append(f"- {words[0][0].upper()}{words[0][1:]}, {words[1]}: {tail}.")
    if not pairs:
        return []
    return [f"The potentials order {alike} of {pairs} pairs of systems alike by MSUN (0.1).", *sentences]


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """The 95 % interval of a difference of two rates, of their own intervals (Newcombe, Statistics in Medicine 17, 873,
    1998, method 10)."""
    found = one["rate"] - other["rate"]
    below = math.hypot(one["rate"] - one["low"], other["high"] - other["rate"])
    above = math.hypot(one["high"] - one["rate"], other["rate"] - other["low"])
    return found - below, found + above


def beyond_chance(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether zero lies outside the interval of their difference."""
    low, high = difference(one, other)
    return low > 0 or high < 0


def write(
    state: Path,
    name: str,
    record: Mapping[str, Any],
    title: str,
    columns: Sequence[str],
    lines: Sequence[Sequence[str]],
    tail: str = "",
) -> str:
    """Write a record as JSON and its table as Markdown; returns the latter."""
    text = "\n".join("| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *lines)) + "\n"
    text = f"{title}\n\n{text}" + (f"\n{tail}\n" if tail else "")
    replace_text(state / f"{name}.json", json.dumps(record, indent=1))
    replace_text(state / f"{name}.md", text)
    return text


def plain(potential: str) -> str:
    """A potential's name as a file may have it."""
    return potential.replace(":", "-")


def share(row: Row) -> float:
    """The rate by which systems are ordered; 0 where it is not known."""
    found = dig(row["metrics"], MSUN)
    return found["rate"] if found else 0.0


def dig(found: Mapping[str, Any], place: Sequence[str]) -> dict[str, Any] | None:
    """A rate of the metrics; None where it is not known."""
    value: Any = found
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def percent(value: Mapping[str, Any] | None) -> str:
    """A rate with its interval, as in ``61 (58-64)``."""
    if value is None or not value["of"]:
        return ""
    return "{:.0f} ({:.0f}-{:.0f})".format(*(100 * value[key] for key in ("rate", "low", "high")))


def spread(value: Mapping[str, Any] | None) -> str:
    """A median with its interval."""
    if not value or not value.get("of"):
        return ""
    return f"{value['median']:.3f} ({value['median_low']:.3f}-{value['median_high']:.3f})"
