"""Published MatterGen checkpoints: found, read safely, and turned into a model of ours that is the same function.

The only place that reads ``.ckpt`` files; with ``weights_only=True``, so that nothing in them is executed, and never
otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crystalsmith.checkpoints.card import import_card
from crystalsmith.checkpoints.model import Model, ModelMetadata
from crystalsmith.checkpoints.published.ckpt_file import locate, read_checkpoint
from crystalsmith.checkpoints.published.config import PublishedConfig, read_published_config
from crystalsmith.checkpoints.published.layout import PublishedTensor, count_parameters, published_layout
from crystalsmith.checkpoints.published.names import PREFIX, published_name
from crystalsmith.checkpoints.store import write_model, write_tensors
from crystalsmith.diffusion.process import Process
from crystalsmith.errors import InputError
from crystalsmith.files import replacing_folder, sha256_of
from crystalsmith.locks import locked
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.layers import empty_weights

EXTRA = "published_extra.safetensors"
"""File beside an imported model that keeps the tensors which reach no output, for an export that loses nothing."""


@dataclass(frozen=True)
class ImportReport:
    """What an imported model is.

    Attributes:
        name: of the model.
        folder: where it was written.
        source: folder or hub address that it came from.
        parameters: as the published code counts them.
        parameters_used: without the energy heads, which reach no output.
        conditions: by property: kind, place, and the mean and spread of its training labels where they are stored.
        cutoff: angstrom.
        max_neighbors: per atom.
        edge_rule: which neighbours become edges.
        origin: further facts (checkpoint file, its SHA-256, epoch, revision on the hub).
    """

    name: str
    folder: str
    source: str
    parameters: int
    parameters_used: int
    conditions: dict[str, dict[str, Any]]
    cutoff: float
    max_neighbors: int
    edge_rule: str
    origin: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a model of ours.

    Attributes:
        model: float32, in evaluation mode.
        extra: tensors that reach no output, by published name.
        config: what ``config.yaml`` said.
    """

    model: Model
    extra: dict[str, Tensor]
    config: PublishedConfig


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    checkpoint: str = "last",
    licence: str = "as its authors say",
) -> ImportReport:
    """Write a published model folder as a model of ours; ``out`` appears whole or not at all.

    Args:
        source: folder with ``config.yaml`` and ``checkpoints/*.ckpt``.
        out: folder to make; it must not exist, or be empty.
        name: of the model; the name of ``source`` by default.
        checkpoint: "last", "best" (lowest validation loss) or the name of a file.
        licence: of the weights.

    Raises:
        InputError: if the source is not a published model, is unsafe or damaged, or ``out`` is taken.
    """
    check_free(Path(out))
    config_path, path = locate(Path(source), checkpoint)
    name = name or Path(os.path.abspath(source)).name
    return import_published(config_path, path, Path(out), name=name, origin={"source": str(source)}, licence=licence)


def import_published(
    config_path: Path, path: Path, out: Path, *, name: str, origin: Mapping[str, Any], licence: str, wait: float = 0.0
) -> ImportReport:
    """As :func:`import_model`, from the two files themselves.

    Args:
        origin: says under "source" where they came from.
        wait: seconds to wait for another process that imports into the same folder.
    """
    with locked(out, "crystalsmith models import", beside=True, wait=wait):
        check_free(out)
        return _imported(config_path, path, out, name, origin, licence)


def _imported(
    config_path: Path, path: Path, out: Path, name: str, origin: Mapping[str, Any], licence: str
) -> ImportReport:
    imported, facts = load_published(config_path, path)
    facts |= origin
    source = str(facts.pop("source"))
    report = _report(imported, name, str(out), source, facts)
    model = imported.model
    model.metadata = ModelMetadata(
        name=name,
        sampling={"solver": "predictor_corrector", "steps": 1000},
        training={"source": source, **_known(report)},
        licence=licence,
    )
    _write_folder(model, imported.extra, import_card(report.to_dict(), licence), out)
    return report


def load_published(config_path: Path, path: Path) -> tuple[Imported, dict[str, Any]]:
    """Read ``config.yaml`` and a checkpoint; also returns what the checkpoint says of its training.

    Raises:
        InputError: naming the tensor that is missing, extra, misshapen or damaged, or what else is wrong.
    """
    config = read_published_config(config_path)
    data = read_checkpoint(path)
    model, extra = convert(config, data["state_dict"], str(path))
    facts = {key: data[key] for key in ("epoch", "global_step") if isinstance(data.get(key), int)}
    return Imported(model, extra, config), {"checkpoint": path.name, "checkpoint_sha256": sha256_of(path), **facts}


def convert(config: PublishedConfig, state: Any, where: str) -> tuple[Model, dict[str, Tensor]]:
    """A model of ours and the tensors left over, from a published ``state_dict``.

    Raises:
        InputError: naming the tensor that is missing, extra, misshapen or damaged.
    """
    layout = stored_layout(config)
    published = _check_published(layout, state, where)
    with empty_weights():
        network = GemNetDenoiser(config.network)
    names = our_names(config.network, network)
    ours = {}
    for name, like in network.state_dict().items():
        theirs = names[name]
        if theirs in published:
            ours[name] = published[theirs]
        else:  # an unscaled property: the buffers that leave it as it is
            ours[name] = torch.ones(like.shape) if name.endswith("std") else torch.zeros(like.shape)
    network.load_state_dict(ours, assign=True)
    network.eval()
    used = set(names.values())
    extra = {n: published[n] for n, t in layout.items() if n not in used and t.copy_of is None}
    return Model(network, Process(config.process)), extra


def our_names(config: DenoiserConfig, network: GemNetDenoiser) -> dict[str, str]:
    """Our name of every tensor of the network -> the published one, both without prefix."""
    base = frozenset(c.name for c in config.conditions if c.place == "base")
    names = {name: published_name(name, base) for name in network.state_dict()}
    if strangers := sorted(ours for ours, theirs in names.items() if theirs is None):
        raise InputError(f"The published network has no counterpart of '{strangers[0]}'.")
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def stored_layout(config: PublishedConfig) -> dict[str, PublishedTensor]:
    """The tensors that a checkpoint of this configuration holds, by name without prefix."""
    layout = published_layout(config.network)
    for condition in config.network.conditions:
        if condition.kind in ("scalar", "log") and condition.name not in config.scaled:
            layout = {n: t for n, t in layout.items() if not n.split(".", 1)[1].startswith(f"{condition.name}.scaler.")}
    return layout


def _check_published(layout: dict[str, PublishedTensor], state: Any, where: str) -> dict[str, Tensor]:
    """The tensors by name without prefix, as float32 copies of their own; duplicates only compared."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{where} holds no table of tensors under 'state_dict'; it is no published checkpoint.")
    given = {name.removeprefix(PREFIX): value for name, value in state.items()}
    strangers = sorted(name for name in state if name.removeprefix(PREFIX) not in layout or not name.startswith(PREFIX))
    if missing := [name for name in layout if name not in given]:
        rest = f" ({len(missing)} missing)" if len(missing) > 1 else ""
        raise InputError(f"{where} lacks the tensor '{PREFIX}{missing[0]}'{rest}; it does not fit its config.yaml.")
    if strangers:
        rest = f" ({len(strangers)} extra)" if len(strangers) > 1 else ""
        raise InputError(f"{where} holds the unknown tensor '{strangers[0]}'{rest}; it does not fit its config.yaml.")
    published: dict[str, Tensor] = {}
    for name, spec in layout.items():
        value = given[name]
        title = f"{where}: the tensor '{PREFIX}{name}'"
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise InputError(f"{title} is not an array of real numbers; the file is damaged.")
        if tuple(value.shape) != spec.shape:
            raise InputError(f"{title} has shape {tuple(value.shape)}, not {spec.shape}; it is of another model.")
        if spec.copy_of is not None:
            if not torch.equal(value.float(), published[spec.copy_of]):
                raise InputError(f"{title} differs from '{PREFIX}{spec.copy_of}', its other name; the file is damaged.")
            continue
        value = value.detach().to(torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{title} holds numbers that are not finite; the file is damaged.")
        published[name] = value
    return published


def check_free(out: Path) -> None:
    """Refuse a folder that is taken.

    Raises:
        InputError: if ``out`` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and is not empty; give another folder or remove it first.")


def _report(imported: Imported, name: str, folder: str, source: str, facts: dict[str, Any]) -> ImportReport:
    network = imported.config.network
    state = imported.model.network.state_dict()
    conditions: dict[str, dict[str, Any]] = {}
    for condition in network.conditions:
        entry: dict[str, Any] = {"kind": condition.kind, "place": condition.place}
        if condition.name in imported.config.scaled:
            entry["mean"] = float(state[f"properties.{condition.name}.mean"])
            entry["std"] = float(state[f"properties.{condition.name}.std"])
        conditions[condition.name] = entry
    total, used = count_parameters(published_layout(network).values())
    gemnet = network.gemnet
    return ImportReport(
        name, folder, source, total, used, conditions, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule, facts
    )


def _known(report: ImportReport) -> dict[str, Any]:
    """What the metadata keeps of the report."""
    return {
        "format": "mattergen",
        "parameters_published": report.parameters,
        "parameters_used": report.parameters_used,
        "conditions": report.conditions,
        **json.loads(json.dumps(report.origin)),
    }


def _write_folder(model: Model, extra: dict[str, Tensor], card: str, out: Path) -> None:
    with replacing_folder(out) as new:
        write_model(model, new, card)
        write_tensors(new / EXTRA, extra, {"format": "pt"})
