"""Fine-tuning: a model learns to follow properties, by adapters that start from nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from crystalsmith.data.computed import COMPUTED
from crystalsmith.data.info import column_sentences
from crystalsmith.errors import InputError
from crystalsmith.properties import PROPERTIES, canonical_name
from crystalsmith.training.config import Recipe, load_recipe
from crystalsmith.training.labels import kind_of, split_kind
from crystalsmith.training.loop import Outcome

PUBLISHED_LR, SMALL_LR = 5e-6, 1e-4
"""Learning rates: the published one for networks of the published width (512), and that of narrower ones, ours."""

DEFAULTS: dict[str, Any] = {"max_epochs": 200, "every_epochs": 5, "patience": 10}
"""Published length and rhythm (spec 7); the run ends early after ``patience`` validations without a better loss."""


FEW_UPDATES = 1000
"""Updates below which a new property is hardly followed: of 250 crystals with default settings, asked for 15 g/cm3, the
mean came to 6.9 after one step an epoch and to 11.5 after 467 updates."""

SMALLEST_BATCH, LARGEST_BATCH, STEPS_AN_EPOCH = 8, 512, 16


def finetune(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    properties: Sequence[str] | Mapping[str, str],
    *,
    freeze_base: bool = False,
    dropout: str = "independent",
    overrides: Sequence[str] = (),
    reference: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Fine-tune a model on properties, so that it can be asked for them.

    Args:
        model: a bundled name or a model folder.
        data: a prepared data set, or whatever ``data prepare`` reads, which is then prepared in ``OUT-data``.
        out: folder of the run; ``out/best`` is the model.
        properties: names, each with its kind after a colon where it shall not be inferred (``"hardness:log"``).
        freeze_base: train only the adapters.
        dropout: ``independent``, ``joint`` or ``subsets`` (see ``training.labels.drop``).
        overrides: ``section.key=value`` settings of the recipe.
        reference: folder of a reference set: ``energy_above_hull`` is then computed from the formation energies of
            the data and its hull.
        resume: go on with the run in ``out``; data are the prepared ones then.
        quiet: no progress.

    Raises:
        InputError: if something cannot work; no label for a property, for example.
    """
    from crystalsmith.training.run import resume_recipe, train

    if resume:
        return train(data, out, resume_recipe(out, None, list(overrides)), resume=True, quiet=quiet)
    if isinstance(properties, str):
        properties = [properties]
    parse_properties(properties, known := _known_labels(Path(data)))
    refuse_bad_folder(Path(out))
    folder = _prepared(Path(data), Path(out), quiet)
    wanted = parse_properties(properties, known or _known_labels(folder))
    if reference is not None:
        overrides = [f"conditions.reference={json.dumps(str(Path(reference).resolve()))}", *overrides]
    recipe = finetune_recipe(model, folder, Path(out).name, wanted, freeze_base, dropout, overrides)
    outcome = train(folder, out, recipe, quiet=quiet)
    if outcome.step < FEW_UPDATES and not outcome.interrupted and outcome.rank == 0:
        print(
            f"Warning: {outcome.step:,} updates are few; below {FEW_UPDATES:,} targets are hardly followed. "
            "Train longer (more epochs or time, more patience), with smaller batches, or on more data.",
            file=sys.stderr,
        )
    return outcome


def batch_for(crystals: int) -> int:
    """Crystals a step for so many to train on: a power of two that gives 16 steps an epoch or more, from 8 to 512."""
    batch = LARGEST_BATCH
    while batch > SMALLEST_BATCH and batch * STEPS_AN_EPOCH > crystals:
        batch //= 2
    return batch


def parse_properties(properties: Sequence[str] | Mapping[str, str], labels: Collection[str] = ()) -> dict[str, str]:
    """Our names and kinds of the properties asked for; the kind is empty where only the data can tell it.

    Args:
        properties: names, each with its kind after a colon, or a mapping from one to the other.
        labels: names that the data have, which may hold colons themselves.

    Raises:
        InputError: if there is none, one is named twice, or a kind does not exist.
    """
    if isinstance(properties, Mapping):
        pairs = list(properties.items())
    else:
        pairs = [split_kind(text, labels) for text in properties]
    found: dict[str, str] = {}
    for name, kind in pairs:
        own = canonical_name(name)
        if not own:
            raise InputError("--property has no name; write for example --property band_gap.")
        if own in found:
            raise InputError(f"--property {name} is given twice; give it once.")
        found[own] = kind_of(own, kind.strip()) if kind.strip() or own in PROPERTIES else ""
    if not found:
        raise InputError("Fine-tuning needs a property to follow; give for example --property band_gap.")
    return found


def finetune_recipe(
    model: str | Path,
    data: Path,
    name: str,
    wanted: Mapping[str, str],
    freeze_base: bool,
    dropout: str,
    overrides: Sequence[str],
) -> Recipe:
    """The recipe of a fine-tuning run.

    What the model already follows is trained further where the data have its labels, so that it is not forgotten.
    """
    from crystalsmith.checkpoints.find import find_model
    from crystalsmith.checkpoints.model import Model
    from crystalsmith.checkpoints.store import read_config
    from crystalsmith.data.dataset import read_manifest

    folder = find_model(model)
    base = Model.from_config(read_config(folder), empty=True)
    manifest = read_manifest(data)
    labels = manifest["labels"]
    properties = {name: kind_of(name, kind, manifest) for name, kind in wanted.items()}
    for condition in base.network.config.conditions:
        if condition.name in properties and properties[condition.name] != condition.kind:
            raise InputError(
                f"The model knows {condition.name} as {condition.kind} already; leave out the kind or use another base."
            )
        if condition.name in labels or condition.name in COMPUTED or condition.kind == "elements":
            properties.setdefault(condition.name, condition.kind)
    settings = {
        "name": name,
        "base": str(model) if str(model) == folder.name else str(folder.resolve()),
        "freeze_base": freeze_base,
        "optimizer.lr": PUBLISHED_LR if base.network.config.width >= 512 else SMALL_LR,
        "data.batch_size": batch_for(int(manifest.get("counts", {}).get("train", LARGEST_BATCH * STEPS_AN_EPOCH))),
        "limits.max_epochs": DEFAULTS["max_epochs"],
        "limits.patience": DEFAULTS["patience"],
        "validation.every_epochs": DEFAULTS["every_epochs"],
        "conditions.place": "adapter",
        "conditions.dropout": dropout,
        "conditions.properties": properties,
    }
    return load_recipe(None, [*(f"{key}={json.dumps(value)}" for key, value in settings.items()), *overrides])


def refuse_bad_folder(out: Path) -> None:
    """Raise an ``InputError`` if the folder of a new run holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; continue its run with --resume or choose a new folder.")


def _known_labels(data: Path) -> tuple[str, ...]:
    """The labels of a prepared data set; none of anything else."""
    from crystalsmith.data.dataset import read_manifest

    return tuple(read_manifest(data)["labels"]) if (data / "manifest.json").is_file() else ()


def _prepared(data: Path, out: Path, quiet: bool) -> Path:
    """The prepared data set; raw data are prepared first."""
    if (data / "manifest.json").is_file():
        return data
    folder = out.with_name(out.name + "-data")
    if (folder / "manifest.json").is_file():
        raise InputError(f"{folder} holds prepared data already; give it as DATA, or remove it.")
    from crystalsmith.data.prepare import prepare

    manifest = prepare(data, folder, progress=not quiet)
    if not quiet:
        counts = manifest["counts"]
        why = ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items())
        lost = f" (left out: {why}; see {folder / 'ledger.csv'})" if why else ""
        print(f"Prepared {counts['kept']:,} of {counts['rows']:,} rows in {folder}{lost}.", file=sys.stderr)
        for line in column_sentences(manifest):
            print(line, file=sys.stderr)
    return folder
