"""``crystalsmith data``: prepare a data set, and look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalsmith.cli._shared import Commands, DisorderOption, EngineOption, RayOption, examples, print_json
from crystalsmith.errors import InputError

if TYPE_CHECKING:
    from crystalsmith.data.writer import AboveHull

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare data sets for training and look at them.",
)

EXAMPLES = examples(
    "crystalsmith data prepare mp20.parquet data/mp20 --keep-splits train,val",
    "crystalsmith data prepare mp_20/ data/mp20",
    "crystalsmith data prepare my_cifs.zip data/mine --elements all --max-atoms 40",
)


@app.command(epilog=EXAMPLES)
def prepare(
    input: Annotated[
        Path,
        typer.Argument(
            help="Parquet, CSV with a 'cif' column, folder with train/val/test files, CIF or POSCAR, folder or zip of "
            "these, extended XYZ, JSON of structures, or ASE database."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    max_atoms: Annotated[int, typer.Option(help="Most atoms in the primitive cell; 0 for no limit.")] = 20,
    elements: Annotated[
        str, typer.Option(help="'published' (76 elements), 'all' (up to Fm), or a list such as Li,Fe,O.")
    ] = "published",
    max_energy_above_hull: Annotated[
        float, typer.Option(help="eV/atom, applied to rows that carry the label; 'inf' for no limit.")
    ] = 0.1,
    primitive: Annotated[bool, typer.Option(help="Find the primitive cell.")] = True,
    primitive_tolerance: Annotated[
        float, typer.Option(help="Angstrom that atoms may be off for a smaller cell to be taken.")
    ] = 0.1,
    niggli: Annotated[bool, typer.Option(help="Niggli-reduce the cell.")] = True,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Compute the label energy_above_hull from the formation energies (of the same corrections) and the "
            "hull of this folder made by crystalsmith reference build."
        ),
    ] = None,
    keep_splits: Annotated[str, typer.Option(help="Keep only these splits, such as train,val.")] = "train,val,test",
    split_fractions: Annotated[
        str, typer.Option(help="Shares of train, val and test for rows whose split the input does not say.")
    ] = "0.9,0.05,0.05",
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Drop rows whose id or crystal came before (else only counted).")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KIND",
            help="How a column is meant that is not all numbers: number, comma (decimal commas), thousands (commas "
            "between thousands) or category. Repeatable.",
        ),
    ] = None,
    disorder: DisorderOption = "refuse",
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 for all cores.")] = 0,
    engine: EngineOption = "local",
    ray_address: RayOption = None,
    limit: Annotated[int, typer.Option(help="Read only this many rows; 0 for all.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the data set; that of the folder by default.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier prepared data set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn crystals in any common format into a data set that training opens in milliseconds.

    Each crystal becomes its primitive, Niggli-reduced cell in symmetric form. What was dropped, and why, stands row by
    row in OUTPUT/ledger.csv.
    """
    from crystalsmith.data.info import describe
    from crystalsmith.data.prepare import prepare as run

    manifest = run(
        input,
        output,
        max_atoms=max_atoms or None,
        elements=_elements(elements),
        max_energy_above_hull=None if max_energy_above_hull == float("inf") else max_energy_above_hull,
        primitive=primitive,
        primitive_tolerance=primitive_tolerance,
        niggli=niggli,
        keep_splits=[s.strip() for s in keep_splits.split(",") if s.strip()],
        split_fractions=_fractions(split_fractions),
        drop_duplicates=drop_duplicates,
        jobs=jobs or None,
        engine=engine,
        ray_address=ray_address,
        limit=limit or None,
        name=name or None,
        overwrite=overwrite,
        above_hull=None if reference is None else _above_hull(reference),
        disorder=disorder,
        labels=label,
    )
    if as_json:
        print_json(manifest)
    else:
        print(describe(manifest))


@app.command(epilog=examples("crystalsmith data info data/mp20", "crystalsmith data info data/mp20 --json"))
def info(
    folder: Annotated[Path, typer.Argument(help="A folder made by crystalsmith data prepare.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its hash as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a prepared data set holds: counts, sizes, elements, labels, and what was dropped."""
    from crystalsmith.data.dataset import MEND, CrystalDataset
    from crystalsmith.data.info import describe
    from crystalsmith.schema import interpreting

    dataset = CrystalDataset.open(folder)
    if verify:
        dataset.verify()
    if as_json:
        print_json(dataset.manifest)
        return
    with interpreting(str(folder / "manifest.json"), MEND):
        text = describe(dataset.manifest)
    print(text)
    if verify:
        print("\nall files are as they were written")


@app.command(
    epilog=examples(
        "crystalsmith data symmetry data/mp20", "crystalsmith generate out --space-group 225 --templates FILE"
    )
)
def symmetry(
    folder: Annotated[Path, typer.Argument(help="A folder made by crystalsmith data prepare.")],
    jobs: Annotated[int, typer.Option(help="Processes; 0 = one per core.")] = 0,
    source: Annotated[str, typer.Option(help="What the file of templates says about its origin.")] = "",
) -> None:
    """Find the symmetry of every crystal of a prepared data set and keep it in the same folder.

    symmetry.npz lets training noise crystals within their space group (data.symmetric_share); templates.json holds the
    Wyckoff positions that the training crystals occupy, for generate --space-group.
    """
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.data.sites import TEMPLATES, find_sites
    from crystalsmith.progress import metered

    dataset = CrystalDataset.open(folder)
    with metered("symmetry", len(dataset)) as advance:
        symmetric, templates = find_sites(dataset, jobs, source=source, progress=advance)
    print(
        f"{symmetric:,} of {len(dataset):,} crystals have a symmetry; {templates:,} templates in {folder / TEMPLATES}."
    )


def _above_hull(reference: Path) -> AboveHull:
    from functools import partial

    from crystalsmith.evaluation.reference.known import Reference
    from crystalsmith.evaluation.reference.labels import energies_above_hull

    opened = Reference.open(reference)
    _ = opened.hull  # an error now, not after the crystals were read
    return partial(energies_above_hull, opened)


def _elements(text: str) -> Any:
    from crystalsmith.elements import ALLOWED, parse_chemical_system

    if text == "published":
        return ALLOWED
    return None if text == "all" else parse_chemical_system(text)


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--split-fractions takes three numbers such as 0.9,0.05,0.05, not '{text}'.") from None
    return train, val, test
