"""The command line from Python, with the same words: each function returns an object that holds what was made.

Where the command line takes a file of crystals, these take pymatgen structures, ASE atoms or generated crystals as
well. Where it needs a folder for results, these make a temporary one if none is named; it lives as long as the result.
One process does the work unless ``jobs`` says otherwise, as scripts and notebooks do not always survive more.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from crystalsmith.errors import InputError, spoken
from crystalsmith.results import (
    Evaluation,
    FineTuned,
    Known,
    Predictions,
    Prepared,
    Score,
    Scratch,
    Trained,
    TrainedPredictor,
)
from crystalsmith.structures import arrays_of, crystals_of
from crystalsmith.tables import Table

if TYPE_CHECKING:
    import pandas

    from crystalsmith.generation.loaded import GeneratedCrystals
    from crystalsmith.structures import StructureLike

Crystals: TypeAlias = "str | Path | GeneratedCrystals | StructureLike | Sequence[StructureLike]"
"""A file or folder of crystals, or crystals in memory."""


@spoken
def prepare(
    input: Crystals | pandas.DataFrame,
    output: str | Path | None = None,
    *,
    max_atoms: int | None = 20,
    elements: str | Iterable[int] = "published",
    max_energy_above_hull: float | None = 0.1,
    primitive: bool = True,
    primitive_tolerance: float = 0.1,
    niggli: bool = True,
    reference: str | Path | None = None,
    keep_splits: Sequence[str] = ("train", "val", "test"),
    split_fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    label: Sequence[str] | Mapping[str, str] | None = None,
    drop_duplicates: bool = False,
    disorder: str = "refuse",
    jobs: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
    limit: int | None = None,
    name: str = "",
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Turn crystals into a data set for training: ``crystalsmith data prepare``.

    Args:
        input: a file or folder, crystals in memory, or a data frame with a column ``cif`` or ``structure`` and labels.
        output: folder to make; None for a temporary one.
        max_atoms: most atoms in the primitive cell; None for no limit.
        elements: ``"published"`` (76 elements), ``"all"``, a list such as ``"Li,Fe,O"``, or atomic numbers.
        max_energy_above_hull: eV/atom, of rows that carry the label; None for no limit.
        primitive: find the primitive cell.
        primitive_tolerance: angstrom that atoms may be off for a smaller cell to be taken.
        niggli: Niggli-reduce the cell.
        reference: folder of a reference, to compute ``energy_above_hull`` from formation energies.
        keep_splits: keep only these splits.
        split_fractions: shares of train, val and test for rows without a split.
        label: how columns are meant that are not all numbers, ``["gap:number", "class:category"]``.
        drop_duplicates: drop rows whose id or crystal came before.
        disorder: partly occupied sites: ``refuse`` the row, or take the ``largest`` occupancy.
        jobs: worker processes.
        engine: ``local`` or ``ray``.
        ray_address: of the cluster.
        limit: read only so many rows.
        name: of the data set; that of the folder if empty.
        overwrite: replace an earlier data set.
        progress: show a bar.

    Raises:
        InputError: if the input cannot be read, nothing in it can be kept, or the folder exists.
    """
    from crystalsmith.data.prepare import prepare as run
    from crystalsmith.elements import ALLOWED, parse_chemical_system

    scratch = Scratch()
    chosen: Iterable[int] | None
    if isinstance(elements, str):
        chosen = ALLOWED if elements == "published" else None if elements == "all" else parse_chemical_system(elements)
    else:
        chosen = elements
    above = None
    if reference is not None:
        from crystalsmith.evaluation.reference.known import Reference
        from crystalsmith.evaluation.reference.labels import energies_above_hull

        above = functools.partial(energies_above_hull, Reference.open(Path(reference)))
    place = scratch.path / "data" if output is None else Path(output)
    manifest = run(
        _table_file(input, scratch),
        place,
        max_atoms=max_atoms,
        elements=chosen,
        max_energy_above_hull=max_energy_above_hull,
        primitive=primitive,
        primitive_tolerance=primitive_tolerance,
        niggli=niggli,
        keep_splits=list(keep_splits),
        split_fractions=split_fractions,
        drop_duplicates=drop_duplicates,
        jobs=jobs,
        engine=engine,
        ray_address=ray_address,
        limit=limit,
        name=name or None,
        overwrite=overwrite,
        above_hull=above,
        disorder=disorder,
        labels=label,
        progress=progress,
    )
    return Prepared(place, manifest, scratch)


@spoken
def train(
    data: str | Path | Prepared,
    out: str | Path,
    recipe: str | Path | None = None,
    *,
    task: str | None = None,
    base: str | Path | None = None,
    properties: str | Sequence[str] | Mapping[str, str] | None = None,
    reference: str | Path | None = None,
    max_time: str | None = None,
    precision: str | None = None,
    accelerator: str | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    tensorboard: bool = False,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Trained | TrainedPredictor:
    """Train a model, or with ``task="property"`` a predictor: ``crystalsmith train``.

    Args:
        data: a prepared data set.
        out: folder of the run, new or empty unless ``resume``.
        recipe: a recipe of the package (``"mp20-tiny"``) or a YAML file; None for the published hyper-parameters.
        task: ``generate``, ``csp``, ``property`` or ``arrangements``.
        base: start from the weights of this model.
        properties: condition the model on these from the start; for a predictor, the one to predict.
        reference: folder of a reference, to compute ``energy_above_hull`` from.
        max_time: end after this training time, ``"2h"``.
        precision: ``32``, ``tf32`` or ``bf16-mixed``.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: processes on each node.
        num_nodes: nodes.
        tensorboard: write a TensorBoard log as well.
        settings: of the recipe, ``{"data.batch_size": 64}``.
        resume: go on with the run in ``out``.
        quiet: no progress.

    Raises:
        InputError: if something about data, folder, recipe or hardware cannot work.
    """
    from crystalsmith.training.config import load_recipe
    from crystalsmith.training.finetune import parse_properties
    from crystalsmith.training.run import resume_recipe
    from crystalsmith.training.run import train as run

    folder = data.path if isinstance(data, Prepared) else Path(data)
    named = {
        "limits.max_time": max_time,
        "hardware.precision": precision,
        "hardware.accelerator": accelerator,
        "hardware.devices": devices,
        "hardware.num_nodes": num_nodes,
        "output.tensorboard": tensorboard or None,
        "process.task": task if task in ("generate", "csp") else None,
        "base": None if base is None else str(base),
        "conditions.reference": None if reference is None else str(Path(reference).resolve()),
    }
    overrides = [*_assignments(settings), *_assignments({k: v for k, v in named.items() if v is not None})]
    asked = [properties] if isinstance(properties, str) else properties
    if task == "arrangements":
        from crystalsmith.training.arrangements import train_arrangements

        if resume:
            raise InputError(
                f"task='arrangements' takes minutes and cannot be resumed; remove {out} and start it again without "
                "resume."
            )
        if overrides or asked or recipe:
            raise InputError("task='arrangements' takes a minute and no settings; leave the other options out.")
        train_arrangements(folder, Path(out), quiet=quiet)
        return Trained(Path(out), None)
    if task == "property":
        from crystalsmith.training.predictor import property_recipe, train_predictor

        if asked is None or len(asked) != 1:
            raise InputError("A predictor is of one property; give properties='band_gap'.")
        settled = resume_recipe(out, recipe, overrides) if resume else property_recipe(recipe, overrides)
        fitted = train_predictor(folder, out, next(iter(asked)), settled, quiet, resume)
        return TrainedPredictor(Path(out), fitted)
    if asked:
        overrides.append(f"conditions.properties={json.dumps(parse_properties(asked))}")
    wanted = resume_recipe(out, recipe, overrides) if resume else load_recipe(recipe, overrides)
    return Trained(Path(out), run(folder, out, wanted, resume=resume, quiet=quiet))


@spoken
def finetune(
    model: str | Path,
    data: str | Path | Prepared,
    out: str | Path,
    properties: str | Sequence[str] | Mapping[str, str] = (),
    *,
    freeze_base: bool = False,
    dropout: str = "independent",
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    max_time: str | None = None,
    reference: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> FineTuned:
    """Teach a model to follow properties: ``crystalsmith finetune``.

    Args:
        model: a bundled name or a model folder.
        data: a prepared data set, or whatever :func:`prepare` reads, which is then prepared in ``OUT-data``.
        out: folder of the run, new or empty unless ``resume``.
        properties: labels of the data or computed ones, with a kind where it shall not be inferred:
            ``"hardness"``, ``["hardness:log", "density"]`` or ``{"hardness": "log"}``.
        freeze_base: train only the new adapters.
        dropout: how labels are hidden in training: ``independent``, ``joint`` or ``subsets``.
        lr: learning rate.
        epochs: most passes over the data.
        batch_size: crystals a step; None goes by the size of the data.
        patience: validations without a better loss that end the run.
        max_time: end after this training time.
        reference: folder of a reference, to compute ``energy_above_hull`` from.
        settings: of the recipe, ``{"ema.decay": 0.99}``.
        resume: go on with the run in ``out``.
        quiet: no progress.

    Raises:
        InputError: if something cannot work; no label for a property, for example.
    """
    from crystalsmith.training.finetune import finetune as run

    named = {
        "optimizer.lr": lr,
        "limits.max_epochs": epochs,
        "data.batch_size": batch_size,
        "limits.patience": patience,
        "limits.max_time": max_time,
    }
    outcome = run(
        model,
        data.path if isinstance(data, Prepared) else data,
        out,
        properties,
        freeze_base=freeze_base,
        dropout=dropout,
        overrides=[*_assignments(settings), *_assignments({k: v for k, v in named.items() if v is not None})],
        reference=reference,
        resume=resume,
        quiet=quiet,
    )
    return FineTuned(Path(out), outcome)


@spoken
def evaluate(
    structures: Crystals,
    reference: str | Path | Known | None = None,
    *,
    out: str | Path | None = None,
    energies: str | Path | None = None,
    corrections: str | None = None,
    potential: str | None = None,
    relax: bool | None = None,
    energy_scale: str | None = None,
    preset: str = "mattergen",
    fmax: float | None = None,
    steps: int | None = None,
    time_limit: float = 600.0,
    max_volume_change: float = 4.0,
    batch_relax: int | None = None,
    device: str = "auto",
    control: Crystals | None = None,
    require: str | Sequence[str] = (),
    predictor: str | Path | Sequence[str | Path] = (),
    bulk_modulus: bool = False,
    hull: str = "labels",
    hull_limit: int | None = None,
    held_out: Crystals | None = None,
    resume: bool = False,
    jobs: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
    limit: int | None = None,
    disorder: str = "refuse",
    shard: str | None = None,
) -> Evaluation:
    """Judge crystals, valid, unique, novel and stable: ``crystalsmith evaluate``.

    Args:
        structures: crystals in memory, the folder of a run, or any file of crystals.
        reference: of known structures and energies (:func:`reference`), or its folder.
        out: folder for the results; None for a temporary one.
        energies: a table of energies by id.
        corrections: scheme of these energies.
        potential: relax with this one: ``7net-0``, ``7net-l3i5``, ``chgnet`` or ``module:factory``.
        relax: relax first, by 7net-0 if no potential is named.
        energy_scale: of your own potential: ``pbe`` or ``mp2020``.
        preset: relax as others do: ``mattergen`` or ``lemat``.
        fmax: eV/angstrom at which a relaxation has converged; None for that of the preset.
        steps: most steps of a relaxation; None for those of the preset.
        time_limit: seconds for one relaxation.
        max_volume_change: factor of volume beyond which a crystal explodes.
        batch_relax: crystals to relax at once; 0 for one at a time.
        device: for the potential.
        control: crystals made without conditions, held against the same targets.
        require: count crystals that meet this, ``"density 5..7"``.
        predictor: folders of trained predictors.
        bulk_modulus: equations of state by the potential.
        hull: ``labels`` or ``potential``.
        hull_limit: compute at most so many energies for the latter.
        held_out: crystals that the model has not seen: how many the set covers and rediscovers.
        resume: go on with the run in ``out``.
        jobs: worker processes; with the engine ray the most actors, 0 for as many as the cluster has room for.
        engine: ``local`` or ``ray``.
        ray_address: of the cluster.
        limit: judge only the first so many.
        disorder: what becomes of crystals with partly occupied sites: ``refuse`` or ``largest``.
        shard: ``"0/8"`` relaxes this share of the crystals only, within ``out``; when all shares are there, a call
            without it judges them.

    Raises:
        InputError: if an input cannot be used, shards are missing, or energies and reference do not belong together.
    """
    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.evaluation.asked.request import Request
    from crystalsmith.evaluation.asked.requirements import parse_requirement
    from crystalsmith.evaluation.conventions import preset as find_preset
    from crystalsmith.evaluation.run import Options
    from crystalsmith.evaluation.run import evaluate as run
    from crystalsmith.shards import choose_shard

    if relax is False and potential is not None:
        raise InputError("--no-relax and --potential contradict one another; leave one out.")
    wanted = find_preset(preset)
    relaxation = None
    if relax or potential is not None:
        from crystalsmith.evaluation.potential.relaxed import Relaxation
        from crystalsmith.generation.device import choose_device

        place = None if device == "auto" else str(choose_device(device))
        relaxation = Relaxation(
            potential or "7net-0",
            energy_scale,
            wanted.fmax if fmax is None else fmax,
            wanted.steps if steps is None else steps,
            time_limit,
            max_volume_change,
            device=place,
            batch=batch_relax,
            unconverged=wanted.unconverged,
        )
    elif batch_relax is not None or device != "auto":
        raise InputError("--batch-relax and --device are for relaxations; add --potential, as in 7net-0.")
    scratch = Scratch()
    predictors = [predictor] if isinstance(predictor, (str, Path)) else predictor
    request = Request(
        control=None if control is None else _crystal_file(control, scratch, "control"),
        predictors=tuple(load_predictor(folder) for folder in predictors),
        requirements=tuple(parse_requirement(text) for text in ([require] if isinstance(require, str) else require)),
        bulk_modulus=bulk_modulus,
    )
    options = Options(
        reference=None if reference is None else Path(reference.path if isinstance(reference, Known) else reference),
        energies=None if energies is None else Path(energies),
        corrections=corrections,
        relaxation=relaxation,
        resume=resume,
        jobs=jobs,
        engine=engine,
        ray_address=ray_address,
        limit=limit,
        disorder=disorder,
        request=request,
        hull=hull,
        hull_limit=hull_limit,
        held_out=None if held_out is None else _crystal_file(held_out, scratch, "held-out"),
        preset=preset,
        shard=None if shard is None else choose_shard(shard, {}),
    )
    if shard is not None and out is None:
        raise InputError("Shards are joined in one folder; give --out.")
    place_out = scratch.path / "evaluation" if out is None else Path(out)
    metrics = run(_crystal_file(structures, scratch), place_out, options)
    return Evaluation(place_out, metrics, scratch)


@spoken
def score(
    predicted: Crystals,
    truth: Crystals,
    *,
    match_by: str | None = None,
    samples: Sequence[int] | None = None,
    split: str | None = None,
    limit: int | None = None,
    time_limit: float = 60.0,
    disorder: str = "refuse",
    jobs: int = 1,
    out: str | Path | None = None,
) -> Score:
    """Score structure prediction: ``crystalsmith score``.

    Args:
        predicted: predicted crystals.
        truth: the true ones, or a prepared data set.
        match_by: how a prediction finds its target: ``target``, ``name`` or ``formula``.
        samples: numbers of samples to score at; None for 1 and all.
        split: of a prepared data set.
        limit: only the first so many targets.
        time_limit: seconds for one pair of structures.
        disorder: partly occupied sites: ``refuse`` the crystal, or take the ``largest`` occupancy.
        jobs: worker processes.
        out: folder for the results; None for a temporary one.

    Raises:
        InputError: if an input cannot be read, or the two do not belong together.
    """
    from crystalsmith.evaluation.prediction.run import Options, score_files

    scratch = Scratch()
    place = scratch.path / "score" if out is None else Path(out)
    options = Options(match_by, samples, split, limit, jobs, time_limit, disorder)
    files = _crystal_file(predicted, scratch, "predicted"), _crystal_file(truth, scratch, "truth")
    return Score(place, score_files(*files, place, options), scratch)


@spoken
def predict(model: str | Path, structures: Crystals, *, disorder: str = "refuse") -> Predictions:
    """A property of crystals by a trained predictor: ``crystalsmith predict``.

    Args:
        model: a bundled predictor (``"energy-above-hull"``, ``"band-gap"``) or the folder of one
            (``train(..., task="property")``).
        structures: crystals in memory or a file of them.
        disorder: partly occupied sites: ``refuse`` the crystal, or take the ``largest`` occupancy.

    Raises:
        InputError: if the predictor or the crystals cannot be read.
    """
    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.evaluation.prediction.property import predicted_rows
    from crystalsmith.evaluation.structures import read_samples

    predictor, scratch = load_predictor(model), Scratch()
    rows = predicted_rows(predictor, read_samples(_crystal_file(structures, scratch), disorder=disorder))
    return Predictions(predictor.name, predictor.note, Table(rows))


@spoken
def reference(
    input: Crystals | pandas.DataFrame,
    output: str | Path | None = None,
    *,
    also: Sequence[str | Path] = (),
    hull: str | Path | None = None,
    corrections: str | None = None,
    elemental_energies: str | Path | None = None,
    splits: Sequence[str] | None = None,
    name: str = "",
    disorder: str = "refuse",
    jobs: int = 1,
    overwrite: bool = False,
) -> Known:
    """Known structures and energies to judge against: opened, or built by ``crystalsmith reference build``.

    Args:
        input: the folder of a reference, which is opened; or structures, computed entries or a table to index.
        output: folder to make; None for a temporary one.
        also: further structures.
        hull: a table of compositions and formation energies, or computed entries.
        corrections: scheme of the energies: ``mp2020``, ``none`` or a name of yours.
        elemental_energies: JSON of symbol and eV/atom.
        splits: take only these.
        name: of the set; that of the folder if empty.
        disorder: partly occupied sites: ``refuse`` the row, or take the ``largest`` occupancy.
        jobs: worker processes.
        overwrite: replace an earlier reference.

    Raises:
        InputError: if an input cannot be read or the folder exists.
    """
    from crystalsmith.evaluation.reference.build import build_reference
    from crystalsmith.evaluation.reference.known import Reference
    from crystalsmith.evaluation.structures import read_manifest

    if isinstance(input, (str, Path)) and output is None:
        manifest = read_manifest(Path(input))
        if manifest is not None and "hull_entries" in manifest.get("counts", {}):
            return Known(Path(input), Reference.open(Path(input)).manifest, None)
    scratch = Scratch()
    place = scratch.path / "reference" if output is None else Path(output)
    manifest = build_reference(
        [_table_file(input, scratch), *(Path(file) for file in also)],
        place,
        hull=None if hull is None else Path(hull),
        corrections=corrections,
        elemental_energies=None if elemental_energies is None else Path(elemental_energies),
        splits=None if splits is None else list(splits),
        name=name or None,
        disorder=disorder,
        jobs=jobs,
        overwrite=overwrite,
    )
    return Known(place, manifest, scratch)


def _assignments(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as the command line writes them; texts are quoted, so that ``32`` and ``1:00:00`` stay texts."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return [settings] if isinstance(settings, str) else list(settings)


def _crystal_file(crystals: Any, scratch: Scratch, name: str = "crystals") -> Path:
    """A file or folder of the crystals; those in memory are written to the scratch folder."""
    if isinstance(crystals, (str, Path)):
        return Path(crystals)
    if hasattr(crystals, "request") and hasattr(crystals, "save"):  # generated: with its targets
        return Path(crystals.save(scratch.path / name))
    return scratch.write(f"{name}.extxyz", [arrays_of(one) for one in crystals_of(crystals)])


def _table_file(crystals: Any, scratch: Scratch) -> Path:
    """The same, of data frames too: a column ``structure`` becomes one of CIFs."""
    if not hasattr(crystals, "to_csv"):
        return _crystal_file(crystals, scratch)
    from crystalsmith.formats import cif_text

    frame = crystals.copy()
    if "structure" in frame.columns:
        arrays = [arrays_of(one) for one in frame.pop("structure")]
        frame["cif"] = [cif_text(f"row{i}", *one) for i, one in enumerate(arrays)]
    if "cif" not in frame.columns:
        raise InputError("The data frame has neither a column 'structure' nor 'cif'; name one of them so.")
    path = scratch.path / "table.csv"
    frame.to_csv(path, index=False)
    return path
