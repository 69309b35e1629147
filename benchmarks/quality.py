"""The scoreboard: how good a checkpoint is, as a row of docs/experiments.csv; a quarter of an hour of one core.

    python benchmarks/quality.py run/best --data prepared/mp20 --reference refs/full --out scores/run --note new
    python benchmarks/quality.py run/best ... --generate "--property energy_above_hull=0 --guidance 2" --csp 0

Measured on the validation split alone, never on the test split:

- losses of each field per atom on fixed noise, in five equal parts of time, elements noised with the geometry, and
  with all elements given;
- ``--num`` crystals with the model's own settings (or ``--generate``), relaxed by ``--potential`` and placed on the
  hull of ``--reference``: rates with 95 % intervals, median displacement, drift of the elements;
- structure prediction of ``--csp`` validation compositions with one sample each (``--csp-generate``).

Everything is kept in ``--out``; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.diffusion.process import Process
from crystalsmith.training.labels import Labelled
from crystalsmith.training.loader import make_pass, validation_passes
from crystalsmith.training.objective import LOSSES, VALIDATION_SEED, loss_table, pass_losses
from crystalsmith.training.validation import validate

FIELDS = ("frac_coords_per_atom", "cell_per_atom", "species_nll")
TABLE = Path(__file__).resolve().parents[1] / "docs" / "experiments.csv"
COLUMNS = (
    *("date", "model", "note", "parameters", "hours", "crystals_seen", "generate"),
    *("loss_frac_coords", "loss_cell", "loss_species", "csp_loss_frac_coords", "csp_loss_cell", "loss_bins"),
    *("crystals", "valid", "unique", "novel", "stable_0.1", "sun_0", "sun_0.05", "sun_0.1", "sun_0.1_interval"),
    *("displacement", "unmatched", "elements_js", "p1", "potential", "generation_s", "judging_s"),
    *("csp_compositions", "csp_matched", "csp_interval", "csp_rmse"),
)


def losses(model: str, data: str, crystals: int) -> dict[str, Any]:
    """Losses on fixed noise of the validation split, by field and by part of time."""
    loaded = load_model(model)
    loaded.network.eval()
    kinds = {c.name: c.kind for c in loaded.network.config.conditions}
    dataset = Labelled(CrystalDataset.open(data), kinds)
    passes = validation_passes(dataset, dataset.rows("val"), crystals, 64)
    device = torch.device("cpu")
    free = validate(loaded.denoiser, loaded.process, dataset, passes, 5, device)
    assert free is not None
    row: dict[str, Any] = {
        f"loss_{name.removesuffix('_per_atom').removesuffix('_nll')}": free.mean[name] for name in FIELDS
    }
    row["loss_bins"] = json.dumps({name: [round(part[3][name], 4) for part in free.bins] for name in FIELDS})
    given = given_elements(loaded.denoiser, loaded.process, dataset, passes)
    return row | {"csp_loss_frac_coords": given["frac_coords_per_atom"], "csp_loss_cell": given["cell_per_atom"]}


@torch.no_grad()
def given_elements(denoiser: Any, process: Process, dataset: Labelled, passes: Any) -> dict[str, float]:
    """The same with all elements given."""
    import dataclasses

    sums, count = torch.zeros(len(LOSSES), dtype=torch.float64), 0
    for rows, times in passes:
        one = make_pass(dataset, rows, times, labels=dataset.conditions)
        one = dataclasses.replace(one, t_species=torch.zeros_like(one.t))
        sums += loss_table(pass_losses(denoiser, process, one, VALIDATION_SEED, 0)).sum(1)
        count += len(rows)
    return dict(zip(LOSSES, (sums / count).tolist(), strict=True))


def command(*words: str) -> float:
    """Run a command of crystalsmith; processor seconds of it and its children."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "crystalsmith", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def crystals(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Rates of generated and relaxed crystals."""
    made, judged = out / "crystals", out / "judged"
    row: dict[str, Any] = {"generate": options.generate}
    if not (made / "crystals.csv").exists():
        more = shlex.split(options.generate)
        given = ["--model", options.model, "--num", str(options.num), "--seed", str(options.seed), "--batch-size", "32"]
        row["generation_s"] = round(command("generate", str(made), *given, *more), 1)
    if not (judged / "metrics.json").exists():
        extra = ["--resume"] if judged.exists() else []
        judging = ["--reference", options.reference, "--potential", options.potential, "--jobs", "1"]
        row["judging_s"] = round(command("evaluate", str(made), "--out", str(judged), *judging, *extra), 1)
    found = json.loads((judged / "metrics.json").read_text())
    metrics = found.get("metrics", found)
    row["crystals"], row["potential"] = metrics["requested"], options.potential
    for name in ("valid", "unique", "novel"):
        row[name] = rate(metrics[name])
    row["stable_0.1"] = rate(metrics["stable"]["0.1"])
    for level in ("0", "0.05", "0.1"):
        row[f"sun_{level}"] = rate(metrics["sun"][level])
    row["sun_0.1_interval"] = interval(metrics["sun"]["0.1"])
    row["displacement"], row["unmatched"] = metrics["rmsd"]["median"], metrics["rmsd"]["unmatched"]
    row["elements_js"] = metrics["distributions"]["elements_jensen_shannon"]
    row["p1"] = rate(metrics["diversity"]["in_p1"])
    return row


def prediction(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Match rate of validation compositions at one sample."""
    made, scored = out / "predicted", out / "scored"
    if not (made / "crystals.csv").exists():
        given = ["--compositions", options.data, "--split", "val", "--limit", str(options.csp), "--batch-size", "32"]
        command("generate", str(made), "--model", options.model, *given, *shlex.split(options.csp_generate))
    if not (scored / "score.json").exists():
        command(
            "score", str(made), options.data, "--split", "val", "--samples", "1", "--out", str(scored), "--jobs", "1"
        )
    found = json.loads((scored / "score.json").read_text())
    first = found["at"]["1"] if "at" in found else found
    match = first["match_rate"]
    return {
        "csp_compositions": options.csp,
        "csp_matched": rate(match),
        "csp_interval": interval(match),
        "csp_rmse": first["rmse"]["mean"],
    }


def rate(value: Any) -> float:
    """The rate of an entry of metrics.json."""
    return value["rate"] if isinstance(value, dict) else value


def interval(value: Any) -> str:
    """Its 95 % interval as text."""
    return f"{value['low']:.3f}-{value['high']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="prepared MP-20")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--out", required=True, help="folder for everything that is made")
    parser.add_argument("--note", default="")
    parser.add_argument("--num", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--generate", default="", help="more options of crystalsmith generate")
    parser.add_argument("--csp", type=int, default=100)
    parser.add_argument("--csp-generate", default="", help="more options of the prediction")
    parser.add_argument("--losses", type=int, default=512, help="validation crystals")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((Path(options.model) / "config.json").read_text()) if Path(options.model).is_dir() else {}
    training = config.get("metadata", {}).get("training", {})
    row: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "model": options.model, "note": options.note}
    row["parameters"] = sum(p.numel() for p in load_model(options.model).network.parameters())
    row |= {"hours": training.get("hours"), "crystals_seen": training.get("crystals_seen")}
    if options.losses:
        row |= losses(options.model, options.data, options.losses)
    if options.num:
        row |= crystals(options, out)
    if options.csp:
        row |= prediction(options, out)
    append(options.table, row)
    print(json.dumps(row, indent=1))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the table, which is made with its header if it is not there."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if k in COLUMNS})


if __name__ == "__main__":
    main()
