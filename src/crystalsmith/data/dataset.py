"""The prepared data set: a folder of memory-mapped arrays and a manifest, opened in milliseconds.

Reading needs NumPy and torch only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalsmith.errors import InputError
from crystalsmith.files import sha256_of
from crystalsmith.schema import NO_ARRAY, Items, Map, Number, Record, Text, check, read_json, whole

if TYPE_CHECKING:
    from torch import Tensor

    from crystalsmith.crystals import CrystalBatch

FORMAT = "crystalsmith-dataset-1"
ARRAYS = ("frac_coords", "cell", "atomic_numbers", "offsets", "split", "ids")
SPLIT_CODES = {"train": 0, "val": 1, "test": 2}


class CrystalDataset:
    """C crystals with N atoms in all, as arrays on disk.

    Attributes:
        manifest: where the data came from, what was done to them, and their statistics.
        frac_coords: ``(N, 3)`` float32 in [0, 1).
        cell: ``(C, 3, 3)`` float32, angstrom, symmetric.
        atomic_numbers: ``(N,)`` uint8.
        offsets: ``(C + 1,)`` int64; crystal i owns atoms ``offsets[i]`` to ``offsets[i + 1]``.
        split: ``(C,)`` uint8, 0 train, 1 val, 2 test.
        ids: ``(C,)`` names of the materials (bytes or unicode).
        num_atoms: ``(C,)`` int64.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.frac_coords = self._load("frac_coords", np.float32)
        self.cell = self._load("cell", np.float32)
        self.atomic_numbers = self._load("atomic_numbers", np.uint8)
        self.offsets = self._load("offsets", np.int64)
        self.split = self._load("split", np.uint8)
        self.ids = self._load("ids", None)
        files = {name: _label_file(name, facts) for name, facts in manifest["labels"].items()}
        self._labels = {name: self._load(f"labels/{file}", np.float32) for name, file in files.items()}
        self.num_atoms: NDArray[np.int64] = np.diff(self.offsets)
        self._check_sizes()

    @classmethod
    def open(cls, path: Path | str) -> CrystalDataset:
        """Open a prepared folder.

        Raises:
            InputError: if it is none, or if a file is missing, truncated or of the wrong size.
        """
        folder = Path(path)
        return cls(folder, read_manifest(folder))

    def _load(self, name: str, dtype: Any) -> NDArray[Any]:
        file = self.path / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError(f"{file} is missing; prepare the data set again.") from None
        except NO_ARRAY as error:
            raise InputError(f"{file} is truncated or damaged; prepare the data set again.") from error
        if dtype is not None and array.dtype != dtype:
            raise InputError(f"{file} holds {array.dtype} instead of {np.dtype(dtype)}; prepare the data set again.")
        return array

    def _check_sizes(self) -> None:
        crystals = int(self.manifest["counts"]["kept"])
        atoms = int(self.offsets[-1]) if self.offsets.ndim == 1 and len(self.offsets) else -1
        expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "frac_coords": (self.frac_coords, (atoms, 3)),
            "cell": (self.cell, (crystals, 3, 3)),
            "atomic_numbers": (self.atomic_numbers, (atoms,)),
            "offsets": (self.offsets, (crystals + 1,)),
            "split": (self.split, (crystals,)),
            "ids": (self.ids, (crystals,)),
            **{f"labels/{name}": (values, (crystals,)) for name, values in self._labels.items()},
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise InputError(
                    f"{self.path / name}.npy has shape {array.shape} where the manifest and offsets say {shape}; "
                    "prepare the data set again."
                )
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 1).any():
            raise InputError(f"{self.path / 'offsets'}.npy does not ascend; {MEND}.")

    def __len__(self) -> int:
        return len(self.cell)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the files anew instead of receiving copies.
        return CrystalDataset.open, (self.path,)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all labels."""
        return tuple(self._labels)

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Row numbers of ``train``, ``val`` or ``test``, ascending; all rows without an argument."""
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        if split not in SPLIT_CODES:
            raise InputError(f"There is no split '{split}'; use train, val or test.")
        return np.flatnonzero(self.split == SPLIT_CODES[split]).astype(np.int64)

    def batch(self, rows: ArrayLike) -> CrystalBatch:
        """The crystals of some rows, in the order given, as a float32 batch on the CPU."""
        import torch

        from crystalsmith.crystals import CrystalBatch

        index = np.asarray(rows, dtype=np.int64).reshape(-1)
        atoms, count = self._atoms_of(index)
        return CrystalBatch(
            frac_coords=torch.from_numpy(np.asarray(self.frac_coords[atoms])),
            cell=torch.from_numpy(np.asarray(self.cell[index])),
            atomic_numbers=torch.from_numpy(self.atomic_numbers[atoms].astype(np.int64)),
            num_atoms=torch.from_numpy(count),
        )

    def _atoms_of(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = self.num_atoms[index]
        ends = np.cumsum(count)
        total = int(ends[-1]) if len(ends) else 0
        return np.repeat(self.offsets[index] - (ends - count), count) + np.arange(total, dtype=np.int64), count

    def labels(self, rows: ArrayLike, names: Iterable[str]) -> dict[str, Tensor]:
        """Labels of some rows, ``name -> (B,)`` float32 with NaN where unlabelled.

        ``chemical_system`` needs no label: it is read off the crystals, as ``(B, 101)`` multi-hot by atomic number.

        Raises:
            InputError: if the data set has no such label.
        """
        import torch

        index = np.asarray(rows, dtype=np.int64).reshape(-1)
        found: dict[str, Tensor] = {}
        for name in names:
            if name == "chemical_system":
                atoms, count = self._atoms_of(index)
                elements = np.zeros((len(index), 101), dtype=np.float32)
                elements[np.repeat(np.arange(len(index)), count), self.atomic_numbers[atoms]] = 1.0
                found[name] = torch.from_numpy(elements)
            elif name in self._labels:
                found[name] = torch.from_numpy(np.asarray(self._labels[name][index]))
            else:
                known = ", ".join(self._labels) or "none"
                raise InputError(f"{self.path} has no label '{name}'; it has: {known}.")
        return found

    def verify(self) -> None:
        """Read every file and compare it with the hash in the manifest.

        Raises:
            InputError: naming the first file that is not as it was written.
        """
        for name, expected in self.manifest["sha256"].items():
            file = self.path / name
            if sha256_of(file) != expected:
                raise InputError(f"{file} is not as it was written (SHA-256 differs); prepare the data set again.")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        InputError: if the folder is no prepared data set, or of another version.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise InputError(
            f"{folder} is no prepared data set (it has no manifest.json); make one with crystalsmith data prepare."
        )
    manifest = read_json(file, mend=MEND)
    if not isinstance(manifest, Mapping) or manifest.get("format") != FORMAT:
        raise InputError(f"{file} is not the manifest of a data set this version reads ({FORMAT}); prepare it again.")
    check(manifest, MANIFEST, str(file), MEND)
    _check_labels(file, manifest)
    return dict(manifest)


MEND = "prepare the data set again"

_LABEL = Record(
    {},
    {
        "file": Text(100),
        "kind": Text(20),
        "unit": Text(100),
        "classes": Items(Text(100), most=1000),
        "first": whole(0, 1),
        "count": whole(),
        "count_all": whole(),
        **dict.fromkeys(("mean", "std", "min", "max", "q01", "q50", "q99"), Number(none=True)),
    },
)
_READING = Record(
    {"kind": Text(20), "numbers": whole(), "odd": whole(), "read": whole(), "example": Text(), "why": Text()}
)

MANIFEST = Record(
    {
        "counts": Record({"kept": whole()}, {"dropped": Map(whole())}),
        "labels": Map(_LABEL, most=10_000),
        "sha256": Map(Text(128), most=20_000),
        "settings": Record(),
    },
    {
        "name": Text(),
        "source": Text(),
        "created": Text(100),
        "version": Text(100),
        "num_atoms_histogram": Map(whole(), numbered=True, most=100_000),
        "mean_density": Number(1e-12, 1e6),
        "cell_variance": Map(Items(Number(0), 2, 2), most=100_000),
        "elements": Map(whole(), most=120),
        "columns": Map(_READING, most=10_000),
        "columns_left_out": Map(Text(), most=10_000),
    },
)
"""What the manifest of a data set holds."""


def _check_labels(file: Path, manifest: Mapping[str, Any]) -> None:
    for name, facts in manifest["labels"].items():
        place = _label_file(name, facts)
        if Path(place).name != place or "\\" in place:
            raise InputError(f"{file} names a label '{place}' that is no plain file name; prepare the data set again.")


def _label_file(name: str, facts: Any) -> str:
    """The file of a label, without its ending."""
    return str(facts.get("file", name)) if isinstance(facts, Mapping) else name
