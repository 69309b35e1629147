"""What the functions of :mod:`crystalsmith.api` return: paths, tables, structures, and how a notebook shows them."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from crystalsmith.structures import Arrays
from crystalsmith.tables import SHOWN, Table, View, html_table

if TYPE_CHECKING:
    import pandas
    from ase import Atoms
    from pymatgen.core import Structure

    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.discovery.candidate import Candidate
    from crystalsmith.discovery.energies import Compared
    from crystalsmith.discovery.run import Summary
    from crystalsmith.generation.loaded import LoadedModel
    from crystalsmith.training.loop import Outcome
    from crystalsmith.training.predictor import Fitted


class Scratch:
    """A temporary folder that goes when nothing refers to it any more; made when first asked for."""

    @cached_property
    def path(self) -> Path:
        """The folder."""
        self._held = tempfile.TemporaryDirectory(prefix="crystalsmith-")
        return Path(self._held.name)

    def write(self, name: str, crystals: Sequence[Arrays]) -> Path:
        """Crystals as an extended XYZ file with ids ``crystal-0``, ``crystal-1``, ..."""
        from crystalsmith.formats import extxyz_frame

        path = self.path / name
        path.write_text(
            "".join(extxyz_frame(*one, {"id": f"crystal-{i}"}) for i, one in enumerate(crystals)), encoding="utf-8"
        )
        return path


@dataclass(frozen=True, repr=False)
class Prepared:
    """A prepared data set: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]
    _scratch: Scratch | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return int(self.manifest["counts"]["kept"])

    def __repr__(self) -> str:
        from crystalsmith.data.info import describe

        return describe(self.manifest)

    @property
    def dataset(self) -> CrystalDataset:
        """The crystals and their labels."""
        from crystalsmith.data.dataset import CrystalDataset

        return CrystalDataset.open(self.path)

    @property
    def dropped(self) -> Table:
        """The rows that were left out, and why (``ledger.csv``)."""
        return Table.read(self.path / "ledger.csv")


@dataclass(frozen=True, repr=False)
class Trained:
    """A training run; ``outcome`` is None where the task has none (arrangements)."""

    path: Path
    outcome: Outcome | None

    @property
    def folder(self) -> Path:
        """The folder of the model: the best by validation, or else the last."""
        return next((self.path / name for name in ("best", "last") if (self.path / name).is_dir()), self.path)

    @property
    def step(self) -> int:
        """Optimiser steps."""
        return 0 if self.outcome is None else self.outcome.step

    @property
    def log(self) -> Table:
        """Losses along the run (``log.csv``)."""
        return Table.read(self.path / "log.csv")

    def load(self, *, device: str = "auto", precision: str = "auto") -> LoadedModel:
        """The model, ready to generate."""
        from crystalsmith.generation.loaded import load

        return load(self.folder, device=device, precision=precision)

    def __repr__(self) -> str:
        return f"<model in {self.folder}, {self.step:,} steps>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self)[1:-1])}</p>" + self.log._repr_html_()


class FineTuned(Trained):
    """A fine-tuning run."""


@dataclass(frozen=True)
class TrainedPredictor:
    """A trained predictor of a property; ``fitted`` holds its error on validation crystals."""

    path: Path
    fitted: Fitted

    @property
    def folder(self) -> Path:
        """The folder of the predictor."""
        return self.path / "best"


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of :func:`crystalsmith.evaluate`: a folder, ``metrics`` as in metrics.json, a row per crystal."""

    path: Path
    metrics: dict[str, Any]
    _scratch: Scratch | None = field(default=None, compare=False)

    @cached_property
    def table(self) -> Table:
        """The rows of ``crystals.csv``."""
        return Table.read(self.path / "crystals.csv")

    @property
    def best(self) -> Table:
        """The crystal of lowest energy of each reduced formula, the most stable first; empty without energies."""
        rows = [row for row in self.table if row.get("energy_rank") == 1]
        return Table(sorted(rows, key=lambda row: (_or_last(row["energy_above_hull"]), _energy(row))))

    @property
    def report(self) -> Path:
        """The page that opens offline."""
        return self.path / "report.html"

    @cached_property
    def relaxed(self) -> dict[str, Structure]:
        """The relaxed crystals by id; empty where nothing was relaxed."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return {name: AseAtomsAdaptor.get_structure(atoms) for name, atoms in self.relaxed_atoms.items()}

    @cached_property
    def relaxed_atoms(self) -> dict[str, Atoms]:
        """The same as ASE atoms, with energy, forces and stress."""
        path = self.path / "relaxed.extxyz"
        if not path.is_file() or not path.stat().st_size:
            return {}
        from ase.io import read

        return {str(atoms.info["id"]): atoms for atoms in read(path, ":", format="extxyz")}

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a data frame."""
        return self.table.to_pandas()

    def __repr__(self) -> str:
        from crystalsmith.evaluation.report.results import sentences

        return sentences(self.metrics)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{html.escape(line)}</p>" for line in repr(self).splitlines()) + self.table._repr_html_()


@dataclass(frozen=True, repr=False)
class Score:
    """The results of :func:`crystalsmith.score`: ``metrics`` as in score.json and a row per target."""

    path: Path
    metrics: dict[str, Any]
    _scratch: Scratch | None = field(default=None, compare=False)

    @cached_property
    def table(self) -> Table:
        """The rows of ``targets.csv``."""
        return Table.read(self.path / "targets.csv")

    def __repr__(self) -> str:
        from crystalsmith.evaluation.prediction.run import sentences

        return sentences(self.metrics)


@dataclass(frozen=True)
class Predictions:
    """A property of crystals: its ``name``, a ``note`` on the predictor's error, and a row per crystal."""

    name: str
    note: str
    table: Table

    @property
    def values(self) -> list[float | None]:
        """The values in the order of the crystals; None where there is none."""
        return self.table.column(self.name)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(f'{self.name}, {self.note}')}</p>" + html_table([(row, "") for row in self.table])


@dataclass(frozen=True)
class Known:
    """A reference: known structures and energies in a folder."""

    path: Path
    manifest: Mapping[str, Any]
    _scratch: Scratch | None = field(default=None, compare=False, repr=False)

    @property
    def counts(self) -> Mapping[str, Any]:
        """Structures, hull entries, and what was refused."""
        found: Mapping[str, Any] = self.manifest["counts"]
        return found


@dataclass(frozen=True, repr=False)
class Discovery(Sequence["Structure"]):
    """A run of :func:`crystalsmith.discover`: a sequence of the accepted crystals, relaxed, the most stable first.

    ``summary`` says how it ended; where energies of DFT were read back, it is None and ``compared`` says how wrong
    the potential was.
    """

    path: Path
    summary: Summary | None = None
    compared: Compared | None = None
    _scratch: Scratch | None = field(default=None, compare=False)

    @cached_property
    def _best(self) -> list[Candidate]:
        from crystalsmith.discovery.archive import ranked
        from crystalsmith.discovery.ledger import Folder

        return ranked(Folder.open(self.path).state())

    @cached_property
    def table(self) -> Table:
        """The rows of ``candidates.csv``: accepted ones first, then all others with what they were dropped for."""
        return Table.read(self.path / "candidates.csv")

    @property
    def facts(self) -> dict[str, Any]:
        """Plain data: how the run ended, or what the energies say of the potential."""
        told = self.compared or self.summary
        return {} if told is None else asdict(told)

    @property
    def accepted(self) -> Table:
        """The rows of the accepted candidates, in the order of the sequence."""
        return Table(self.table[: len(self._best)])

    @cached_property
    def reranked(self) -> Table:
        """Where energies of DFT were read back: the rows of ``reranked.csv``; else empty."""
        return Table() if self.compared is None else Table.read(self.path / "reranked.csv")

    @cached_property
    def structures(self) -> list[Structure]:
        """The accepted crystals, relaxed, as pymatgen structures."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return [AseAtomsAdaptor.get_structure(atoms) for atoms in self.atoms]

    @cached_property
    def atoms(self) -> list[Atoms]:
        """The same as ASE atoms, with energy (eV), forces (eV/angstrom) and stress (eV/angstrom^3) of the potential."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        found = []
        for one in self._best:
            frac, cell, numbers = _relaxed(one)
            atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, info={"id": one.name})
            measured = {name: one.values[name] for name in ("energy", "forces", "stress") if name in one.values}
            atoms.calc = SinglePointCalculator(atoms, **measured)
            found.append(atoms)
        return found

    @property
    def page(self) -> Path:
        """The page that opens offline."""
        return self.path / "discover.html"

    def view(self, item: int = 0) -> View:
        """An accepted crystal to turn and zoom, in a notebook; it needs no network."""
        from crystalsmith.pictures import rotatable

        return View(rotatable(_relaxed(self._best[item])))

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a data frame, with a column ``structure`` of the accepted crystals."""
        frame = self.table.to_pandas()
        frame["structure"] = [self.structures[i] if i < len(self) else None for i in range(len(frame))]
        return frame

    def __len__(self) -> int:
        return len(self._best)

    @overload
    def __getitem__(self, item: int) -> Structure: ...

    @overload
    def __getitem__(self, item: slice) -> list[Structure]: ...

    def __getitem__(self, item: int | slice) -> Structure | list[Structure]:
        return self.structures[item]

    def __repr__(self) -> str:
        if self.compared is not None:
            from crystalsmith.discovery.energies import sentence as told

            return told(self.compared)
        if self.summary is None:
            return f"<{len(self)} accepted crystals in {self.path}>"
        from crystalsmith.discovery.run import sentence

        return sentence(self.summary)

    def _repr_html_(self) -> str:
        from crystalsmith.pictures import svg

        rows = self.reranked or self.accepted
        drawn = {one.name: svg(_relaxed(one)) for one in self._best[:SHOWN]}
        return f"<p>{html.escape(repr(self))}</p>" + html_table([(row, drawn.get(row["id"], "")) for row in rows])


class PredictedStructures(Discovery):
    """The structures of one composition, the lowest in energy first."""

    @cached_property
    def ranking(self) -> Table:
        """A row per structure, with ``above_best`` in eV/atom above the lowest."""
        from crystalsmith.discovery.prediction import ranking

        return Table(ranking(self.path, len(self)))


@dataclass(frozen=True)
class Exported:
    """What :func:`crystalsmith.export` wrote: the folder, and how many candidates are in it."""

    path: Path
    number: int
    _scratch: Scratch | None = field(default=None, compare=False, repr=False)

    @cached_property
    def table(self) -> Table:
        """The rows of ``index.csv``: which candidates, and their energies."""
        return Table.read(self.path / "index.csv")

    @property
    def files(self) -> list[Path]:
        """Every file in the folder."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())


def _relaxed(one: Candidate) -> Arrays:
    assert one.relaxed is not None  # it was accepted
    return one.relaxed


def _or_last(value: float | None) -> float:
    return float("inf") if value is None else value


def _energy(row: Mapping[str, Any]) -> float:
    """eV/atom: total, or of formation where only that was given."""
    total = row["energy_per_atom"]
    return float(row["formation_energy_per_atom"] if total is None else total)


def best_lines(best: Table, most: int = 10) -> list[str]:
    """The best crystal of each formula as lines of a table that fits 80 columns; none where there are no energies."""
    if not best:
        return []
    lines = [f"{'lowest energy of each formula':32}{'eV/atom':>9}{'above hull':>12}  space group"]
    for row in best[:most]:
        above = "" if row["energy_above_hull"] is None else f"{row['energy_above_hull']:.3f}"
        group = row["relaxed_space_group_0.01"] or row["space_group_0.1"] or ""
        name = f"{row['formula']} {row['id']}"
        lines.append(f"{name[:31]:32}{_energy(row):9.3f}{above:>12}  {group}")
    return [*lines, *([f"and {len(best) - most:,} more"] if len(best) > most else [])]
