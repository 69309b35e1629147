"""Shards into one folder: the one that an unsharded run writes."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError
from crystalsmith.files import join_files, link_or_copy
from crystalsmith.generation.folder import NAMED, OutputFolder, add_batch
from crystalsmith.locks import locked
from crystalsmith.shards import FOLDER, Shard, refuse_unfinished, shards_in

_UNFINISHED = "merging"


def merge(out: Path, keep_shards: bool = False) -> dict[str, Any]:
    """Join the shards in ``out`` into the folder of one run, and remove them.

    Killed at any moment, it can be run again: the shards go last.

    Returns:
        The manifest.

    Raises:
        InputError: if shards are missing, unfinished, or of different runs; the sentence names the commands to type.
    """
    if not out.is_dir():
        raise InputError(f"There is no folder {out}; give the one that generate --shard wrote.")
    with locked(out, "crystalsmith merge"):
        return _merge(out, keep_shards)


def _merge(out: Path, keep_shards: bool) -> dict[str, Any]:
    if (out / "manifest.json").is_file():
        manifest = OutputFolder.open(out).manifest
        if manifest.get("status") != _UNFINISHED:
            if not (out / FOLDER).is_dir():
                raise InputError(f"{out} holds no shards; it is the folder of one run already.")
            if manifest.get("merged") is None:
                raise InputError(f"{out} holds a run of its own beside shards; move one of them to another folder.")
            if not keep_shards:
                shutil.rmtree(out / FOLDER)
            return manifest
    shards = _shards(out)
    _check(out, shards)
    merged = _write(out, [folder for _, folder in shards])
    if not keep_shards:
        shutil.rmtree(out / FOLDER)
    return merged


def _shards(out: Path) -> list[tuple[Shard, OutputFolder]]:
    """The shards that there are, in order."""
    found = [(shard, OutputFolder.open(place)) for shard, place in shards_in(out, "manifest.json")]
    if not found:
        raise InputError(f"{out} holds no shards; make them with: crystalsmith generate {out} --num N --shard 0/n")
    return found


_NEEDED = ("span", "lineage", "created", "failed")


def _check(out: Path, shards: Sequence[tuple[Shard, OutputFolder]]) -> None:
    """Refuse what is not one whole run."""
    lineages: dict[Any, Shard] = {}
    for shard, folder in shards:
        if lost := [name for name in _NEEDED if name not in folder.manifest]:
            raise InputError(
                f"{folder.path / 'manifest.json'} is damaged: it has no {lost[0]}; remove {folder.path} and make the "
                "shard again."
            )
        lineages.setdefault(folder.manifest.get("lineage"), shard)
    if len(lineages) > 1:
        one, other, *_ = lineages.values()
        raise InputError(
            f"Shards {one} and {other} in {out} were made by another model, with other settings or other versions; "
            "make one of them again with what made the other."
        )
    done = {shard.k for shard, folder in shards if folder.manifest.get("status") == "complete"}
    command = shards[0][1].manifest.get("command") or f"crystalsmith generate {shlex.quote(str(out))} ..."
    refuse_unfinished(shards[0][0].n, done, command)
    stop = 0
    for shard, folder in shards:
        first, last = folder.manifest["span"]
        if first != stop or not folder.holds(last):
            raise InputError(
                f"Shard {shard} in {out} does not hold its crystals {first} to {last - 1} in full; remove "
                f"{folder.path} and make it again."
            )
        stop = last


def _write(out: Path, folders: Sequence[OutputFolder]) -> dict[str, Any]:
    manifest = {
        key: value
        for key, value in folders[0].manifest.items()
        if key not in ("span", "command", "batches", "failed", "counts", "sessions", "status")
    }
    manifest |= {"batches": [], "failed": [], "counts": {}, "sessions": [], "merged": len(folders)}
    for folder in folders:
        part = folder.manifest
        for batch in part["batches"]:
            add_batch(manifest["batches"], list(batch))
        manifest["failed"] = [*manifest["failed"], *part["failed"]][:NAMED]
        manifest["sessions"] += part.get("sessions", [])
        for name, count in part["counts"].items():
            manifest["counts"][name] = manifest["counts"].get(name, 0) + count
        manifest["created"] = min(manifest["created"], part["created"])
    whole = OutputFolder(out, manifest)
    whole.update(status=_UNFINISHED)
    for name in ("cif", "trajectories"):
        for folder in folders:
            _link_all(folder.path / name, out / name)
    join_files([folder.geometries for folder in folders], whole.geometries, headed=False)
    join_files([folder.table for folder in folders], whole.table, headed=True)
    whole.update(status="complete")
    return whole.manifest


def _link_all(source: Path, target: Path) -> None:
    """Every file of a folder in another one too, without a copy where the disk allows that."""
    if not source.is_dir():
        return
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        place = target / file.name
        if place.exists():
            continue
        link_or_copy(file, place)
