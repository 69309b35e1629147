"""The model as a Python user holds it: ``crystalsmith.load(...).generate(...)``."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.generation.steering import Steering
from crystalsmith.tables import SHOWN, Table, View, html_table

if TYPE_CHECKING:
    import pandas
    from ase import Atoms
    from pymatgen.core import Structure

    from crystalsmith.checkpoints.model import Model
    from crystalsmith.generation.describe import Description
    from crystalsmith.generation.plans.plan import Plan
    from crystalsmith.generation.request import Request
    from crystalsmith.structures import StructureLike


def load(model: str | Path, *, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """A model ready to generate.

    Args:
        model: the name of a bundled model (``crystalsmith models list``) or the folder of one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the network's products: ``auto``, ``float32`` or ``bf16``.

    Raises:
        InputError: if the model or the device does not exist.
    """
    from crystalsmith.checkpoints.find import find_model, load_model
    from crystalsmith.checkpoints.store import weights_sha256
    from crystalsmith.generation.device import choose_device, choose_precision

    place = choose_device(device, apple=True)
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
        chemical_system: str | Sequence[str] | None = None,
        require_all: bool = False,
        allow: str | Sequence[str] | None = None,
        deny: str | Sequence[str] | None = None,
        require: str | Sequence[str] | None = None,
        deny_list: str | Sequence[str] | None = None,
        max_hhi: float | None = None,
        prefer: str | Mapping[str, float] | None = None,
        formula: str | None = None,
        formula_units: str | int | None = None,
        compositions: str | Path | Sequence[str] | None = None,
        samples: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        space_group: str | int | Sequence[int] | None = None,
        templates: str | Path | None = None,
        template_elements: str | Mapping[str, str] | None = None,
        start_from: str | Path | StructureLike | Sequence[StructureLike] | None = None,
        strength: float | None = None,
        fix_sites: str | Sequence[int] | None = None,
        fix_cell: bool = False,
        fix_elements: bool = False,
        resample: int | None = None,
        redecorate: bool = False,
        novel_to: str | Path | None = None,
        select: int | None = None,
        selector: str | Path | None = None,
        disorder: str | None = None,
        properties: Mapping[str, Any] | Sequence[str] | None = None,
        targets: str | Path | Mapping[str, Sequence[Any]] | pandas.DataFrame | None = None,
        guidance: float | str | Mapping[str, float] | Sequence[str] | None = None,
        guidance_interval: str | Sequence[float] | None = None,
    ) -> GeneratedCrystals:
        """New crystals; the keywords are the options of ``crystalsmith generate``.

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
            progress: show a bar, in a terminal or a notebook.
            chemical_system: only these elements, ``"Li-Fe-O"``.
            require_all: every element of the chemical system appears in each crystal.
            allow: only these elements, ``"Li,Fe,O"`` or a list.
            deny: none of these.
            require: each of these at least once.
            deny_list: none of the elements of named lists: ``"scarce,radioactive,noble,toxic"``.
            max_hhi: only elements whose index of supply is at most this, 10000 at most.
            prefer: factors on the odds of elements, ``{"Li": 3, "Co": 0.2}``: a wish, no rule.
            formula: exactly this composition, ``"LiFePO4"``.
            formula_units: of them in a cell, ``4`` or ``"1-4"``, taken in turn.
            compositions: exactly these formulas, taken in turn: a list, a table or a prepared data set.
            samples: crystals of each composition.
            split: of a prepared data set as ``compositions``.
            limit: only so many of the compositions.
            space_group: kept exactly: ``225``, ``"Fm-3m"``, ``"195-230"``, ``"cubic"``, ``"any"`` or ``"free"``.
            templates: file of Wyckoff templates, or of crystals whose own are taken, or a bundled model that brings
                some; None for the model's own, or those of MP-20.
            template_elements: what stands in place of the elements of such a crystal, ``"Sr=Ba,O=O"`` or a mapping; the
                other orbits are open.
            start_from: a crystal to start from, or several, taken in turn: pymatgen, ASE or a file.
            strength: how far it is noised, up to 1.
            fix_sites: keep positions and elements of these sites, counted from 0.
            fix_cell: keep the cell.
            fix_elements: keep the element of every atom.
            resample: passes through each stretch of the way, so that free and kept parts agree better.
            redecorate: keep the space group and, as far as ``strength`` says, the geometry of the crystal to start
                from, and draw its elements anew.
            novel_to: a reference set: a crystal whose reduced formula it holds is turned down and made again.
            select: proposals for each crystal; the one of the lowest predicted energy above the hull stays.
            selector: what else to select by: another predictor, a potential on the hull of ``novel_to``, or ``own``,
                the proposal that the model itself would change least.
            disorder: partly occupied sites in the files that are named: ``refuse`` the crystal, or take the ``largest``
                occupancy.
            properties: targets, ``{"band_gap": 2.0}``; a list is taken in turn, ``"0.5..3"`` is drawn from.
            targets: a table of them, a row per crystal: a mapping of columns, a data frame or a CSV file.
            guidance: how strongly targets are followed, for all or by property.
            guidance_interval: times between which guidance acts, ``"0.2..0.8"``.

        Raises:
            InputError: if a value cannot be used.
        """
        from crystalsmith.errors import in_python

        with in_python():
            columns, table = _targets(targets, properties)
            if columns and num is None and table is None:
                num = max(len(values) for values in columns.values() if isinstance(values, list))
            wanted = Steering(
                chemical_system=chemical_system,
                require_all=require_all,
                allow=allow,
                deny=deny,
                require=require,
                deny_list=deny_list,
                max_hhi=max_hhi,
                prefer=prefer,
                formula=formula,
                formula_units=formula_units,
                compositions=str(compositions) if isinstance(compositions, Path) else compositions,
                samples=samples,
                split=split,
                limit=limit,
                space_group=space_group,
                templates=None if templates is None else str(templates),
                template_elements=template_elements,
                start_from=_start(start_from),
                strength=strength,
                fix_sites=fix_sites,
                fix_cell=fix_cell,
                fix_elements=fix_elements,
                resample=resample,
                redecorate=redecorate,
                novel_to=None if novel_to is None else str(novel_to),
                select=select,
                selector=None if selector is None else str(selector),
                disorder=disorder,
                properties=columns or properties,
                targets=table,
                guidance=guidance,
                guidance_interval=guidance_interval,
            )
            return self._generate(wanted, num, seed, num_atoms, steps, solver, temperature, batch_size, progress)

    def _generate(
        self,
        wanted: Steering,
        num: int | None,
        seed: int,
        num_atoms: int | str | Mapping[int, float] | None,
        steps: int | None,
        solver: str | None,
        temperature: float | None,
        batch_size: int | None,
        progress: bool,
    ) -> GeneratedCrystals:
        import torch

        from crystalsmith.diffusion.solvers import NETWORK_CALLS_PER_STEP
        from crystalsmith.generation.device import choose_batch_size
        from crystalsmith.generation.making import make_request, number_of, warnings_of
        from crystalsmith.generation.progress import reporter
        from crystalsmith.generation.sampler import finished_batches

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
        for sentence in warnings_of(self.model, request, num_atoms):
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
        plans = [plan for item in made for plan in item.plans]
        return GeneratedCrystals(self, request, plans, batch, sum(item.seconds for item in made))


class GeneratedCrystals(Sequence["Structure"]):
    """Generated crystals: a sequence of pymatgen structures, made when asked for, and the batch behind them.

    A crystal whose numbers are not finite has failed: it is left out of the sequence and of :attr:`batch`, and stands
    in :attr:`table` with a note.
    """

    def __init__(
        self, loaded: LoadedModel, request: Request, plans: Sequence[Plan], batch: CrystalBatch, seconds: float
    ) -> None:
        from crystalsmith.generation.sampler import crystals_of

        self._loaded = loaded
        self._elements = loaded.model.metadata.elements
        self.request = request
        self.seconds = seconds
        self._crystals = crystals_of(batch, plans, self._elements)
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
    def atoms(self) -> list[Atoms]:
        """The crystals as ASE atoms."""
        return self.batch.to_atoms()

    @cached_property
    def table(self) -> Table:
        """The rows of ``crystals.csv``, one per crystal asked for."""
        return Table(item.row for item in self._described)

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a data frame, with a column ``structure`` of pymatgen structures."""
        frame = self.table.to_pandas()
        found = dict(zip(self.indices, self.structures, strict=True))
        frame["structure"] = [found.get(i) for i in range(len(frame))]
        return frame

    def view(self, item: int = 0) -> View:
        """A crystal to turn and zoom, in a notebook; it needs no network."""
        from crystalsmith.pictures import rotatable

        return View(rotatable(self.batch.crystals()[item]))

    def _repr_html_(self) -> str:
        from crystalsmith.pictures import svg

        drawn = dict(zip(self.indices[:SHOWN], map(svg, self.batch.crystals()[:SHOWN]), strict=False))
        return f"<p>{html.escape(repr(self)[1:-1])}</p>" + html_table(
            [(row, drawn.get(i, "")) for i, row in enumerate(self.table)]
        )

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
        columns = self.request.columns
        output = OutputFolder.create(Path(folder), head | {"columns": columns})
        output.commit(self.request.num, self._described, self.seconds)
        output.update(status="complete")
        return output.path


def _start(start_from: Any) -> str | list[Any] | None:
    """A file by name, crystals in memory as plain lists that go to JSON and back."""
    from crystalsmith.structures import arrays_of, crystals_of

    if start_from is None:
        return None
    if isinstance(start_from, (str, Path)):
        return str(start_from)
    return [tuple(part.tolist() for part in arrays_of(one)) for one in crystals_of(start_from)]


def _targets(targets: Any, properties: Any) -> tuple[dict[str, Any], str | None]:
    """Columns of targets that are in memory, joined with properties; or the file of them."""
    if targets is None or isinstance(targets, (str, Path)):
        return {}, None if targets is None else str(targets)
    if hasattr(targets, "to_dict"):  # a data frame
        targets = targets.to_dict(orient="list")
    if not isinstance(targets, Mapping) or isinstance(properties, (str, Sequence)):
        raise InputError(
            "targets is neither a mapping of columns nor a data frame or CSV file, or properties is a list beside it; "
            "write for example targets={'band_gap': [1.0, 2.0]}."
        )
    columns = {str(name): _column(values) for name, values in targets.items()}
    if twice := sorted(set(columns) & set(properties or {})):
        raise InputError(f"{twice[0]} is in targets and in properties; give it once.")
    return columns | dict(properties or {}), None


def _column(values: Any) -> list[Any]:
    """Values of a column; what is missing in a data frame asks for nothing."""
    several = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    return [None if value != value else value for value in several]  # NaN alone differs from itself
