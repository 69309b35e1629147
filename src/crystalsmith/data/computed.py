"""Properties that a crystal shows by itself and that need no label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError

Values = NDArray[np.float64]

SYMPREC = 0.1
"""Tolerance in angstrom of the space group search, that of the files that generation writes."""

_GRAM_PER_CM3 = 1.66053906660  # one dalton per cubic angstrom (CODATA 2018)


def compute(name: str, batch: CrystalBatch) -> Values:
    """``(B,)`` values of a property in :data:`COMPUTED`; NaN where a crystal has none.

    Raises:
        InputError: if a package that it takes is missing.
    """
    try:
        return COMPUTED[name](batch)
    except ImportError as error:
        raise InputError(
            f"Computing {name} takes the package {error.name}; install it, or prepare data with the label '{name}'."
        ) from None


def num_elements(batch: CrystalBatch) -> Values:
    """Number of different elements."""
    return _counts(batch).astype(bool).sum(1).astype(np.float64)


def density(batch: CrystalBatch) -> Values:
    """Mass density in g/cm3."""
    return _counts(batch) @ _masses() * _GRAM_PER_CM3 / batch.volume.double().numpy()


def space_group(batch: CrystalBatch) -> Values:
    """Number of the space group at 0.1 angstrom."""
    import moyopy
    from rich.progress import track

    def number(frac: Values, cell: Values, numbers: NDArray[np.int64]) -> float:
        try:
            found = moyopy.MoyoDataset(moyopy.Cell(cell.tolist(), frac.tolist(), numbers.tolist()), symprec=SYMPREC)
        except Exception:  # the search fails on some crystals; moyopy raises several kinds
            return np.nan
        return float(found.number)

    crystals = batch.crystals()
    shown = track(crystals, "Space groups", disable=len(crystals) < 2000, transient=True)
    return np.array([number(*crystal) for crystal in shown], dtype=np.float64)


def hhi_production(batch: CrystalBatch) -> Values:
    """Herfindahl-Hirschman index of production, weighted by mass (Gaultois et al., Chem. Mater. 2013)."""
    return _hhi(batch, 0)


def hhi_reserve(batch: CrystalBatch) -> Values:
    """The same of reserves."""
    return _hhi(batch, 1)


def hhi_score(batch: CrystalBatch) -> Values:
    """The mean of the two."""
    return (_hhi(batch, 0) + _hhi(batch, 1)) / 2


COMPUTED: dict[str, Callable[[CrystalBatch], Values]] = {
    "num_elements": num_elements,
    "density": density,
    "space_group": space_group,
    "hhi_production": hhi_production,
    "hhi_reserve": hhi_reserve,
    "hhi_score": hhi_score,
}
"""Property name -> function; chemical_system is read off the data set itself."""


def _counts(batch: CrystalBatch) -> Values:
    """``(B, 100)`` atoms of each element."""
    counts = np.zeros((len(batch), len(SYMBOLS)))
    np.add.at(counts, (batch.batch_index.numpy(), batch.atomic_numbers.numpy() - 1), 1.0)
    return counts


def _masses() -> Values:
    from ase.data import atomic_masses

    return np.asarray(atomic_masses[1 : len(SYMBOLS) + 1], dtype=np.float64)


def hhi_of_elements(which: int) -> Values:
    """``(100,)``: the index of each element, 0 of production, 1 of reserves; NaN where none is known."""
    from pymatgen.analysis.hhi import HHIModel
    from pymatgen.core import Composition

    model = HHIModel()
    table = np.full(len(SYMBOLS), np.nan)
    for column, name in enumerate(SYMBOLS):
        value = model.get_hhi(Composition(name))[which]
        if value is not None:
            table[column] = value
    return table


def _hhi(batch: CrystalBatch, which: int) -> Values:
    table = hhi_of_elements(which)
    mass = _counts(batch) * _masses()
    unknown = (mass[:, np.isnan(table)] > 0).any(1)
    values = (mass @ np.nan_to_num(table)) / mass.sum(1)
    return np.where(unknown, np.nan, values)
