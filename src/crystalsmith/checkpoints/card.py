"""The model card of an imported model, and the same facts as lines to print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "scalar": "number",
    "log": "number, logarithm to base 10",
    "category": "space group number",
    "elements": "set of elements",
}


def report_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Headings and values of an import report, see :mod:`crystalsmith.checkpoints.published.mattergen`."""
    used, total = report["parameters_used"], report["parameters"]
    lines = [
        ("name", str(report["name"])),
        ("source", str(report["source"])),
        ("folder", str(report["folder"])),
        ("parameters", f"{total:,} as published; {used:,} without the energy heads, which reach no output"),
        ("conditions", "none" if not report["conditions"] else ""),
    ]
    for name, entry in report["conditions"].items():
        text = f"{_KINDS[entry['kind']]}, {entry['place']}"
        if "mean" in entry:
            logarithm = "log10 " if entry["kind"] == "log" else ""
            text += f"; training labels: {logarithm}mean {entry['mean']:.5g}, spread {entry['std']:.5g}"
        lines.append((f"  {name}", text))
    lines.append(("cut-off", f"{report['cutoff']:g} angstrom, {report['max_neighbors']} neighbours"))
    lines.append(("edge rule", str(report["edge_rule"])))
    lines += [(key.replace("_", " "), str(value)) for key, value in report["origin"].items()]
    return lines


def import_card(report: Mapping[str, Any], licence: str) -> str:
    """Text of ``card.md``."""
    facts = "\n".join(f"- {heading.strip()}: {value}".rstrip() for heading, value in report_lines(report))
    return (
        f"# {report['name']}\n\n"
        "Imported from a checkpoint in the layout of the published MatterGen code (Zeni et al., Nature 2025). The "
        "network is the same function of its inputs; `--solver published` samples as that code does, the default "
        "solver with step sizes per crystal and independent noise of the cell.\n\n"
        f"{facts}\n- licence of the weights: {licence}\n\n"
        "Training data, accuracy and limits are those of the original model; see its own card.\n"
    )
