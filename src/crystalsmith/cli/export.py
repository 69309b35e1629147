"""``crystalsmith export``: candidates of a run as inputs for density functional theory and other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalsmith.cli._shared import examples

EPILOG = examples(
    "crystalsmith export out --to vasp --top 20",
    "crystalsmith export out --to qe --top 5 --out pw",
    "crystalsmith export out --to pymatgen",
)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of crystalsmith discover.")],
    to: Annotated[str, typer.Option(help="vasp, qe, ase or pymatgen.")] = "vasp",
    top: Annotated[int, typer.Option(help="How many, the most stable first.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Where to.", show_default="RUN/export-<to>")] = None,
) -> None:
    """Write the best candidates of a run as inputs for DFT, or for another package.

    vasp: INCAR, KPOINTS, POSCAR and POTCAR.spec of each, with the settings of the Materials Project; the POTCAR is
    yours to add. qe: inputs of pw.x, with the names of your pseudopotentials to fill in. ase: extended XYZ. pymatgen:
    computed entries. Energies come back with crystalsmith discover RUN --energies.
    """
    from crystalsmith import explore

    written = explore.export.__wrapped__(run, to, top, out)  # errors name options here, keywords in Python
    print(f"{written.number} candidates for {to} in {written.path}.")
