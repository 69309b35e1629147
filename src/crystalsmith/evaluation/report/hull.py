"""What the report says of the hull: whose energies, how complete, which crystals rest on doubtful ones."""

from __future__ import annotations

from typing import Any

SYSTEM_HEAD = (
    "chemical system",
    "crystals",
    "entries of 1, 2, ... elements",
    "binaries",
    "ternaries",
    "without any entry",
    "left out",
)
"""Columns of the table of chemical systems."""


def hull_headline(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of what the metrics say of the hull; nothing where there is none."""
    lines = []
    hull = found.get("hull")
    if hull is not None:
        lines.append(("hull", _kind(hull)))
        if hull["kind"] == "potential":
            lines.append(("reference entries left out of the hull", _left_out(hull)))
        parts = [f"{hull[k]['count']} of {hull[k]['of']} {k}" for k in ("binaries", "ternaries") if hull[k]["of"]]
        if parts:
            lines.append(("sub-systems with any entry", ", ".join(parts)))
        if hull["elements_without_entry"]:
            lines.append(("elements without entry", " ".join(hull["elements_without_entry"])))
        if hull["elements_without_structure"]:
            lines.append(("elements at zero, without a structure", " ".join(hull["elements_without_structure"])))
    doubts = found.get("biased_elements")
    if doubts is not None:
        label = f"on elements of a bias above {1000 * doubts['threshold']:.0f} meV/atom"
        lines.append((label, _doubts(doubts)))
    return lines


def hull_sentences(found: dict[str, Any]) -> list[str]:
    """The same for the terminal."""
    lines = []
    hull = found.get("hull")
    if hull is not None:
        lacking = {k: hull[k]["of"] - hull[k]["count"] for k in ("binaries", "ternaries")}
        text = ", ".join(f"{n} of {hull[k]['of']} {k}" for k, n in lacking.items() if n)
        lines.append(f"Hull: {_kind(hull)}; distances to it are lower bounds.")
        if text:
            lines[-1] += f" No entries at all in {text}."
        if hull["kind"] == "potential":
            lines.append(f"Left out of the hull: {_left_out(hull)}; see {hull['left_out_file']}.")
    if found.get("biased_elements"):
        lines.append(f"On elements that the potential gets wrong: {_doubts(found['biased_elements'])}.")
    return lines


def system_rows(found: dict[str, Any]) -> list[list[Any]]:
    """A row for each chemical system that was judged; columns are ``SYSTEM_HEAD``."""
    return [
        [
            record["system"],
            record["crystals"],
            " + ".join(str(n) for n in record["entries"]),
            _share(record["binaries"]),
            _share(record["ternaries"]),
            " ".join(record["missing"]),
            record["left_out"] or "",
        ]
        for record in found.get("hull", {}).get("systems", ())
    ]


def _kind(hull: dict[str, Any]) -> str:
    if hull["kind"] == "labels":
        return "labelled energies of the reference"
    computed = f"{hull['single_points_known'] + hull['single_points_computed']} structures"
    return f"energies by {hull['potential']} of {computed} of the reference"


def _left_out(hull: dict[str, Any]) -> str:
    text = f"{hull['left_out']} ({hull['left_out_for_want_of_a_structure']} have no structure), competing phases of "
    return text + f"{hull['crystals_whose_phases_were_left_out']} crystals among them"


def _doubts(doubts: dict[str, Any]) -> str:
    share = doubts["crystals"]
    text = f"{share['count']} of {share['of']} crystals, {doubts['stable_0.1']} of them within 0.1 eV/atom"
    names = ", ".join(f"{symbol} {1000 * value:+.0f}" for symbol, value in list(doubts["elements"].items())[:12])
    text += f" (elements: {names}{', ...' if len(doubts['elements']) > 12 else ''})" if names else ""
    return text + (f"; not measured: {' '.join(doubts['not_measured'])}" if doubts["not_measured"] else "")


def _share(pair: list[int]) -> str:
    return f"{pair[0]} of {pair[1]}" if pair[1] else ""
