"""Do targets steer? What was asked against what came out, by guidance factor, beside an unconditional control.

    python benchmarks/steering.py MODEL OUT --property density=2,4,8,12,16 --property space_group=225,62 \\
        --guidance 1 2 4 --per-target 16

Each factor of each property is one run folder in OUT (complete ones are not made again, begun ones are resumed). The
control is the same model with the same settings without the target; for a chemical system there is a second one that is
held to its elements (``--chemical-system``) without the network being told. Compared is what needs no calculation:
density, hhi_score, num_elements, space_group (0.1 angstrom) and chemical_system (hit: the same set of elements).

Prints a table, and writes ``steering.json``, ``steering.md`` and ``steering.svg`` to OUT.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.computed import hhi_score
from crystalsmith.elements import atomic_number
from crystalsmith.evaluation.statistics import bootstrap, wilson
from crystalsmith.generation.run import Options, generate
from crystalsmith.generation.steering import Steering

SETS = ("space_group", "chemical_system")
"""Properties that are hit or missed; of the others the error counts."""


def measured(row: dict[str, str], name: str) -> Any:
    """What a crystal of the results table has of a property; None where it has nothing."""
    if not row["formula"]:
        return None
    if name == "space_group":
        return int(row["space_group_0.1"]) if row["space_group_0.1"] else None
    numbers = _numbers(row["formula"])
    if name == "chemical_system":
        return frozenset(numbers.tolist())
    if name == "num_elements":
        return len(set(numbers.tolist()))
    if name == "hhi_score":
        n = torch.tensor([len(numbers)])
        batch = CrystalBatch(torch.zeros(len(numbers), 3), torch.eye(3)[None], torch.from_numpy(numbers), n)
        return float(np.asarray(hhi_score(batch))[0])
    return float(row[name]) if row[name] else None


def _numbers(formula: str) -> np.ndarray:
    from pymatgen.core import Composition

    amounts = Composition(formula).get_el_amt_dict()
    return np.repeat([atomic_number(s) for s in amounts], [round(n) for n in amounts.values()])


def make(args: argparse.Namespace, name: str, values: list[str], factor: float, rule: bool = False) -> list[dict]:
    """The results table of one run, made or resumed."""
    unsteered = factor == 0 and not rule
    label = "control" if unsteered else f"{name}-{'rule' if rule else f'g{factor:g}'}"
    steering = Steering(properties=[f"{name}={','.join(values)}"], guidance=factor)
    count = args.per_target * len(values)
    if unsteered:
        steering, count = Steering(), args.control
    rows: list[dict] = []
    wanted = [(v, Steering(chemical_system=v)) for v in values] if rule else [("", steering)]
    for value, how in wanted:
        out = Path(args.out) / (f"{label}-{value}" if rule else label)
        num = args.per_target if rule else count
        options = Options(
            model=args.model,
            num=num,
            seed=args.seed,
            steps=args.steps,
            solver=args.solver,
            temperature=args.temperature,
            steering=how,
        )
        generate(out, options, resume=True)
        with open(out / "crystals.csv", encoding="utf-8", newline="") as file:
            rows += [row | ({f"target_{name}": value} if rule else {}) for row in csv.DictReader(file)]
    print(f"{label}: {len(rows)} crystals", file=sys.stderr, flush=True)
    return rows


def table_of(name: str, values: list[str], factor: str, rows: list[dict], control: bool) -> list[dict[str, Any]]:
    """One line per target: hits with an interval, or mean, spread and error. The control answers every target."""
    lines = []
    for value in values:
        mine = rows if control else [r for r in rows if _same(name, r[f"target_{name}"], value)]
        found = [measured(row, name) for row in mine]
        line: dict[str, Any] = {"property": name, "target": value, "guidance": factor, "crystals": len(mine)}
        if name in SETS:
            goal: Any = frozenset(map(atomic_number, value.split("-"))) if name == "chemical_system" else int(value)
            hits = sum(one == goal for one in found)
            line |= {"hits": hits, "rate": hits / max(len(mine), 1), "interval": wilson(hits, len(mine))}
        else:
            known = np.array([x for x in found if x is not None and np.isfinite(x)])
            error = np.abs(known - float(value))
            line |= {
                "median": float(np.median(known)), "q25": float(np.quantile(known, 0.25)),
                "q75": float(np.quantile(known, 0.75)), "mae": float(error.mean()),
                "interval": bootstrap(error, np.mean), "values": known.round(4).tolist(),
            }  # fmt: skip
        lines.append(line)
    return lines


def _same(name: str, written: str, value: str) -> bool:
    if name == "chemical_system":
        return set(written.split("-")) == set(value.split("-"))
    return float(written) == float(value)


def overall(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """All targets of one property and factor together."""
    first = {k: lines[0][k] for k in ("property", "guidance")} | {"crystals": sum(x["crystals"] for x in lines)}
    if "hits" in lines[0]:
        hits = sum(x["hits"] for x in lines)
        return first | {"hits": hits, "rate": hits / first["crystals"], "interval": wilson(hits, first["crystals"])}
    return first | {"mae": float(np.mean([x["mae"] for x in lines]))}


def markdown(groups: list[list[dict[str, Any]]]) -> str:
    """A row per property and factor: all targets together, then each."""
    text = []
    for name in dict.fromkeys(g[0]["property"] for g in groups):
        mine = [g for g in groups if g[0]["property"] == name]
        targets = [x["target"] for x in mine[0]]
        what = "hits of crystals" if name in SETS else "mean absolute error; median achieved at each target"
        text += [f"**{name}** ({what})", "", f"| guidance | all | {' | '.join(targets)} |"]
        text += ["|---" * (2 + len(targets)) + "|"]
        for group in mine:
            whole = overall(group)
            if name in SETS:
                low, high = whole["interval"]
                head = f"{whole['hits']}/{whole['crystals']} = {whole['rate']:.1%} ({low:.1%} to {high:.1%})"
                cells = [f"{x['hits']}/{x['crystals']}" for x in group]
            else:
                head, cells = f"{whole['mae']:.3g}", [f"{x['median']:.3g}" for x in group]
            text.append(f"| {whole['guidance']} | {head} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def draw(groups: list[list[dict[str, Any]]], path: Path) -> None:
    """A panel per property: hit rate by target, or achieved (quartiles) against target, one colour per factor."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(g[0]["property"] for g in groups))
    figure, axes = plt.subplots(1, len(names), figsize=(6.2 * len(names), 4.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        mine = [g for g in groups if g[0]["property"] == name]
        targets = [x["target"] for x in mine[0]]
        for k, group in enumerate(mine):
            label, width = group[0]["guidance"], 0.8 / len(mine)
            shade = {"control": "0.75", "control: rule": "0.45"}.get(label, f"C{k}")
            if name in SETS:
                where = np.arange(len(targets)) + (k - (len(mine) - 1) / 2) * width
                rates = np.array([x["rate"] for x in group])
                ends = np.abs(np.array([x["interval"] for x in group]).T - rates)
                axis.bar(where, rates, width, color=shade, label=label, yerr=ends, error_kw={"lw": 0.7})
            else:
                x = np.array(targets, float)
                shift = (k - (len(mine) - 1) / 2) * 0.012 * (x.max() - x.min())
                middle = np.array([one["median"] for one in group])
                ends = np.array([[m - one["q25"], one["q75"] - m] for m, one in zip(middle, group, strict=True)]).T
                axis.errorbar(x + shift, middle, yerr=ends, fmt="o", color=shade, label=label, capsize=2, lw=1)
        if name in SETS:
            axis.set_xticks(range(len(targets)), targets, rotation=60 if name == "chemical_system" else 0, fontsize=8)
            axis.set_ylabel("share of crystals that hit")
        else:
            x = np.array(targets, float)
            axis.plot([x.min(), x.max()], [x.min(), x.max()], color="k", lw=0.7, ls=":")
            axis.set_xlabel("target")
            axis.set_ylabel("achieved (median, quartiles)")
        axis.set_title(name)
        axis.legend(fontsize=8, title="guidance", title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--property", action="append", required=True, metavar="NAME=A,B,C")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--per-target", type=int, default=16)
    parser.add_argument("--control", type=int, default=128, help="crystals of the unconditional control")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--solver")
    parser.add_argument("--temperature", type=float)
    args = parser.parse_args()

    groups = []
    for text in args.property:
        name, _, listed = text.partition("=")
        values = listed.split(",")
        groups.append(table_of(name, values, "control", make(args, name, values, 0.0), control=True))
        if name == "chemical_system":
            groups.append(table_of(name, values, "control: rule", make(args, name, values, 0.0, rule=True), False))
        for factor in args.guidance:
            groups.append(table_of(name, values, f"{factor:g}", make(args, name, values, factor), control=False))
    out = Path(args.out)
    (out / "steering.json").write_text(json.dumps([x for g in groups for x in g], indent=1), encoding="utf-8")
    (out / "steering.md").write_text(markdown(groups), encoding="utf-8")
    draw(groups, out / "steering.svg")
    print(markdown(groups))


if __name__ == "__main__":
    main()
