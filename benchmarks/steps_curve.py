"""Quality against the number of network evaluations, for every solver: one curve, with intervals.

    python benchmarks/steps_curve.py sample mp20-tiny curve --num 512        # long; can be killed and run again
    python benchmarks/steps_curve.py measure prepared/mp20 curve             # structures alone -> curve/points.csv
    python benchmarks/steps_curve.py relax curve --reference ref --limit 128 # stability, RMSD and S.U.N.
    python benchmarks/steps_curve.py table curve                             # curve/table.md, curve.svg, curve.png

A point is ``solver[,setting=value...]@evaluations``, as in ``multistep,churn=0.5@35``; settings are keywords of the
solver, and ``times=uniform`` or ``times=cosine`` its schedule. Every point has the same seed, hence the same sizes and
the same noise at t = 1. ``sample`` writes each finished batch to ``curve/POINT/`` and skips what is there, so that it
can be killed, and several may run on different ``--points``. One thread each.

Measured against the val rows: share of crystals that are valid and without distances below 0.7 and 1.0 angstrom, of
charge-balanced compositions (where smact is installed) and of crystals without symmetry (P1); Jensen-Shannon distance
of elements and of numbers of elements, Wasserstein distance of the density (g/cm^3). The row "data" is another part of
the same data, as many crystals: the floor of each distance. Intervals are 95 %, Wilson for shares and bootstrap over
crystals for the rest. Distances of few crystals are large by chance alone: compare points of the same number.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP, WARPS, parse_solver
from crystalsmith.evaluation.facts import density
from crystalsmith.evaluation.judge import described
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.statistics import jensen_shannon, rate, wasserstein
from crystalsmith.evaluation.structures import Sample
from crystalsmith.files import replace_text, replacing
from crystalsmith.formats import extxyz_frame
from crystalsmith.generation.making import make_request
from crystalsmith.generation.sampler import sample_batch

EVALUATIONS = (10, 20, 35, 50, 100, 200, 500, 1000, 2000)
SOLVERS = ("ancestral", "predictor_corrector", "heun", "multistep", "multistep,churn=0.5", "multistep,churn=1")
SHARES = ("valid", "above_0.7", "above_1.0", "charge_balanced", "p1")
DISTANCES = ("elements_js", "num_elements_js", "density_w1")
RELAXED = ("stable_0.1", "sun_0.1", "rmsd_median", "hull_median")


def default_points() -> list[str]:
    """Every solver at every number of evaluations; the cheap ones first."""
    return [f"{solver}@{calls}" for calls in EVALUATIONS for solver in SOLVERS]


def parse_point(point: str) -> tuple[str, dict[str, float], str | None, int]:
    """Solver, settings, schedule and steps of a point."""
    head, calls = point.rsplit("@", 1)
    parts = head.split(",")
    warps = [part.removeprefix("times=") for part in parts if part.startswith("times=")]
    solver, settings = parse_solver(",".join(part for part in parts if not part.startswith("times=")))
    # Heun's last step takes one call.
    steps = (int(calls) + 1) // 2 if solver == "heun" else int(calls) // NETWORK_CALLS_PER_STEP[solver]
    return solver, settings, warps[-1] if warps else None, max(1, steps)


def sample(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model = load_model(args.model)
    model.network.to(args.device).eval()
    for point in args.points or default_points():
        solver, settings, warp, steps = parse_point(point)
        kept = {k: v for k, v in model.metadata.sampling.items() if k in ("temperature", "space_group")}
        own = {"solver": solver, **kept, **settings}
        changed = Model(model.network, model.process, dataclasses.replace(model.metadata, sampling=own))
        request = make_request(changed, num=args.num, seed=args.seed, steps=steps, temperature=args.temperature)
        folder = Path(args.out) / point
        folder.mkdir(parents=True, exist_ok=True)
        usual = WARPS[solver]
        WARPS[solver] = warp or usual  # type: ignore[assignment]
        for start in range(0, args.num, args.batch_size):
            file = folder / f"{start:06d}.npz"
            if file.exists():
                continue
            indices = range(start, min(start + args.batch_size, args.num))
            began = time.perf_counter()
            with _counted(model.network) as calls:
                batch = sample_batch(changed, request.sampling, request.plans(indices), torch.device(args.device))
            seconds = (time.perf_counter() - began) / len(indices)
            _save(file, batch, start, seconds, len(calls))
            print(f"{point:32s} {indices.stop:6d} crystals {len(calls):5d} calls {seconds:.3f} s each", flush=True)
        WARPS[solver] = usual


@contextlib.contextmanager
def _counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """The calls of a network, one entry each."""
    calls: list[int] = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


def _save(file: Path, batch: CrystalBatch, start: int, seconds: float, calls: int) -> None:
    arrays: dict[str, Any] = {
        "frac_coords": batch.frac_coords.numpy(),
        "cell": batch.cell.numpy(),
        "atomic_numbers": batch.atomic_numbers.numpy(),
        "num_atoms": batch.num_atoms.numpy(),
    }
    facts = np.array([start, seconds, calls], dtype=np.float64)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays, facts=facts)


def _samples(batch: CrystalBatch, start: int = 0) -> list[Sample]:
    return [
        Sample(f"{start + i}", frac, cell, numbers.astype(np.int64))
        for i, (frac, cell, numbers) in enumerate(batch.crystals())
    ]


def _load(folder: Path) -> tuple[list[Sample], float, int]:
    """Crystals of a point, seconds per crystal and network calls of a batch."""
    samples, seconds, calls = [], [], []
    for file in sorted(folder.glob("[0-9]*[0-9].npz")):
        with np.load(file, allow_pickle=False) as found:
            keys = ("frac_coords", "cell", "atomic_numbers", "num_atoms")
            batch = CrystalBatch(*(torch.from_numpy(found[key]) for key in keys))
            start, each, count = found["facts"].tolist()
        seconds.append(each)
        calls.append(int(count))
        samples += _samples(batch, int(start))
    return samples, float(np.median(seconds)) if seconds else 0.0, max(calls, default=0)


def measure(args: argparse.Namespace) -> None:
    data = CrystalDataset.open(args.data)
    rows = np.random.default_rng(0).permutation(data.rows("val"))
    known = _columns(_samples(data.batch(np.sort(rows[:4000]))))
    size = max((len(_load(folder)[0]) for folder in _folders(args.out)), default=512)
    floor = described(_samples(data.batch(np.sort(rows[4000 : 4000 + size]))), 1)
    table = [{"point": "data", "solver": "data", "calls": 0, "seconds": 0.0, **summary(floor, known)}]
    for folder in _folders(args.out):
        samples, seconds, calls = _load(folder)
        solver = folder.name.rsplit("@", 1)[0]
        row = {"point": folder.name, "solver": solver, "calls": calls, "seconds": seconds}
        table.append(row | summary(described(samples, 1), known))
        print(f"{folder.name}: {len(samples)} crystals", flush=True)
        _write_csv(Path(args.out) / "points.csv", table)


def _folders(out: str) -> list[Path]:
    """Folders of the points that have crystals, by solver and number of calls."""
    found = [folder for folder in Path(out).glob("*@*") if any(folder.glob("[0-9]*.npz"))]
    return sorted(found, key=lambda folder: (folder.name.rsplit("@", 1)[0], int(folder.name.rsplit("@", 1)[1])))


def _columns(samples: Sequence[Sample]) -> dict[str, NDArray[np.float64]]:
    """Element counts ``(n, 101)``, numbers of elements ``(n,)`` and densities ``(n,)``, of finite cells."""
    found = [(s, density(s.cell, s.numbers)) for s in samples if np.isfinite(s.cell).all()]
    found = [(s, value) for s, value in found if np.isfinite(value)]
    counts = [np.bincount(s.numbers, minlength=101)[:101] for s, _ in found]
    return {
        "elements": np.array(counts, dtype=np.float64).reshape(-1, 101),
        "num_elements": np.array([len(set(s.numbers.tolist())) for s, _ in found], dtype=np.float64),
        "density": np.array([value for _, value in found]),
    }


def summary(crystals: Sequence[Judged], known: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Every number of one point with its limits, as columns NAME, NAME_low and NAME_high."""
    facts = [c.facts for c in crystals]
    flags: dict[str, list[bool | None]] = {
        "valid": [c.valid for c in crystals],
        "above_0.7": [f is not None and f.shortest_distance > 0.7 for f in facts],
        "above_1.0": [f is not None and f.shortest_distance > 1.0 for f in facts],
        "charge_balanced": [c.charge_balanced for c in crystals],
        "p1": [f is not None and f.space_groups[0] == 1 for f in facts],
    }
    row: dict[str, float] = {"crystals": len(crystals)}
    for name, values in flags.items():
        if any(value is not None for value in values):
            share = rate(values)
            row |= {name: share["rate"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
    ours = _columns([c.sample for c in crystals])
    if not len(ours["density"]):
        return row
    distances: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "elements_js": lambda i: jensen_shannon(ours["elements"][i].sum(0), known["elements"].sum(0)),
        "num_elements_js": lambda i: jensen_shannon(_counts(ours["num_elements"][i]), _counts(known["num_elements"])),
        "density_w1": lambda i: wasserstein(ours["density"][i], known["density"]),
    }
    for name, distance in distances.items():
        row[name] = distance(np.arange(len(ours["density"])))
        row[f"{name}_low"], row[f"{name}_high"] = _interval(distance, len(ours["density"]))
    return row


def _counts(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(numbers.astype(np.int64), minlength=102)


def _interval(statistic: Callable[[NDArray[np.int64]], float], size: int) -> tuple[float, float]:
    """The central 95 % of a statistic of crystals over resamples with replacement, moved to the value of the set.

    A distance is biased: resamples, which repeat crystals, lie further from the data than the set itself.
    """
    rng = np.random.default_rng(0)
    values = np.array([statistic(rng.integers(0, size, size)) for _ in range(300)])
    low, high = np.quantile(values - values.mean(), [0.025, 0.975]) + statistic(np.arange(size))
    return max(0.0, float(low)), float(high)


def relax(args: argparse.Namespace) -> None:
    """Relaxed energies of the first crystals of every point by the evaluation itself; resumable."""
    from crystalsmith.evaluation.potential.relaxed import Relaxation
    from crystalsmith.evaluation.run import Options, evaluate

    options = Options(
        reference=Path(args.reference), relaxation=Relaxation(potential=args.potential), resume=True, limit=args.limit
    )
    for folder in _folders(args.out):
        if args.points and folder.name not in args.points:
            continue
        out, file = folder / "evaluation", folder / "crystals.extxyz"
        if (out / "metrics.json").exists():
            continue
        frames = [extxyz_frame(*s.arrays, {"id": s.id}) for s in _load(folder)[0][: args.limit]]
        replace_text(file, "".join(frames))
        print(folder.name, flush=True)
        evaluate(file, out, options)


def relaxed_columns(folder: Path) -> dict[str, float]:
    """Stable, S.U.N., RMSD and energy above the hull of a point that :func:`relax` has judged."""
    file = folder / "evaluation" / "metrics.json"
    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["metrics"]
    row: dict[str, float] = {}
    for name, value in (("stable_0.1", found["stable"]["0.1"]), ("sun_0.1", found["sun"]["0.1"])):
        row |= {name: value["rate"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for name, value in (("rmsd_median", found["rmsd"]), ("hull_median", found["energy_above_hull"])):
        if value["of"]:
            row |= {name: value["median"], f"{name}_low": value["median_low"], f"{name}_high": value["median_high"]}
    return row


def table(args: argparse.Namespace) -> None:
    out = Path(args.out)
    with open(out / "points.csv", encoding="utf-8", newline="") as file:
        rows = [{k: _number(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    for row in rows:
        row |= relaxed_columns(out / str(row["point"]))
    names = [name for name in (*SHARES, *DISTANCES, *RELAXED) if any(name in row for row in rows)]
    lines = ["| point | calls | crystals | s per crystal | " + " | ".join(names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    for row in rows:
        cells = [str(row["point"]), f"{row['calls']:.0f}", f"{row['crystals']:.0f}", f"{row['seconds']:.2f}"]
        lines.append("| " + " | ".join(cells + [_cell(row, name) for name in names]) + " |")
    replace_text(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    _plot(rows, names, out)


def _cell(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[name + '_low']:.3f}-{row[name + '_high']:.3f})" if name in row else ""


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _plot(rows: Sequence[Mapping[str, Any]], names: Sequence[str], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height = (len(names) + 2) // 3
    figure, axes = plt.subplots(height, 3, figsize=(13, 3.2 * height), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for k, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
            line = [row for row in rows if row["solver"] == solver and name in row]
            if solver == "data" and line:
                axis.axhline(line[0][name], color="grey", linestyle=":", label="data")
                continue
            x, y = [r["calls"] for r in line], np.array([r[name] for r in line])
            axis.plot(x, y, "o-", color=f"C{k}", markersize=3, label=solver)
            axis.fill_between(
                x,
                [r[f"{name}_low"] for r in line],
                [r[f"{name}_high"] for r in line],
                color=f"C{k}",
                alpha=0.12,
                linewidth=0,
            )
        axis.set(xscale="log", xlabel="network evaluations", title=name)
    axes[0, 0].legend(fontsize=7)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    figure.savefig(out / "curve.svg")
    figure.savefig(out / "curve.png", dpi=120)


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    replace_text(file, text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    make = actions.add_parser("sample", help="make the crystals of every point")
    make.add_argument("model")
    make.add_argument("out")
    make.add_argument("--points", nargs="+", metavar="POINT", help="instead of every solver at every number of calls")
    make.add_argument("--num", type=int, default=512)
    make.add_argument("--seed", type=int, default=1)
    make.add_argument("--batch-size", type=int, default=64)
    make.add_argument("--temperature", type=float, help="of the elements; the model's if not given")
    make.add_argument("--device", default="cpu")
    make.set_defaults(action=sample)
    look = actions.add_parser("measure", help="judge the crystals without energies")
    look.add_argument("data", help="prepared data set")
    look.add_argument("out")
    look.set_defaults(action=measure)
    energies = actions.add_parser("relax", help="relax a part of each point")
    energies.add_argument("out")
    energies.add_argument("--reference", required=True)
    energies.add_argument("--limit", type=int, default=128)
    energies.add_argument("--potential", default="7net-0")
    energies.add_argument("--points", nargs="+", metavar="POINT")
    energies.set_defaults(action=relax)
    show = actions.add_parser("table", help="table and plot of what was measured")
    show.add_argument("out")
    show.set_defaults(action=table)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
