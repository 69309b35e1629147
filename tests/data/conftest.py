"""Small sets of crystals for the tests of data preparation."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure


@functools.cache
def sample_structures() -> dict[str, Structure]:
    """Known crystals in awkward cells, by id."""
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]])
    titanate = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    low = Structure(
        Lattice.from_parameters(5.0, 6.1, 7.3, 81, 95, 103),
        ["Ca", "Si", "O", "O"],
        np.random.default_rng(3).random((4, 3)),
    )
    quartz = Structure.from_spacegroup(
        "P3_221", Lattice.hexagonal(4.913, 5.405), ["Si", "O"], [[0.4697, 0, 2 / 3], [0.4135, 0.2669, 0.1191]]
    )
    return {"salt": salt, "diamond": diamond, "titanate": titanate, "low": low, "quartz": quartz}


@pytest.fixture
def structures() -> dict[str, Structure]:
    return {name: s.copy() for name, s in sample_structures().items()}


@pytest.fixture
def write_parquet(tmp_path: Path):
    """A function that writes rows of ``id -> (frac, cell, Z)`` and further columns to a Parquet file."""

    def write(crystals: dict[str, tuple], name: str = "input.parquet", **columns: list) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = {
            "material_id": list(crystals),
            "lattice": [np.asarray(c, dtype=float).reshape(-1).tolist() for _, c, _ in crystals.values()],
            "frac": [np.asarray(f, dtype=float).reshape(-1).tolist() for f, _, _ in crystals.values()],
            "Z": [np.asarray(z).tolist() for _, _, z in crystals.values()],
        }
        path = tmp_path / name
        pq.write_table(pa.table({**table, **columns}), path)
        return path

    return write
