"""Crystals of many systems under one ruler: equal random samples, one reference, one potential, one table.

    python benchmarks/peers.py REF STATE --num 512 ours=crystals diffcsp=diffcsp.extxyz.gz real=mp.extxyz.gz

Each input is NAME=PATH, of any kind that ``crystalsmith evaluate`` reads (extended XYZ may be gzipped). A sample is
drawn by the seed, brought to primitive cells where those are smaller, and judged in rounds: after each round every
system has as many crystals as the others, as far as it has them, and the table in STATE is of that number.
Relaxations stay in STATE, one folder for each potential and system; started again, the script goes on from them. More
crystals, other inputs or a newer evaluator cost only what is new.

A system's sample depends on the seed and its own file alone. Crystals of more than ``--max-atoms`` atoms are left out,
and how many is told: a relaxation of 200 atoms costs as much as hundreds of small ones.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judge import facts_or_problem
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.relaxation import FILE, recover, relaxations
from crystalsmith.evaluation.potential.relaxed import Relaxation, key_of
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.evaluation.structures import Sample, read_samples
from crystalsmith.files import append_line, replace_text
from crystalsmith.formats import extxyz_frame
from crystalsmith.symmetry.groups import search

PRIMITIVE = 0.01
"""Tolerance in angstrom of the search for a smaller cell."""

DRAWN = "sample.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="made by crystalsmith reference build")
    parser.add_argument("state", type=Path, help="folder of samples, relaxations and the table")
    parser.add_argument("systems", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--num", type=int, default=512, help="crystals of each system, as far as it has them")
    parser.add_argument("--round", type=int, default=64, help="crystals of each system before the next round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--max-atoms", type=int, default=20, help="in the primitive cell")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=3600.0, help="wall seconds for one relaxation")
    args = parser.parse_args()
    try:
        systems = dict(pair(text) for text in args.systems)
        samples = {name: draw(name, path, args.state, args.seed, args.max_atoms) for name, path in systems.items()}
        settings = Relaxation(args.potential, time_limit=args.time_limit, device="cpu", batch=0)
        rounds = [*range(args.round, args.num, args.round), args.num]
        for num in relaxed_rounds(list(samples), args.state, settings, rounds, args.jobs):
            rows = [
                judge(name, args.state, args.reference, settings, min(num, facts["drawn"]), args.jobs) | facts
                for name, facts in samples.items()
            ]
            write_table(args.state, args.potential, num, rows)
    except InputError as error:
        sys.exit(str(error))


def pair(text: str) -> tuple[str, Path]:
    """``NAME=PATH`` in two.

    Raises:
        InputError: if it is not of this form.
    """
    name, sign, path = text.partition("=")
    if not sign or not name or "/" in name:
        raise InputError(f"Give each system as NAME=PATH, as in ours=crystals, not '{text}'.")
    return name, Path(path)


def draw(name: str, path: Path, state: Path, seed: int, max_atoms: int) -> dict[str, Any]:
    """Write the whole file in a random order, in primitive cells, to ``STATE/samples/NAME``, unless it is there.

    Returns:
        How many crystals there are, could be drawn, and were left out because of their size.

    Raises:
        InputError: if the file cannot be read or another sample of this name is there.
    """
    folder = state / "samples" / name
    wanted = {"path": str(path.resolve()), "seed": seed, "max_atoms": max_atoms, "primitive": PRIMITIVE}
    if (folder / DRAWN).is_file():
        known: dict[str, Any] = json.loads((folder / DRAWN).read_text())
        if known["of"] != wanted:
            raise InputError(f"{folder} holds a sample of {known['of']}; choose another name or state folder.")
        return {key: known[key] for key in ("system", "available", "drawn", "left_out")}
    folder.mkdir(parents=True, exist_ok=True)
    crystals = read_any(path)
    order = np.random.default_rng(seed).permutation(len(crystals))
    frames, left_out = [], 0
    for place in order.tolist():
        crystal = crystals[place]
        if crystal.failure:  # a placeholder that cannot be judged either: what was requested and failed counts
            frames.append(f'1\nLattice="1 0 0 0 1 0 0 0 nan" Properties=species:S:1:pos:R:3 id={crystal.id}\nH 0 0 0\n')
            continue
        frac, cell, numbers = primitive(crystal.arrays)
        if len(numbers) > max_atoms:
            left_out += 1
            continue
        frames.append(extxyz_frame(frac, cell, numbers, {"id": crystal.id}))
    facts = {"system": name, "available": len(crystals), "drawn": len(frames), "left_out": left_out}
    replace_text(folder / "crystals.extxyz", "".join(frames))
    replace_text(folder / DRAWN, json.dumps({"of": wanted, **facts}, indent=1) + "\n")
    return facts


def read_any(path: Path) -> list[Sample]:
    """The crystals of an input, gzipped extended XYZ included.

    Raises:
        InputError: if it cannot be read.
    """
    if path.suffix != ".gz" or not path.is_file():
        return read_samples(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return read_samples(plain)


def primitive(arrays: Arrays) -> Arrays:
    """The primitive cell where it is smaller, otherwise the crystal as it is."""
    frac, cell, numbers = arrays
    found = search(frac, cell, numbers, PRIMITIVE)
    if found is None or len(found.prim_std_cell.numbers) >= len(numbers):
        return arrays
    small = found.prim_std_cell
    return np.array(small.positions) % 1.0, np.array(small.basis), np.array(small.numbers, dtype=np.int64)


def relaxed_rounds(
    systems: Sequence[str], state: Path, settings: Relaxation, rounds: Sequence[int], jobs: int
) -> Iterator[int]:
    """Relax the systems' crystals in turn, the first of each, then the second: worker processes start once.

    Yields:
        The size of each round as it is complete.

    Raises:
        InputError: if results of other settings are there, or the potential cannot be used.
    """
    left: list[tuple[int, str, Sample]] = []
    for name in systems:
        folder = place(state, settings, name)
        folder.mkdir(parents=True, exist_ok=True)
        known = {(result.id, result.key) for result in recover(folder / FILE, settings, resume=True)}
        samples = read_samples(state / "samples" / name / "crystals.extxyz", rounds[-1])
        for number, sample in enumerate(samples):
            facts, _ = (None, "") if sample.failure else facts_or_problem(sample.arrays)
            if facts is not None and facts.valid and (sample.id, key_of(sample.arrays)) not in known:
                left.append((number, name, sample))
    left.sort(key=lambda entry: entry[0])
    tasks = [(f"{name}/{sample.id}", key_of(sample.arrays), sample.arrays) for _, name, sample in left]
    numbers = {task[0]: entry[0] for task, entry in zip(tasks, left, strict=True)}
    open_rounds = list(rounds)
    undone = Counter(numbers.values())

    def complete() -> Iterator[int]:
        while open_rounds and not any(number < open_rounds[0] for number in undone):
            yield open_rounds.pop(0)

    ready = list(complete())
    yield from ready[-1:]  # of what was done before, the last round tells all
    for result in relaxations(tasks, settings, Engine(jobs)):
        name, own = result.id.split("/", 1)
        append_line(place(state, settings, name) / FILE, asdict(replace(result, id=own)))
        number = numbers[result.id]
        undone[number] -= 1
        if not undone[number]:
            del undone[number]
        yield from complete()


def place(state: Path, settings: Relaxation, name: str) -> Path:
    """The folder of a system's relaxations and evaluation."""
    return state / settings.potential.replace(":", "-") / name


def judge(name: str, state: Path, reference: Path, settings: Relaxation, num: int, jobs: int) -> dict[str, Any]:
    """The row of a system: ``metrics.json`` of its first crystals, all of them relaxed already."""
    options = Options(reference=reference, relaxation=settings, resume=True, jobs=jobs, limit=num)
    crystals = state / "samples" / name / "crystals.extxyz"
    return {"num": num, "metrics": evaluate(crystals, place(state, settings, name), options)["metrics"]}


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
}
"""Columns of rates in percent, and where they stand in the metrics."""


def write_table(state: Path, potential: str, num: int, rows: list[dict[str, Any]]) -> None:
    """Write ``table-POTENTIAL.json`` and ``.md``, and print the latter."""
    rows = sorted(rows, key=lambda row: -row["metrics"].get("sun", {}).get("0.1", {"rate": 0.0})["rate"])
    columns = ["system", "crystals", *RATES, "energy above hull, median", "displacement, median A"]
    columns += ["elements, JS distance", "wall s per relaxation", "left out (size)"]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        found = row["metrics"]
        cells = [row["system"], str(row["num"]), *(percent(dig(found, place)) for place in RATES.values())]
        cells += [spread(found.get("energy_above_hull")), spread(found.get("rmsd"))]
        distance = (found.get("distributions") or {}).get("elements_jensen_shannon")
        seconds = found.get("seconds_per_crystal", {}).get("mean")
        cells += ["" if value is None else f"{value:.2f}" for value in (distance, seconds)]
        lines.append([*cells, f"{row['left_out']} of {row['available']}"])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    name = f"table-{potential.replace(':', '-')}"
    replace_text(state / f"{name}.json", json.dumps({"potential": potential, "num": num, "rows": rows}, indent=1))
    replace_text(state / f"{name}.md", f"{num} crystals of each at most, {potential}\n\n{text}")
    print(text, flush=True)


def dig(found: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any] | None:
    """A rate of the metrics; None where it is not known."""
    value: Any = found
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def percent(value: dict[str, Any] | None) -> str:
    """A rate with its interval, as in ``61 (58-64)``."""
    if value is None:
        return ""
    return "{:.0f} ({:.0f}-{:.0f})".format(*(100 * value[key] for key in ("rate", "low", "high")))


def spread(value: dict[str, Any] | None) -> str:
    """A median with its interval."""
    if not value or not value.get("of"):
        return ""
    return f"{value['median']:.3f} ({value['median_low']:.3f}-{value['median_high']:.3f})"


if __name__ == "__main__":
    main()
