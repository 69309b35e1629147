"""One picture of many crystals: the first of a run folder (or any structure file), drawn side by side.

python benchmarks/contact_sheet.py crystals/ docs/images/mp20-tiny.png --columns 8 --rows 4
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from ase import Atoms
from ase.io import read


def crystals_of(source: Path, count: int) -> list[Atoms]:
    """The first ``count`` crystals of a run folder or of a file that ASE reads."""
    file = source / "crystals.extxyz" if source.is_dir() else source
    if not file.is_file():
        sys.exit(f"{file} does not exist; give the folder of a run or a file of structures.")
    return read(file, index=f":{count}")


def draw(crystals: list[Atoms], path: Path, columns: int) -> None:
    """Write the sheet; every crystal is turned the same way and fills its square."""
    import matplotlib as mpl

    mpl.use("agg")
    from ase.visualize.plot import plot_atoms
    from matplotlib import pyplot as plt
    from PIL import Image

    rows = -(-len(crystals) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.95 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, atoms in zip(axes.flat, crystals, strict=False):
        atoms.wrap()
        plot_atoms(atoms, axis, rotation="-80x,-15y,-5z", radii=0.45)
        axis.set_title(atoms.get_chemical_formula("metal", empirical=True), fontsize=8)
    figure.tight_layout(pad=0.4)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=90)
    Image.open(picture).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    args = parser.parse_args()
    draw(crystals_of(args.source, args.columns * args.rows), args.picture, args.columns)


if __name__ == "__main__":
    main()
