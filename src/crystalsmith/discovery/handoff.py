"""The best candidates as inputs for density functional theory, or for other packages.

VASP inputs carry the settings of the Materials Project's relaxations (``MPRelaxSet`` of pymatgen), on whose scale the
reference's energies are; the POTCAR is the user's to add, ``POTCAR.spec`` names its parts. Quantum ESPRESSO inputs are
a start: cut-offs belong to pseudopotentials, which are the user's.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystalsmith.discovery.archive import ranked
from crystalsmith.discovery.candidate import Candidate
from crystalsmith.discovery.ledger import Folder
from crystalsmith.elements import symbol
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.potential.potentials import HUBBARD_U
from crystalsmith.evaluation.report.results import rounded
from crystalsmith.files import replace_text

Texts = dict[str, str]
"""File name to text."""

COLUMNS = ("rank", "id", "formula", "num_atoms", "energy_above_hull", "energy_per_atom")
"""Of ``index.csv``."""

SPACING = 0.25
"""Largest distance of points of the Brillouin zone in a Quantum ESPRESSO input, 1/angstrom, with the factor 2 pi."""

MAGNETIC = frozenset({*range(22, 30), *range(40, 47), *range(58, 71), *range(72, 78), *range(89, 101)})
"""Elements with open d or f shells, which start with a moment."""


def export(out: Path, to: str, top: int, place: Path | None = None) -> tuple[Path, int]:
    """Write the best accepted candidates of a run for another program.

    Args:
        out: the folder of the run.
        to: one of :data:`FORMATS`.
        top: how many, the most stable first.
        place: where to; ``out/export-<to>`` if not said.

    Returns:
        The folder, and how many candidates are in it.

    Raises:
        InputError: if there is no run, no accepted candidate, or no such format.
    """
    if to not in FORMATS:
        raise InputError(f"--to is '{to}'; use {', '.join(FORMATS)}.")
    if top < 1:
        raise InputError(f"--top is {top}; give 1 at least.")
    best = ranked(Folder.open(out).state())[:top]
    if not best:
        raise InputError(
            f"The run in {out} has accepted no candidate yet; go on with crystalsmith discover {out} --resume."
        )
    place = place or out / f"export-{to}"
    place.mkdir(parents=True, exist_ok=True)
    for name, text in FORMATS[to](best).items():
        (place / name).parent.mkdir(exist_ok=True)
        replace_text(place / name, text)
    replace_text(place / "index.csv", _index(best))
    return place, len(best)


def _index(best: Sequence[Candidate]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, one in enumerate(best, start=1):
        values = [one.values.get(n) for n in ("energy_above_hull", "energy_per_atom")]
        writer.writerow([rank, one.name, one.values["formula"], len(_crystal(one)[2]), *map(rounded, values)])
    return buffer.getvalue()


def _crystal(one: Candidate) -> Arrays:
    assert one.relaxed is not None
    return one.relaxed


def _structure(one: Candidate) -> Any:
    from pymatgen.core import Lattice, Structure

    frac, cell, numbers = _crystal(one)
    return Structure(Lattice(cell), [int(z) for z in numbers], frac % 1.0)


def vasp(best: Sequence[Candidate]) -> Texts:
    """A folder of INCAR, KPOINTS, POSCAR and POTCAR.spec for each."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    texts: Texts = {}
    for one in best:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = MPRelaxSet(_structure(one))
            files = {
                "INCAR": f"{inputs.incar}\n",
                "KPOINTS": f"{inputs.kpoints}\n",
                "POSCAR": f"{inputs.poscar}\n",
                "POTCAR.spec": "\n".join(inputs.potcar_symbols) + "\n",
            }
        texts |= {f"{one.name}/{name}": text for name, text in files.items()}
    return texts


def qe(best: Sequence[Candidate]) -> Texts:
    """An input of ``pw.x`` for each: variable-cell relaxation, with the names of pseudopotentials to fill in."""
    return {f"{one.name}/pw.in": pw_input(one.name, _crystal(one)) for one in best}


def pw_input(name: str, arrays: Arrays) -> str:
    """The text of one input of ``pw.x``."""
    from ase.data import atomic_masses

    frac, cell, numbers = arrays
    kinds = sorted({int(z) for z in numbers})
    reciprocal = 2 * math.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)
    grid = [max(1, math.ceil(length / SPACING)) for length in reciprocal]
    moments = [f"  starting_magnetization({k}) = 0.5" for k, z in enumerate(kinds, start=1) if z in MAGNETIC]
    lines = [
        "&CONTROL",
        "  calculation = 'vc-relax'",
        f"  prefix = '{name}'",
        "  pseudo_dir = './pseudo'",
        "  outdir = './tmp'",
        "/",
        "&SYSTEM",
        "  ibrav = 0",
        f"  nat = {len(numbers)}",
        f"  ntyp = {len(kinds)}",
        "  ecutwfc = 60.0  ! those of the pseudopotentials",
        "  ecutrho = 480.0",
        "  occupations = 'smearing', smearing = 'marzari-vanderbilt', degauss = 0.01",
        *(["  nspin = 2", *moments] if moments else []),
        "/",
        "&ELECTRONS",
        "  conv_thr = 1.0d-8",
        "/",
        "&IONS",
        "/",
        "&CELL",
        "/",
        "ATOMIC_SPECIES",
        *(f"  {symbol(z)} {atomic_masses[z]:.4f} {symbol(z)}.upf" for z in kinds),
        "CELL_PARAMETERS angstrom",
        *("  " + " ".join(f"{x:.8f}" for x in row) for row in cell),
        "ATOMIC_POSITIONS crystal",
        *(
            f"  {symbol(int(z))} " + " ".join(f"{x:.8f}" for x in row)
            for z, row in zip(numbers, frac % 1.0, strict=True)
        ),
        "K_POINTS automatic",
        f"  {grid[0]} {grid[1]} {grid[2]} 0 0 0",
    ]
    return "\n".join(lines) + "\n"


def ase(best: Sequence[Candidate]) -> Texts:
    """All of them in one extended XYZ file, with energy, forces and stress of the potential."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for one in best:
        frac, cell, numbers = _crystal(one)
        values = one.values
        info = {"id": one.name, "energy_above_hull": values.get("energy_above_hull")}
        atoms = Atoms(numbers=numbers, scaled_positions=frac, cell=cell, pbc=True, info=info)
        found = {"energy": values["energy"], "forces": np.array(values["forces"]), "stress": np.array(values["stress"])}
        atoms.calc = SinglePointCalculator(atoms, **found)
        frames.append(atoms)
    buffer = io.StringIO()
    write(buffer, frames, format="extxyz")
    return {"candidates.extxyz": buffer.getvalue()}


def pymatgen(best: Sequence[Candidate]) -> Texts:
    """All of them as computed entries, energies of the potential without corrections, which pymatgen can add."""
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    entries = []
    for one in best:
        structure = _structure(one)
        present = {e.symbol for e in structure.composition.elements}
        anions = present & {"O", "F"}
        hubbards = {s: u for s, u in HUBBARD_U.items() if s in present} if anions else {}
        entry = ComputedStructureEntry(
            structure,
            one.values["energy"],
            parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards},
            data={"energy_above_hull": one.values.get("energy_above_hull"), "plan": one.plan},
            entry_id=one.name,
        )
        entries.append(entry.as_dict())
    return {"entries.json": json.dumps(entries) + "\n"}


FORMATS: dict[str, Callable[[Sequence[Candidate]], Texts]] = {"vasp": vasp, "qe": qe, "ase": ase, "pymatgen": pymatgen}
"""What inputs can be written for."""
