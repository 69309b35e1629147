"""Learning how compositions choose among known arrangements: minutes on one core, without a recipe."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crystalsmith.checkpoints.arrangements import (
    FILE,
    MAX_ORDERS,
    Arrangements,
    key_of,
    number_of_orders,
    orders,
    save_arrangements,
)
from crystalsmith.errors import InputError
from crystalsmith.files import replace_text
from crystalsmith.locks import is_empty, locked
from crystalsmith.network.arrangements import ArrangementNetwork, ArrangementSizes, Candidates
from crystalsmith.signals import stop_on_signals
from crystalsmith.symmetry.wyckoff import Arranged, Templates, count_templates
from crystalsmith.training.log import Console, CsvLog, Row, duration

COLUMNS = ("epoch", "seconds", "train_loss", "val_loss", "val_likeliest")


@dataclass(frozen=True)
class Settings:
    """Settings of the training, chosen by the validation loss on MP-20."""

    epochs: int = 12
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Learned:
    """How the training ended.

    Attributes:
        crystals: training crystals.
        templates: templates that they have.
        seconds: of the training.
        held_out: validation crystals; ``covered`` of them have an arrangement that a training crystal has.
        likeliest: share of all held out whose own arrangement was the likeliest; ``by_counts`` where known arrangements
            of the counts are taken by how common they are.
        loss: mean negative logarithm of the probability of the own arrangement, of those covered.
    """

    crystals: int
    templates: int
    seconds: float
    held_out: int
    covered: float
    likeliest: float
    by_counts: float
    loss: float
    signum: int | None = None


def train_arrangements(
    data: str | Path, out: str | Path, settings: Settings = Settings(), jobs: int = 0, quiet: bool = False
) -> Learned:
    """Count the templates of the training crystals and learn which compositions have them.

    ``out`` gets ``templates.json`` and the network of the lowest validation loss beside it, for ``--templates``.

    Args:
        data: a prepared data set.
        out: new or empty folder.
        settings: of the training.
        jobs: processes of the symmetry search, 0 = one per core.
        quiet: no progress.

    Raises:
        InputError: if the folder is occupied or no training crystal has a template.
    """
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.data.sites import TEMPLATES, arranged

    dataset, out = CrystalDataset.open(Path(data)), Path(out)
    if out.exists() and not is_empty(out):
        raise InputError(f"The folder {out} is not empty; choose another.")
    with locked(out, "crystalsmith train"), Console(quiet) as console, stop_on_signals() as asked_to_stop:
        found: dict[str, list[Arranged]] = {}
        for split in ("train", "val"):
            rows, done = dataset.rows(split), 0

            def progress(more: int, split: str = split, total: int = len(rows)) -> None:
                nonlocal done
                done += more
                console.update(done / total, f"symmetry of the {split} crystals")

            found[split] = [one for one in arranged(dataset, rows, jobs, progress) if one is not None]
        templates = count_templates(found["train"], f"training crystals of {dataset.path.name}")
        if not found["train"]:
            raise InputError(f"No training crystal of {data} has a symmetry that holds together; nothing to learn.")
        replace_text(out / TEMPLATES, templates.to_json())
        learned = _Fit(templates, found["train"], found["val"], settings, out, console).run(asked_to_stop)
        return replace(learned, signum=asked_to_stop.signum)


Group = tuple[int, ...]
"""Atoms of the elements of a composition, ascending."""


class _Fit:
    def __init__(
        self,
        templates: Templates,
        train: Sequence[Arranged],
        val: Sequence[Arranged],
        settings: Settings,
        out: Path,
        console: Console,
    ) -> None:
        self.templates, self.settings, self.out, self.console = templates, settings, out, console
        positions = sorted({(t.number, letter) for t in templates.counts for letter in t.letters})
        bases = sorted({t.basis for t in templates.counts})
        sizes = ArrangementSizes(len(positions) + 1, len(bases) + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = ArrangementNetwork(sizes, settings.dropout)
        members = defaultdict(list)
        for template in templates.counts:
            members[templates.totals(template)].append(template)
        self.groups = {g: some for g, some in members.items() if number_of_orders(g) <= MAX_ORDERS}
        self.row = {t: k for some in self.groups.values() for k, t in enumerate(some)}
        self.train, self.crystals = self._grouped(train), len(train)
        self.found = Arrangements(self.network, positions, bases, memory=self._remembered())
        self.candidates = {g: self.found.candidates(templates, some) for g, some in self.groups.items()}
        # Others have no arrangement that could be right.
        self.val, self.held_out = self._grouped([one for one in val if one.template in self.row]), len(val)

    def _grouped(self, crystals: Sequence[Arranged]) -> dict[Group, tuple[Tensor, Tensor]]:
        """Elements ``(n, K)`` and the rows of the templates ``(n,)`` of crystals with equal counts, row by row."""
        parts = defaultdict(list)
        for one in sorted((one for one in crystals if one.template in self.row), key=lambda x: self.row[x.template]):
            parts[self.templates.totals(one.template)].append(one)
        return {
            g: (torch.tensor([one.elements for one in some]), torch.tensor([self.row[one.template] for one in some]))
            for g, some in parts.items()
        }

    def _remembered(self) -> dict[int, Tensor]:
        """Training crystals by template; within a group, candidates remember them in the order of ``self.train``."""
        found: dict[int, Tensor] = {}
        for g, (elements, rows) in self.train.items():
            numbers = rows.bincount(minlength=len(self.groups[g])).tolist()
            parts = zip(self.groups[g], elements.split(numbers), strict=True)
            found |= {key_of(template): part for template, part in parts}
        return found

    def run(self, stop: Callable[[], bool]) -> Learned:
        settings, log = self.settings, CsvLog(self.out / "log.csv", COLUMNS)
        rng = np.random.default_rng(settings.seed)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        size, best = settings.batch_size, (math.inf, 0.0)
        steps = settings.epochs * sum(math.ceil(len(rows) / size) for _, rows in self.train.values())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
        started, state = time.monotonic(), copy.deepcopy(self.network.state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            for epoch in range(1, settings.epochs + 1):
                train_loss = self._epoch(rng, optimizer, schedule, size)
                loss, likeliest = self._validate()
                seconds = time.monotonic() - started
                row: Row = {"epoch": epoch, "seconds": seconds, "train_loss": train_loss, "val_loss": loss}
                log.write(row | {"val_likeliest": likeliest})
                if loss < best[0] or not self.val:
                    best, state = (loss, likeliest), copy.deepcopy(self.network.state_dict())
                left = seconds / epoch * (settings.epochs - epoch)
                parts = f"epoch {epoch}", f"{duration(left)} left", f"validation {loss:.3f}", f"loss {train_loss:.3f}"
                self.console.update(epoch / settings.epochs, *parts)
                if stop():
                    break
        self.network.load_state_dict(state)
        self.network.eval()
        covered = sum(len(rows) for _, rows in self.val.values()) / max(self.held_out, 1)
        told = Learned(
            self.crystals,
            len(self.templates.counts),
            round(time.monotonic() - started, 1),
            self.held_out,
            covered,
            best[1],
            self._by_counts(),
            best[0],
        )
        training = {"source": self.templates.source, "settings": asdict(settings), "measured": asdict(told)}
        save_arrangements(replace(self.found, training=training), self.out / FILE)
        return told

    def _epoch(
        self,
        rng: np.random.Generator,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        size: int,
    ) -> float:
        """One pass over the training crystals in batches of equal counts; their mean loss."""
        batches = []
        for group, (_, rows) in self.train.items():
            mixed = torch.from_numpy(rng.permutation(len(rows)))
            batches += [(group, part) for part in mixed.split(size)]
        self.network.train()
        total = 0.0
        for place in rng.permutation(len(batches)):
            group, part = batches[place]
            loss = self._losses(group, self.train[group], part).sum()
            optimizer.zero_grad()
            (loss / size).backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        return total / max(sum(len(part) for _, part in batches), 1)

    def _logits(self, group: Group, crystals: tuple[Tensor, Tensor], part: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, T O)`` of the arrangements, and the places of those that the crystals have."""
        elements, rows = (x[part] for x in crystals)
        candidates: Candidates = self.candidates[group]
        own = part if crystals is self.train.get(group) else None
        # Elements come in the order of the pattern, so the first order is their own.
        return self.network(elements, candidates, own).flatten(1), rows * len(candidates.orders)

    def _losses(self, group: Group, crystals: tuple[Tensor, Tensor], part: Tensor) -> Tensor:
        return nn.functional.cross_entropy(*self._logits(group, crystals, part), reduction="none")

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        """Mean loss of the covered crystals, and the share of all whose arrangement is the likeliest."""
        self.network.eval()
        loss, hits, count = 0.0, 0, 0
        for group, crystals in self.val.items():
            for part in torch.arange(len(crystals[1])).split(self.settings.batch_size):
                logits, own = self._logits(group, crystals, part)
                loss += float(nn.functional.cross_entropy(logits, own, reduction="sum"))
                hits += int((logits.argmax(1) == own).sum())
                count += len(part)
        return (loss / count if count else math.nan), hits / max(self.held_out, 1)

    def _by_counts(self) -> float:
        """Expected share of hits where the commonest template of the counts is taken, in any order of the elements."""
        hits = 0.0
        for group, (_, rows) in self.val.items():
            commonest = int(self.candidates[group].known.argmax())
            hits += float((rows == commonest).sum()) / len(orders(group))
        return hits / max(self.held_out, 1)
