"""A reference set on disk: known structures by formula, hull entries by chemical system, opened in an instant.

The folder holds ``manifest.json`` and memory-mapped ``.npy`` arrays. Structures stand sorted by reduced formula, so the
peers of a crystal are found by bisection and only they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import NUMBERS, SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.reference.hull import Hull, System, by_system
from crystalsmith.schema import NO_ARRAY, Items, Map, Number, Record, Text, check, read_json, whole
from crystalsmith.versions import Update, up_to_date

FORMAT = "crystalsmith-reference-1"
UPDATES: tuple[Update, ...] = ()
"""From each earlier version to the next."""

STRUCTURE_ARRAYS = ("frac_coords", "cell", "atomic_numbers", "offsets", "ids", "formulas", "density", "space_group")
HULL_ARRAYS = ("hull_offsets", "hull_elements", "hull_amounts", "hull_energies", "hull_ids")
FRAMEWORKS = "frameworks"
"""An array that references of earlier versions lack."""
SAME_SHARE = 1e-4
"""Atomic fractions that differ by less are of one composition."""
ADDED_ELEMENT = "element "
"""How the names of the entries at zero begin that stand for the elements, whether or not the input listed them."""
SCHEMES = ("mp2020", "none")
"""Correction schemes this package can bring a potential's energies to; a reference may name others."""


MEND = "build the reference again"

MANIFEST = Record(
    {"counts": Record({"structures": whole(), "hull_entries": whole()}, {"refused": Map(whole())})},
    {
        "name": Text(),
        "created": Text(100),
        "sources": Items(Text()),
        "splits": Items(Text(20), none=True),
        "corrections": Text(200, none=True),
        "pymatgen": Text(100, none=True),
        "elemental_energies": Map(Number(-1e6, 1e6), most=120, none=True),
        "elements": Items(Text(3), most=120),
        "hull_left_out": Map(Items(Text())),
    },
)
"""What the manifest of a reference holds."""


class Reference:
    """C known structures and M hull entries; either may be none.

    Attributes:
        path: the folder.
        manifest: name, sources, correction scheme, elemental energies, counts.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        names = [*(STRUCTURE_ARRAYS if self.num_structures else ()), *(HULL_ARRAYS if self.num_entries else ())]
        self._arrays = {name: _load(path / f"{name}.npy") for name in names}
        if self.num_structures and (path / f"{FRAMEWORKS}.npy").is_file():
            self._arrays[FRAMEWORKS] = _load(path / f"{FRAMEWORKS}.npy")
        self._check_sizes()

    @classmethod
    def open(cls, path: Path | str) -> Reference:
        """Open a reference folder.

        Raises:
            InputError: if it is none, or a file is missing or damaged.
        """
        folder = Path(path)
        file = folder / "manifest.json"
        if not file.is_file():
            raise InputError(f"{folder} is no reference set; make one with crystalsmith reference build.")
        manifest = up_to_date(read_json(file, mend=MEND), FORMAT.rpartition("-")[0], UPDATES)
        if manifest is None:
            raise InputError(f"{folder} is no reference set of this version ({FORMAT}); build it again.")
        check(manifest, MANIFEST, str(file), MEND)
        return cls(folder, manifest)

    def _check_sizes(self) -> None:
        """Refuse arrays of other shapes or types than the format has, or that do not add up."""
        crystals, entries = self.num_structures, self.num_entries
        atoms = self._rows("offsets", crystals)
        parts = self._rows("hull_offsets", entries)
        one = {"ids": "SU", "formulas": "S", "density": "f", "space_group": "iu"}
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "frac_coords": ((atoms, 3), "f"),
            "atomic_numbers": ((atoms,), "iu"),
            "cell": ((crystals, 3, 3), "f"),
            **{name: ((crystals,), kinds) for name, kinds in one.items()},
            "hull_elements": ((parts,), "iu"),
            "hull_amounts": ((parts,), "f"),
            "hull_energies": ((entries,), "f"),
            "hull_ids": ((entries,), "SU"),
        }
        for name, (shape, kinds) in shapes.items():
            if name in self._arrays and (
                self._arrays[name].shape != shape or self._arrays[name].dtype.kind not in kinds
            ):
                raise InputError(f"{self.path / name}.npy is not of the size and type the manifest says; {MEND}.")
        if entries:
            numbers, amounts = self._arrays["hull_elements"], self._arrays["hull_amounts"]
            energies = self._arrays["hull_energies"]
            sane = numbers.min() >= 1 and numbers.max() <= len(SYMBOLS) and bool((amounts > 0).all())
            if not (sane and np.isfinite(energies).all() and np.isfinite(amounts).all()):
                raise InputError(f"The hull of {self.path} holds impossible numbers; {MEND}.")

    def _rows(self, name: str, count: int) -> int:
        """What the offsets of an array end with; 0 where there is none."""
        if not count:
            return 0
        offsets = self._arrays[name]
        if offsets.shape != (count + 1,) or offsets.dtype.kind not in "iu":
            raise InputError(f"{self.path / name}.npy is not of the size and type the manifest says; {MEND}.")
        steps = np.diff(offsets.astype(np.int64))
        if offsets[0] != 0 or (steps < 1).any():
            raise InputError(f"{self.path / name}.npy does not ascend; {MEND}.")
        return int(offsets[-1])

    @property
    def name(self) -> str:
        """The name people know it by."""
        return str(self.manifest.get("name", self.path.name))

    @property
    def num_structures(self) -> int:
        """Structures that novelty is judged against."""
        return int(self.manifest["counts"].get("structures", 0))

    @property
    def num_entries(self) -> int:
        """Entries that the hull is made of."""
        return int(self.manifest["counts"].get("hull_entries", 0))

    @property
    def corrections(self) -> str | None:
        """The correction scheme of its energies; None where it has no energies."""
        return self.manifest.get("corrections")

    @property
    def density(self) -> NDArray[np.float64]:
        """``(C,)``, g/cm^3."""
        return np.asarray(self._arrays["density"], dtype=np.float64)

    @property
    def space_groups(self) -> NDArray[np.int64]:
        """``(C,)`` numbers at a tolerance of 0.1 angstrom, 0 where the search failed."""
        return np.asarray(self._arrays["space_group"], dtype=np.int64)

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """``(C,)`` atoms in the cells as stored (primitive)."""
        return np.diff(self._arrays["offsets"])

    @cached_property
    def frameworks(self) -> frozenset[str] | None:
        """Labels of the frameworks of the structures; None where the reference was built before they were kept."""
        found = self._arrays.get(FRAMEWORKS)
        return None if found is None else frozenset(name.decode() for name in found.tolist())

    def knows_composition(self, numbers: NDArray[np.int64]) -> bool:
        """Whether a structure or a hull entry has the reduced formula of these atoms."""
        if self.num_structures:
            formulas, key = self._arrays["formulas"], formula_text(numbers)
            place = int(np.searchsorted(formulas, np.bytes_(key)))
            if len(key) <= formulas.dtype.itemsize and place < len(formulas) and formulas[place] == key:
                return True
        if not self.num_entries:
            return False
        elements, counts = np.unique(numbers, return_counts=True)
        shares = dict(zip(elements.tolist(), (counts / counts.sum()).tolist(), strict=True))
        for entry in self.hull.entries_of(tuple(sorted(shares))).tolist():
            known = self.hull.composition(entry)
            if all(abs(known[z] - share) < SAME_SHARE for z, share in shares.items()):
                return True
        return False

    @cached_property
    def num_elements(self) -> NDArray[np.int64]:
        """``(C,)`` different elements in each structure."""
        return np.bincount(self._elements // 128, minlength=self.num_structures)

    @cached_property
    def _elements(self) -> NDArray[np.int64]:
        """128 times the structure's number plus the atomic number, once for each of its elements, ascending."""
        owner = np.repeat(np.arange(self.num_structures), self.num_atoms)
        return np.unique(owner * 128 + self._arrays["atomic_numbers"].astype(np.int64))

    @cached_property
    def systems(self) -> Mapping[System, NDArray[np.int64]]:
        """The numbers of the structures of each chemical system."""
        if not self.num_structures:
            return {}
        return by_system(np.concatenate([[0], np.cumsum(self.num_elements)]), self._elements % 128)

    @property
    def element_counts(self) -> NDArray[np.float64]:
        """``(101,)`` atoms of each atomic number, over all structures."""
        return np.bincount(self._arrays["atomic_numbers"], minlength=101)[:101].astype(np.float64)

    @cached_property
    def hull(self) -> Hull:
        """The hull; see :class:`crystalsmith.evaluation.reference.hull.Hull`.

        Raises:
            InputError: if the reference has no energies.
        """
        if not self.num_entries:
            raise InputError(f"The reference {self.path} holds no energies; build it with --hull to judge stability.")
        arrays = (self._arrays[name] for name in HULL_ARRAYS[:4])
        offsets, elements, amounts, energies = (np.asarray(a) for a in arrays)
        return Hull(offsets, elements.astype(np.int64), amounts, energies)

    def entry_name(self, entry: int) -> str:
        """The id of a hull entry."""
        return str(self._arrays["hull_ids"][entry].decode())

    @cached_property
    def entries_by_name(self) -> Mapping[str, int]:
        """Id to number of the hull entries."""
        if not self.num_entries:
            return {}
        return {name.decode(): number for number, name in enumerate(self._arrays["hull_ids"].tolist())}

    @cached_property
    def structures_by_name(self) -> Mapping[str, int]:
        """Id to number of the structures; of equal ids, which are no rule, the first."""
        if not self.num_structures:
            return {}
        names = [name.decode("utf-8", "replace") for name in self._arrays["ids"].tolist()]
        return {name: number for number, name in reversed(list(enumerate(names)))}

    def same_formula(self, numbers: NDArray[np.int64]) -> Iterator[tuple[str, Arrays]]:
        """The structures of the reduced formula that these atoms have: ids and arrays, in the reference's order."""
        if not self.num_structures:
            return
        formulas = self._arrays["formulas"]
        key = formula_text(numbers)
        if len(key) > formulas.dtype.itemsize:
            return
        first, last = (int(np.searchsorted(formulas, np.bytes_(key), side)) for side in ("left", "right"))
        for row in range(first, last):
            yield self.structure(row)

    def structure(self, row: int) -> tuple[str, Arrays]:
        """Id and arrays of one structure."""
        atoms = slice(int(self._arrays["offsets"][row]), int(self._arrays["offsets"][row + 1]))
        frac = np.array(self._arrays["frac_coords"][atoms], dtype=np.float64)
        cell = np.array(self._arrays["cell"][row], dtype=np.float64)
        numbers = self._arrays["atomic_numbers"][atoms].astype(np.int64)
        return self._arrays["ids"][row].decode("utf-8", "replace"), (frac, cell, numbers)

    def formation_energy(self, composition: Mapping[int, float], energy_per_atom: float) -> float:
        """The formation energy in eV/atom of a crystal from its total energy per atom on the reference's scale.

        Raises:
            InputError: if the reference does not know the elemental energies.
        """
        known = self.manifest.get("elemental_energies")
        if not known:
            raise InputError(
                f"The reference {self.path} knows no elemental energies, so total energies cannot be compared with it; "
                "build it with --elemental-energies, or give formation energies."
            )
        atoms = sum(composition.values())
        try:
            elements = sum(n * known[SYMBOLS[z - 1]] for z, n in composition.items())
        except KeyError:
            return float("nan")
        return energy_per_atom - elements / atoms

    def without_elemental_energy(self, composition: Mapping[int, float]) -> tuple[str, ...]:
        """Symbols of the elements whose energy the reference does not know."""
        known = self.manifest.get("elemental_energies") or {}
        return tuple(SYMBOLS[z - 1] for z in sorted(composition) if SYMBOLS[z - 1] not in known)


def formula_text(numbers: NDArray[np.int64]) -> bytes:
    """The reduced formula as the reference sorts by it: symbols with counts in order of atomic number."""
    return "".join(f"{SYMBOLS[z - 1]}{n}" for z, n in formula_key(numbers)).encode()


def parse_elements(energies: Mapping[str, Any], where: str) -> dict[str, float]:
    """Elemental energies ``{symbol: eV/atom}``, checked.

    Raises:
        InputError: if a name is no element or a value no finite number.
    """
    found = {}
    for name, value in energies.items():
        if name not in NUMBERS or isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where} should map element symbols to eV/atom, but '{name}' has the value {value!r}.")
        if not np.isfinite(value):
            raise InputError(f"{where} gives {name} no finite energy; give eV/atom.")
        found[name] = float(value)
    return found


def _load(file: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{file} is missing; build the reference again.") from None
    except NO_ARRAY:
        raise InputError(f"{file} is truncated or damaged; build the reference again.") from None
    return array
