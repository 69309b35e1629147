"""How far is the bulk modulus of a potential's equation of state from the labelled one?

    python benchmarks/bulk_modulus.py mp20/ OUT --count 200 --jobs 2

Draws validation crystals that carry a bulk modulus, evenly over its logarithm, and evaluates them as if they had been
generated for their own labels: the adherence to the target is then the error of the method. Resumable (--resume).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.evaluation.asked.request import Request
from crystalsmith.evaluation.potential.relaxed import Relaxation
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.formats import extxyz_frame
from crystalsmith.generation.folder import FORMAT


def write_run(data: Path, folder: Path, count: int) -> None:
    """The chosen crystals as the folder of a generation run whose targets are the labels."""
    dataset = CrystalDataset.open(data)
    rows = dataset.rows("val")
    labels = dataset.labels(rows, ["bulk_modulus"])["bulk_modulus"].numpy()
    rows, labels = rows[labels > 1.0], labels[labels > 1.0]
    order = np.argsort(labels)
    wanted = np.linspace(np.log(labels.min()), np.log(labels.max()), count)
    chosen = np.unique(order[np.searchsorted(np.log(labels[order]), wanted).clip(0, len(rows) - 1)])
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    with (folder / "crystals.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "file", "note", "target_bulk_modulus"])
        for row, label, crystal in zip(
            rows[chosen], labels[chosen], dataset.batch(rows[chosen]).crystals(), strict=True
        ):
            name = f"row{row}"
            frames.append(extxyz_frame(*crystal, {"id": name}))
            table.writerow([name, "", "", float(label)])
    (folder / "crystals.extxyz").write_text("".join(frames))
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "settings": {"num": len(chosen)}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if not given.resume:
        write_run(given.data, given.out / "labelled", given.count)
    options = Options(
        relaxation=Relaxation(given.potential, fmax=0.02),
        resume=given.resume,
        jobs=given.jobs,
        request=Request(bulk_modulus=True),
    )
    found = evaluate(given.out / "labelled", given.out / "evaluation", options)
    print(json.dumps({"adherence": found["metrics"]["adherence"], "seconds": found["seconds"]}, indent=1))


if __name__ == "__main__":  # worker processes read this file again
    main()
