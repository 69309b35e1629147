"""The model as a Python user holds it: ``crystalsmith.load(...).generate(...)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from crystalsmith.checkpoints.model import Model
    from crystalsmith.generation.describe import Description, Row
    from crystalsmith.generation.request import Request


def load(model: str | Path, *, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """A model ready to generate.

    Args:
        model: the name of a bundled model (``crystalsmith models list``) or the folder of one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the network's products: ``auto``, ``float32`` or ``bf16``.

    Raises:
        InputError: if the model or the device does not exist.
    """
    from crystalsmith.checkpoints.store import find_model, load_model, weights_sha256
    from crystalsmith.generation.device import choose_device, choose_precision

    place = choose_device(device)
    found = load_model(model)
    return LoadedModel(
        found, str(model), weights_sha256(find_model(model)), str(place), choose_precision(precision, place)
    )


class LoadedModel:
    """A model, where it runs, and in which precision."""

    def __init__(
        self, model: Model, source: str, weights_sha256: str, device: str = "cpu", precision: str = "float32"
    ) -> None:
        self.model = model
        self.source = source
        self.weights_sha256 = weights_sha256
        self.device = device
        self.precision = precision

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.metadata.name

    def __repr__(self) -> str:
        return f"LoadedModel({self.name!r}, device={self.device!r}, precision={self.precision!r})"

    def generate(
        self,
        num: int | None = None,
        *,
        seed: int = 0,
        num_atoms: int | str | Mapping[int, float] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        temperature: float | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        **steering: Any,
    ) -> GeneratedCrystals:
        """New crystals.

        Args:
            num: how many; None is 16, or one for each row of a table of targets.
            seed: crystal i is a function of the model, the seed and i.
            num_atoms: a number, a range ``"4-12"``, a histogram file, or a mapping of number of atoms to weight; None
                draws from what the model was trained on.
            steps: denoising steps; None takes the model's default, as do the next three.
            solver: ``multistep``, ``predictor_corrector``, ``ancestral``, ``heun`` or ``published``, with settings if
                need be: ``"multistep,churn=1"`` (:data:`diffusion.solvers.SETTINGS`).
            temperature: of the elements' probabilities; below 1 likelier and simpler compositions.
            batch_size: crystals at a time; the crystals do not depend on it.
            progress: show a bar on stderr.
            **steering: what the crystals shall be like: the attributes of :class:`generation.steering.Steering`, for
                example ``chemical_system="Li-Fe-O"`` or ``formula="LiFePO4"``.

        Raises:
            InputError: if a value cannot be used.
        """
        import torch

        from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP
        from crystalsmith.generation.device import choose_batch_size
        from crystalsmith.generation.progress import reporter
        from crystalsmith.generation.request import make_request, number_of, warnings_of
        from crystalsmith.generation.sampler import finished_batches
        from crystalsmith.generation.steering import Steering

        wanted = Steering.of(steering)
        request = make_request(
            self.model,
            num=number_of(wanted, num, 16),
            seed=seed,
            num_atoms=num_atoms,
            solver=solver,
            steps=steps,
            precision=self.precision,
            temperature=temperature,
            steering=wanted,
        )
        bar = reporter(progress)
        for sentence in warnings_of(self.model, request):
            bar.message(sentence)
        device = torch.device(self.device)
        if batch_size is None:
            calls = NETWORK_CALLS_PER_STEP[request.solver]
            batch_size = choose_batch_size(self.model, request, calls, device)
        elif batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give 1 at least.")
        bar.start(request.num, 0)
        try:
            made = list(finished_batches(self.model, request, device, bar, batch_size=batch_size))
        finally:
            bar.close()
        batch = CrystalBatch.concatenate([item.batch for item in made])
        return GeneratedCrystals(self, request, batch, sum(item.seconds for item in made))


class GeneratedCrystals(Sequence["Structure"]):
    """Generated crystals: a sequence of pymatgen structures, made when asked for, and the batch behind them.

    A crystal whose numbers are not finite has failed: it is left out of the sequence and of :attr:`batch`, and stands
    in :attr:`table` with a note.
    """

    def __init__(self, loaded: LoadedModel, request: Request, batch: CrystalBatch, seconds: float) -> None:
        from crystalsmith.generation.sampler import crystals_of

        self._loaded = loaded
        self._elements = loaded.model.metadata.elements
        self.request = request
        self.seconds = seconds
        self._crystals = crystals_of(batch, request, range(request.num), self._elements)
        good = [k for k, crystal in enumerate(self._crystals) if crystal.failure is None]
        self.indices: tuple[int, ...] = tuple(good)
        self.batch = batch if len(good) == len(batch) else batch.select(good)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, item: int) -> Structure: ...

    @overload
    def __getitem__(self, item: slice) -> list[Structure]: ...

    def __getitem__(self, item: int | slice) -> Structure | list[Structure]:
        return self.structures[item]

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    def __repr__(self) -> str:
        return f"<{len(self)} crystals by {self._loaded.name}, seed {self.request.seed}>"

    @cached_property
    def structures(self) -> list[Structure]:
        """The crystals as pymatgen structures."""
        return self.batch.to_structures()

    @cached_property
    def table(self) -> list[Row]:
        """The rows of ``crystals.csv``, one per crystal asked for."""
        return [item.row for item in self._described]

    @cached_property
    def _described(self) -> list[Description]:
        from crystalsmith.generation.describe import describe

        return [describe(crystal) for crystal in self._crystals]

    def save(self, folder: str | Path) -> Path:
        """Write the files that ``crystalsmith generate`` writes.

        Raises:
            InputError: if the folder holds something already.
        """
        from crystalsmith.generation.folder import OutputFolder
        from crystalsmith.generation.run import manifest_head, model_source

        settings: dict[str, Any] = self.request.to_dict() | {"batch_size": self.request.num, "trajectories": False}
        loaded = self._loaded
        head = manifest_head(loaded.model, model_source(loaded.source), loaded.weights_sha256, settings)
        columns = list(self.request.facts([0])[0])
        output = OutputFolder.create(Path(folder), head | {"columns": columns})
        output.commit(self.request.num, self._described, self.seconds)
        output.update(status="complete")
        return output.path
