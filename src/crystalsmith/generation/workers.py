"""Batches made elsewhere: by processes with a device each, or by actors of a cluster. This process only writes them."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalsmith.engine.processes import Broken
from crystalsmith.engine.run import Engine, run
from crystalsmith.errors import InputError
from crystalsmith.generation.describe import Description, describe
from crystalsmith.generation.device import choose_device
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.progress import Reporter, Silent
from crystalsmith.generation.request import Request
from crystalsmith.generation.sampler import FinishedBatch, Maker, crystals_of

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

TRIES = 5
"""How often a cluster may lose the worker of a batch."""


@dataclass(frozen=True)
class DescribedBatch:
    """A batch as it is written.

    Attributes:
        stop: index after its last crystal.
        crystals: what is written of each.
        seconds: wall time of the sampling.
        films: of each, if trajectories were asked for.
        batch_size: the size in force where it was made.
        messages: what the user should know.
    """

    stop: int
    crystals: list[Description]
    seconds: float
    films: list[str] | None
    batch_size: int
    messages: tuple[str, ...] = ()


def described(made: FinishedBatch, model: Model, cif: bool) -> DescribedBatch:
    """A finished batch in words."""
    crystals = crystals_of(made.batch, made.plans, model.metadata.elements)
    films = None if made.recorder is None else made.recorder.films(crystals)
    return DescribedBatch(
        made.stop, [describe(crystal, cif) for crystal in crystals], made.seconds, films, made.batch_size
    )


@dataclass(frozen=True)
class Work:
    """What each worker of a run is given once.

    Attributes:
        files: of the model's folder: a node of a cluster need not have it.
        request: how crystals are made.
        span: the crystals of the run.
        batch_size, trajectories, compiled: see :class:`crystalsmith.generation.sampler.Maker`.
        cif: write a CIF of each crystal.
    """

    files: Mapping[str, bytes]
    request: Request
    span: range
    batch_size: int
    trajectories: bool
    compiled: bool
    cif: bool


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a model that make it what it is."""
    from crystalsmith.checkpoints.store import CONFIG, WEIGHTS

    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def batches_elsewhere(
    work: Work, done: int, engine: Engine, device: str, reporter: Reporter
) -> Generator[DescribedBatch, None, None]:
    """The batches of a run in their order, made by workers.

    Args:
        work: what they do.
        done: crystals of the run that there are already.
        engine: where; its devices, if it has any, stand before ``device``.
        device: of a worker on a cluster.
        reporter: hears of finished batches and of devices that are lost.

    Raises:
        InputError: if no worker is left, or one can never make its batch.
    """
    left = work.span[done:]
    starts = range(left.start, left.stop, work.batch_size)
    tasks = (work.request.plans(range(start, min(start + work.batch_size, left.stop))) for start in starts)
    arguments = (work,) if engine.devices else (work, device)
    for end in run(Worker, tasks, engine, arguments=arguments, ordered=True, tries=TRIES, tell=reporter.message):
        if end.status:
            raise InputError(
                f"The workers that made the batch from crystal {starts[end.number]} on were lost {TRIES} times "
                f"({end.detail}); mend the cluster and go on with --resume."
            )
        if isinstance(end.value, str):
            raise InputError(end.value)
        made: DescribedBatch = end.value
        for message in made.messages:
            reporter.message(message)
        reporter.made(made.stop - work.span.start, end.workers)
        yield made


class Worker:
    """What lives in a worker: the model, held between its batches."""

    def __init__(self, work: Work, device: str) -> None:
        from crystalsmith.checkpoints.store import read_model

        self.work, self.said = work, _Said()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in work.files.items():
                (Path(folder) / name).write_bytes(content)
            self.model = read_model(Path(folder))
        self.place = choose_device(device)
        self.maker = Maker(
            self.model,
            work.request,
            self.place,
            self.said,
            work.span,
            work.batch_size,
            work.trajectories,
            work.compiled,
        )

    def __call__(self, plans: Sequence[Plan]) -> DescribedBatch | str:
        """The crystals of some plans, or the sentence of an error that no other worker would mend."""
        try:
            parts = [described(made, self.model, self.work.cif) for made in self.maker.make(list(plans))]
        except InputError as error:
            return str(error)
        except Exception as error:  # after an error of its device a process is not fit for another task
            raise Broken(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        films = [film for part in parts for film in part.films or ()]
        return DescribedBatch(
            parts[-1].stop,
            [one for part in parts for one in part.crystals],
            sum(part.seconds for part in parts),
            films if self.work.trajectories else None,
            self.maker.batch_size,
            tuple(f"{self.place}: {text}" for text in self.said.collect()),
        )


class _Said(Silent):
    """Keeps what a worker has to say until its batch goes back."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def message(self, text: str) -> None:
        self._texts.append(text)

    def collect(self) -> list[str]:
        texts, self._texts = self._texts, []
        return texts
