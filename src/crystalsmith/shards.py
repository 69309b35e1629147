"""Shares of a run for machines that do not know of one another: which crystals, which folder, which are missing."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError

FOLDER = "shards"

NO_SHARD = "none"
"""Asks for the whole run, also within a SLURM array."""


@dataclass(frozen=True)
class Shard:
    """Shard ``k`` of ``n``, ``k`` from 0 to ``n - 1``."""

    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"

    def span(self, num: int, batch_size: int) -> range:
        """Its crystals of ``num``: whole batches, one after another, as many as the others have or one more."""
        batches = -(-num // batch_size)
        first, last = self.k * batches // self.n, (self.k + 1) * batches // self.n
        return range(min(first * batch_size, num), min(last * batch_size, num))

    def folder(self, out: Path) -> Path:
        """Where it writes."""
        return out / FOLDER / f"{self.k}-of-{self.n}"


def parse_shard(text: str) -> Shard:
    """The shard that ``k/n`` names.

    Raises:
        InputError: if it is no such pair.
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    if not found:
        raise InputError(f"--shard {text!r} is not k/n; write for example --shard 0/8, the first of eight.")
    k, n = int(found[1]), int(found[2])
    if not 0 <= k < n:
        last = f"they are 0/{n} to {n - 1}/{n}" if n else "n is at least 1"
        raise InputError(f"--shard {text} does not exist; shards count from 0: {last}.")
    return Shard(k, n)


def choose_shard(text: str | None, environment: Mapping[str, str]) -> Shard | None:
    """The shard asked for; where none is, that of the task of a SLURM array; None for the whole run.

    Raises:
        InputError: if the array does not count 0, 1, ..., n - 1.
    """
    if text is not None:
        return None if text == NO_SHARD else parse_shard(text)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    try:
        task, count, low = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "COUNT", "MIN"))
        high = int(environment.get("SLURM_ARRAY_TASK_MAX", low + count - 1))
    except (KeyError, ValueError):
        raise InputError(
            "This is a task of a SLURM array, but the environment does not say of how many; give --shard k/n."
        ) from None
    if low != 0 or high != count - 1 or not 0 <= task < count:
        raise InputError(
            f"The SLURM array has {count} tasks from {low} to {high}, and shards count 0, 1, 2 and so on; submit it "
            f"with 'sbatch --array=0-{count - 1}'. To make single shards again name them: --shard {task}/n; "
            f"--shard {NO_SHARD} makes the whole run in each task."
        )
    return Shard(task, count)


def shards_in(out: Path, record: str) -> list[tuple[Shard, Path]]:
    """The shards in a folder that have begun, each with its own folder, in order; none is no error.

    Args:
        out: where they are.
        record: name of the file that a shard begins with.

    Raises:
        InputError: if they are of different numbers.
    """
    found: dict[int, list[tuple[Shard, Path]]] = {}
    for place in (out / FOLDER).iterdir() if (out / FOLDER).is_dir() else ():
        named = re.fullmatch(r"(\d+)-of-(\d+)", place.name)
        if named and (place / record).is_file():
            shard = Shard(int(named[1]), int(named[2]))
            found.setdefault(shard.n, []).append((shard, place))
    if len(found) > 1:
        numbers = " and ".join(str(n) for n in sorted(found))
        raise InputError(f"{out / FOLDER} holds shards of {numbers}; remove those of one number and try again.")
    return sorted(next(iter(found.values()), []), key=lambda pair: pair[0].k)


def refuse_unfinished(n: int, done: Collection[int], command: str) -> None:
    """Refuse to join shards of which some are missing.

    Args:
        done: the finished ones.
        command: makes a shard, but for ``--shard``.

    Raises:
        InputError: that names them.
    """
    if missing := [k for k in range(n) if k not in done]:
        named = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
        raise InputError(
            f"{len(missing)} of the {n} shards are not finished ({named}); make each of them, the first with: "
            f"{command} --shard {missing[0]}/{n}"
        )


def lineage(model_sha256: str, settings: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    """A name for all that the crystals of a run follow from: shards of one name belong together."""
    software = {name: versions.get(name) for name in ("crystalsmith", "torch")}
    text = json.dumps([model_sha256, settings, software], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def command_line(arguments: Sequence[str]) -> str:
    """The command that was typed, without its shard."""
    kept, value = ["crystalsmith"], False
    for word in arguments[1:]:
        if not value and word.partition("=")[0] != "--shard":
            kept.append(word)
        value = not value and word == "--shard"
    return shlex.join(kept)


def typed(subcommand: str, otherwise: str) -> str:
    """The command that was typed, without its shard, if this process is one of that subcommand."""
    return command_line(sys.argv) if sys.argv[1:2] == [subcommand] else otherwise
