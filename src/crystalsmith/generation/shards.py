"""Shares of a run for machines that do not know of one another: which crystals, in which folder, of which lineage."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.errors import InputError

FOLDER = "shards"

BATCH_SIZE = 32
"""Crystals at a time of a sharded run that names no number: the same whatever the machines."""

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
