"""A scoring of structure prediction from files to files."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crystalsmith
from crystalsmith.data.dataset import FORMAT as DATASET
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.facts import reduced_formula
from crystalsmith.evaluation.prediction.score import SETTINGS, Scored, assign, same_formula, score, summarise
from crystalsmith.evaluation.report.results import csv_text, finite, percent, rounded
from crystalsmith.evaluation.structures import Sample, read_manifest, read_samples
from crystalsmith.files import replace_text
from crystalsmith.progress import metered

FORMAT = "crystalsmith-score-1"
COLUMNS = (
    *("id", "formula", "num_atoms", "samples", "not_generated", "other_formula"),
    *("rmse_1", "rmse", "first_match", "matching_samples", "best", "metre_rmse", "metre_best", "unfinished"),
)
"""Columns of ``targets.csv``; displacements are normalised, empty where nothing matches."""


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        rule: how predictions find their targets; None finds out (``prediction.assign``).
        samples: numbers of samples to score at; None: 1 and all.
        split: of a prepared data set as truth; None: those the run was asked for, or test.
        limit: only the first so many targets.
        jobs: worker processes.
        time_limit: seconds for one pair.
        disorder: what becomes of partly occupied sites (:func:`crystalsmith.data.readers.open_source`).
    """

    rule: str | None = None
    samples: Sequence[int] | None = None
    split: str | None = None
    limit: int | None = None
    jobs: int = 1
    time_limit: float = 60.0
    disorder: str = "refuse"


def score_files(predicted: Path, truth: Path, out: Path, options: Options) -> dict[str, Any]:
    """Score predictions against true structures and write ``score.json`` and ``targets.csv`` to a folder.

    Targets without a prediction count as not found. A run of ``generate --compositions`` says which targets it was
    asked for; of TRUTH only these are taken, in the order of TRUTH.

    Returns:
        What ``score.json`` holds.

    Raises:
        InputError: if an input cannot be read, the two do not belong together, or the disk does not take the results.
    """
    began = time.perf_counter()
    made = read_samples(predicted, disorder=options.disorder)
    asked = asked_for(predicted)
    targets = _with_structure(read_truth(truth, options.split, asked, options.disorder), truth)[: options.limit]
    rule, made_for = assign(made, targets, options.rule)
    most = max(len(numbers) for numbers in made_for)
    samples = sorted({1, most} if options.samples is None else {k for k in options.samples if k <= most} or {most})
    pairs = same_formula(made, targets)
    with metered("Matching", len(pairs), "pairs") as tell:
        scored = score(made, targets, made_for, engine=Engine(options.jobs), time_limit=options.time_limit, tell=tell)
    used = {number for numbers in made_for for number in numbers}
    result = {
        "format": FORMAT,
        "run": {
            "predicted": str(predicted),
            "truth": str(truth),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "matched_by": rule,
            "matcher": SETTINGS,
            "time_limit": options.time_limit,
            "crystalsmith": crystalsmith.__version__,
        },
        "targets": len(targets),
        "targets_without_prediction": sum(not numbers for numbers in made_for),
        "predictions": len(made),
        "predictions_without_target": len(made) - len(used),
        "predictions_not_generated": sum(bool(made[number].failure) for number in used),
        "predictions_of_other_formula": sum(_other_formula(made, one) for one in scored),
        "samples": {"least": min(map(len, made_for)), "most": most},
        "pairs": len(pairs),
        "pairs_unfinished": sum(len(one.unfinished) for one in scored),
        "at": summarise(scored, samples),
        "seconds": round(time.perf_counter() - began, 3),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {out} cannot be made ({error.strerror}); choose another with --out.") from None
    rows = [[rounded(value) for value in _row(made, one)] for one in scored]
    replace_text(out / "targets.csv", csv_text([COLUMNS, *rows]))
    replace_text(out / "score.json", json.dumps(finite(result), indent=1) + "\n")
    return result


def asked_for(predicted: Path) -> set[str] | None:
    """The ids of the targets that a generation run was asked for; None where it does not say."""
    compositions = (read_manifest(predicted) or {}).get("settings", {}).get("compositions")
    return set(compositions["ids"]) if isinstance(compositions, Mapping) else None


def read_truth(path: Path, split: str | None, asked: set[str] | None, disorder: str = "refuse") -> list[Sample]:
    """The true structures: those of a prepared data set or of any other input, of those asked for if that is known.

    Raises:
        InputError: if there is no such input, or none of its structures was asked for.
    """
    manifest = read_manifest(path)
    if manifest is not None and manifest.get("format") == DATASET:
        dataset = CrystalDataset.open(path)
        rows = dataset.rows(split or (None if asked is not None else "test"))
        ids = [str(name.decode() if isinstance(name, bytes) else name) for name in dataset.ids[rows]]
        kept = [k for k, name in enumerate(ids) if asked is None or name in asked]
        crystals = dataset.batch(rows[kept]).crystals() if kept else []
        found = [Sample(ids[k], *crystal) for k, crystal in zip(kept, crystals, strict=True)]
    elif split is not None:
        raise InputError(f"--split chooses rows of a prepared data set, and {path} is none; leave it out.")
    else:
        found = [sample for sample in read_samples(path, disorder=disorder) if asked is None or sample.id in asked]
    if not found:
        what = "was asked for in the run" if asked is not None else "is in that split"
        raise InputError(f"No structure of {path} {what}; check that the two belong together.")
    return found


def sentences(result: Mapping[str, Any]) -> str:
    """The result for the terminal."""
    rules = {"target": "the column 'target'", "name": "their names", "formula": "reduced formula"}
    lines = [
        f"{result['targets']} targets and {result['predictions']} predictions, matched by "
        f"{rules[result['run']['matched_by']]}; {_range(result['samples'])} samples per target."
    ]
    for name, text in (
        ("targets_without_prediction", "targets have no prediction and count as not found"),
        ("predictions_without_target", "predictions belong to no target and are left out"),
        ("predictions_not_generated", "predictions failed and match nothing"),
        ("predictions_of_other_formula", "predictions have another formula than their target and match nothing"),
        ("pairs_unfinished", "pairs were not decided in time and count as no match"),
    ):
        if result[name]:
            lines.append(f"{result[name]} {text}.")
    for k, found in result["at"].items():
        lines.append(f"At {k} sample{'s' if k != '1' else ''}: {_said(found)}.")
        lines.append(f"  METRe (all samples of the composition): {_said(found['metre'])}.")
    return "\n".join(lines)


def _said(found: Mapping[str, Any]) -> str:
    errors = [
        f"{name} {found[key]['mean']:.4f} ({found[key]['low']:.4f} to {found[key]['high']:.4f})"
        for name, key in (("RMSE", "rmse"), ("cRMSE", "crmse"))
        if found[key]["of"]
    ]
    return ", ".join([f"match rate {percent(found['match_rate'])}", *errors])


def _range(samples: Mapping[str, int]) -> str:
    low, high = samples["least"], samples["most"]
    return str(low) if low == high else f"{low} to {high}"


def _with_structure(truth: Sequence[Sample], path: Path) -> list[Sample]:
    bad = next((sample for sample in truth if sample.failure), None)
    if bad is not None:
        reason = bad.failure.replace("_", " ")
        raise InputError(
            f"{path}: the structure {bad.id} cannot be used ({reason}: {bad.detail}); mend it or leave it out."
        )
    return list(truth)


def _other_formula(made: Sequence[Sample], one: Scored) -> int:
    formula = reduced_formula(one.target.numbers)
    return sum(not made[n].failure and reduced_formula(made[n].numbers) != formula for n in one.made_for)


def _row(made: Sequence[Sample], one: Scored) -> list[Any]:
    def best(numbers: Sequence[int]) -> str | None:
        matching = [n for n in numbers if n in one.distances]
        return made[min(matching, key=one.distances.__getitem__)].id if matching else None

    own, anyone = one.made_for, list(one.distances)
    return [
        one.target.id,
        reduced_formula(one.target.numbers),
        len(one.target.numbers),
        len(own),
        sum(bool(made[n].failure) for n in own),
        _other_formula(made, one),
        one.least(own[:1]),
        one.least(own),
        one.first_match(),
        sum(n in one.distances for n in own),
        best(own),
        one.least(anyone),
        best(anyone),
        len(one.unfinished),
    ]
