"""Crystals of many systems under one ruler, or several: equal random samples, one reference, one table.

    python benchmarks/peers.py REF STATE --num 512 ours=crystals diffcsp=diffcsp.extxyz.gz real=mp.extxyz.gz
    python benchmarks/peers.py REF STATE --potential 7net-0 --potential chgnet ours=crystals diffcsp=diffcsp.extxyz.gz

Each input is NAME=PATH, of any kind that ``crystalsmith evaluate`` reads (extended XYZ may be gzipped). A sample is
drawn by the seed, brought to primitive cells where those are smaller, and judged in rounds: after each round every
system has as many crystals as the others, as far as it has them, and the tables in STATE are of that number. With
several potentials each of them judges the round's crystals, and ``consensus.md`` says what two of them agree on, and
which systems they order differently. Relaxations stay in STATE, one folder for each potential and system; started
again, the script goes on from them. More crystals, other inputs or a newer evaluator cost only what is new.

A system's sample depends on the seed and its own file alone. Crystals of more than ``--max-atoms`` atoms are left out,
and how many is told: a relaxation of 200 atoms costs as much as hundreds of small ones. Systems that have been judged
already take part as they are: ``--judged NAME=FOLDER,FOLDER``, an evaluation for each potential.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
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
from crystalsmith.schema import read_json
from crystalsmith.symmetry.groups import search
from peers_table import Row, plain, write_consensus, write_table

PRIMITIVE = 0.01
"""Tolerance in angstrom of the search for a smaller cell."""

DRAWN = "sample.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="made by crystalsmith reference build")
    parser.add_argument("state", type=Path, help="folder of samples, relaxations and tables")
    parser.add_argument("systems", nargs="*", metavar="NAME=PATH")
    parser.add_argument("--judged", action="append", default=[], metavar="NAME=FOLDER,FOLDER", help="evaluations of it")
    parser.add_argument("--num", type=int, default=512, help="crystals of each system, as far as it has them")
    parser.add_argument("--round", type=int, default=64, help="crystals of each system before the next round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--potential", action="append", help="7net-0 unless given; several take turns")
    parser.add_argument("--energy-scale", help="of potentials of your own, pbe or mp2020")
    parser.add_argument("--max-atoms", type=int, default=20, help="in the primitive cell")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=3600.0, help="wall seconds for one relaxation")
    args = parser.parse_args(arguments)
    rulers = [
        Relaxation(name, args.energy_scale, time_limit=args.time_limit, device="cpu", batch=0)
        for name in args.potential or ["7net-0"]
    ]
    try:
        if not args.systems and not args.judged:
            raise InputError("Give at least one system as NAME=PATH.")
        systems = dict(pair(text) for text in args.systems)
        judged = [row for text in args.judged for row in judged_rows(*pair(text), args.reference)]
        samples = [draw(name, path, args.state, args.seed, args.max_atoms) for name, path in systems.items()]
        for num in rounds(list(systems), args.state, rulers, args.round, args.num):
            tables = {}
            for ruler in rulers:
                relax(list(systems), args.state, ruler, num, args.jobs)
                tables[ruler.potential] = [row for row in judged if row["potential"] == ruler.potential]
                for facts in samples:
                    row = judge(facts["system"], args.state, args.reference, ruler, min(num, facts["drawn"]), args.jobs)
                    tables[ruler.potential].append(row | facts)
                print(write_table(args.state, ruler.potential, tables[ruler.potential]), flush=True)
            if len(rulers) > 1:
                print(write_consensus(args.state, tables), flush=True)
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


def rounds(systems: Sequence[str], state: Path, rulers: Sequence[Relaxation], size: int, num: int) -> Iterator[int]:
    """The sizes of the rounds that are to be done; of those done before, the last alone: its tables tell all."""
    sizes = [*range(size, num, size), num]
    for this, following in zip(sizes, [*sizes[1:], None], strict=True):
        if following is None or any(missing(systems, state, ruler, following) for ruler in rulers):
            yield this


def missing(systems: Sequence[str], state: Path, settings: Relaxation, num: int) -> list[tuple[str, Sample]]:
    """Which of the first crystals are yet to be relaxed: the first of each system, then the second, ...

    Raises:
        InputError: if results of other settings are there.
    """
    left: list[tuple[int, str, Sample]] = []
    for name in systems:
        file = place(state, settings, name) / FILE
        known = {(result.id, result.key) for result in recover(file, settings, resume=True)} if file.exists() else set()
        first = [(number, sample) for number, sample in relaxable(state, name) if number < num]
        left += [(number, name, s) for number, s in first if (s.id, key_of(s.arrays)) not in known]
    return [(name, sample) for _, name, sample in sorted(left, key=lambda entry: entry[0])]


@cache
def relaxable(state: Path, name: str) -> list[tuple[int, Sample]]:
    """The crystals of a sample that are valid, each with its place."""
    found = []
    for number, sample in enumerate(read_samples(state / "samples" / name / "crystals.extxyz")):
        facts, _ = (None, "") if sample.failure else facts_or_problem(sample.arrays)
        if facts is not None and facts.valid:
            found.append((number, sample))
    return found


def relax(systems: Sequence[str], state: Path, settings: Relaxation, num: int, jobs: int) -> None:
    """Relax what is missing of the first crystals, in turns over the systems; each result is kept as it comes.

    Raises:
        InputError: if results of other settings are there, or the potential cannot be used.
    """
    for name in systems:
        file = place(state, settings, name) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        recover(file, settings, resume=True)  # writes the head of a new file
    tasks = [
        (f"{name}/{sample.id}", key_of(sample.arrays), sample.arrays)
        for name, sample in missing(systems, state, settings, num)
    ]
    for result in relaxations(tasks, settings, Engine(jobs)):
        name, own = result.id.split("/", 1)
        append_line(place(state, settings, name) / FILE, asdict(replace(result, id=own)))


def place(state: Path, settings: Relaxation, name: str) -> Path:
    """The folder of a system's relaxations and evaluation."""
    return state / plain(settings.potential) / name


def judge(name: str, state: Path, reference: Path, settings: Relaxation, num: int, jobs: int) -> Row:
    """The row of a system: ``metrics.json`` of its first crystals, all of them relaxed already."""
    options = Options(reference=reference, relaxation=settings, resume=True, jobs=jobs, limit=num)
    folder = place(state, settings, name)
    metrics = evaluate(state / "samples" / name / "crystals.extxyz", folder, options)["metrics"]
    return {"num": num, "metrics": metrics, "folder": str(folder)}


def judged_rows(name: str, folders: Path, reference: Path) -> list[Row]:
    """Rows of a system from evaluations that exist, separated by commas, one for each potential.

    Raises:
        InputError: if one is not there, is of crystals as given, or of another reference.
    """
    rows: list[Row] = []
    for text in str(folders).split(","):
        found = read_json(Path(text) / "metrics.json", None, "evaluate the crystals again")
        run, metrics = found["run"], found["metrics"]
        if run["relaxation"] is None or run["reference"] is None:
            raise InputError(f"{text} is not an evaluation with a reference and a potential.")
        if Path(run["reference"]["path"]).name != reference.name:
            raise InputError(f"{text} was judged by {run['reference']['path']}, not by {reference}.")
        num = metrics["requested"]
        facts = {"system": name, "num": num, "available": num, "left_out": 0, "drawn": num}
        rows.append(facts | {"potential": run["relaxation"]["potential"], "metrics": metrics, "folder": text})
    return rows


if __name__ == "__main__":
    main()
