"""Relaxations shared out among machines: each relaxes its part into a folder of its own, the judging takes them all.

A share is a shard of the crystals in the order of the input (:mod:`crystalsmith.shards`). What it leaves are the files
of every evaluation, so that a joined one goes on from them as ``--resume`` does from those of an earlier run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crystalsmith
from crystalsmith.errors import InputError
from crystalsmith.evaluation.potential import elastic, relaxation
from crystalsmith.evaluation.potential.potentials import find_potential
from crystalsmith.evaluation.potential.relaxed import key_of
from crystalsmith.evaluation.structures import Sample
from crystalsmith.files import join_files, make_folder, replace_text
from crystalsmith.schema import Anything, Flag, Map, Record, Text, read_json
from crystalsmith.shards import FOLDER, Shard, refuse_unfinished, shards_in

if TYPE_CHECKING:
    from crystalsmith.evaluation.potential.relaxed import Relaxation

RECORD = "share.json"

CONTROL = "control"
"""The folder of the control's results, within that of the crystals'."""

_SHAPE = Record({"finished": Flag(), "lineage": Map(Anything()), "command": Text()})


def lineage_of(
    samples: Sequence[Sample], control: Sequence[Sample] | None, settings: Relaxation, bulk_modulus: bool
) -> dict[str, Any]:
    """All that the relaxations follow from, by the words that name it where two shares differ."""
    potential = find_potential(settings.potential, settings.energy_scale)
    facts = {
        "input": [_hash(samples), None if control is None else _hash(control)],
        "way of relaxing": relaxation.identity(settings),
        "--bulk-modulus": bulk_modulus,
        "version of the potential": potential.version,
        "version of crystalsmith": crystalsmith.__version__,
    }
    return dict(json.loads(json.dumps(facts)))  # as it comes back from a file


def begin_share(out: Path, shard: Shard, lineage: Mapping[str, Any], command: str) -> bool:
    """Begin a share in its folder, whose lock is held, or go on with it; False if it is finished.

    Raises:
        InputError: if what is there is no share, or one of something else.
    """
    place = shard.folder(out)
    if (place / RECORD).is_file():
        known = _read(place)
        _refuse_others(out, {shard: known["lineage"]}, lineage)
        return not known["finished"]
    if (out / relaxation.FILE).exists():
        raise InputError(
            f"{out} holds the relaxations of a whole evaluation already; go on with it by --resume, or choose another "
            "--out for shards."
        )
    make_folder(place)
    _write(place, lineage, command, finished=False)
    return True


def finish_share(out: Path, shard: Shard, lineage: Mapping[str, Any], command: str) -> None:
    """Say that all of a share is there."""
    _write(shard.folder(out), lineage, command, finished=True)


def join_shares(out: Path, lineage: Mapping[str, Any] | None, command: str) -> bool:
    """Put the results of all shares in ``out`` where those of one evaluation stand; False if there are no shares.

    Killed at any moment, it can be done again: the shares are removed by whoever has used them.

    Args:
        lineage: what the evaluation asks for; None if no relaxations.
        command: makes a share, but for ``--shard``; for shares that do not say it.

    Raises:
        InputError: if shares are missing, unfinished or of something else.
    """
    shares = shards_in(out, RECORD)
    if not shares:
        return False
    if lineage is None:
        raise InputError(
            f"{out} holds relaxations made in shards; judge them with the --potential that made them, or choose "
            "another --out."
        )
    known = {shard: _read(place) for shard, place in shares}
    _refuse_others(out, {shard: facts["lineage"] for shard, facts in known.items()}, lineage)
    done = {shard.k for shard, facts in known.items() if facts["finished"]}
    refuse_unfinished(shares[0][0].n, done, next(iter(known.values()))["command"] or command)
    for folder in ("", CONTROL):
        for name, headed in ((relaxation.FILE, True), (elastic.FILE, False)):
            parts = [part for _, place in shares if (part := place / folder / name).is_file()]
            if parts:
                make_folder(out / folder)
                join_files(parts, out / folder / name, headed)
    return True


def remove_shares(out: Path) -> None:
    """Remove the shares that were joined."""
    import shutil

    shutil.rmtree(out / FOLDER, ignore_errors=True)


def _refuse_others(out: Path, found: Mapping[Shard, Mapping[str, Any]], wanted: Mapping[str, Any]) -> None:
    for shard, lineage in found.items():
        if changed := [name for name in wanted if lineage.get(name) != wanted[name]]:
            raise InputError(
                f"Shard {shard} in {out} was made with another {' and '.join(changed)}; ask for the same, or remove "
                f"{shard.folder(out)} and make it again."
            )


def _read(place: Path) -> dict[str, Any]:
    return dict(read_json(place / RECORD, _SHAPE, f"remove {place} and make the shard again"))


def _write(place: Path, lineage: Mapping[str, Any], command: str, finished: bool) -> None:
    record = {"finished": finished, "lineage": lineage, "command": command}
    replace_text(place / RECORD, json.dumps(record, indent=1) + "\n")


def _hash(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.id}\n{key_of(sample.arrays)}\n".encode())
    return digest.hexdigest()[:16]
