"""The data commands: what a person sees, and one sentence with exit code 2 for every kind of bad input."""

from __future__ import annotations

import functools
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from crystalsmith.cli.main import app


@functools.cache
def salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def parquet(path: Path, **changes: object) -> Path:
    s = salt()
    columns = {
        "material_id": ["salt"],
        "lattice": [s.lattice.matrix.reshape(-1).tolist()],
        "frac": [s.frac_coords.reshape(-1).tolist()],
        "Z": [list(s.atomic_numbers)],
        **changes,
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def test_prepare_then_info(tmp_path) -> None:
    source = parquet(tmp_path / "a.parquet", dft_band_gap=[5.0])
    code, shown, _ = run("prepare", source, tmp_path / "out", "--split-fractions", "1,0,0", "--jobs", 1)
    assert code == 0
    assert "1 crystals with 2 atoms" in shown
    assert "band_gap" in shown
    assert run("info", tmp_path / "out", "--verify")[1].startswith(shown.strip())
    manifest = json.loads(run("info", tmp_path / "out", "--json")[1])
    assert manifest["counts"]["kept"] == manifest["counts"]["train"] == 1
    assert manifest["sha256"].keys() >= {"cell.npy", "labels/band_gap.npy", "ledger.csv"}


def cif_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def big_cif(path: Path) -> Path:
    rng = np.random.default_rng(0)
    Structure(Lattice.cubic(60), ["Na"] * 10_000, rng.random((10_000, 3))).to(filename=str(path), fmt="cif")
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CIF = salt().to(fmt="cif")
GARBAGE = np.random.default_rng(0).bytes(4096)
NAN = [float("nan")] * 24

BAD = {
    "no such file": (lambda d: d / "none.csv", "no file or folder"),
    "unknown ending": (lambda d: write(d / "a.docx", "x"), "no reader knows"),
    "empty folder": (lambda d: d, "neither CIF nor POSCAR files nor"),
    **{
        f"empty {ending}": (lambda d, ending=ending: write(d / f"a.{ending}", ""), says)
        for ending, says in {
            "csv": "is empty", "parquet": "is empty", "zip": "zip archive", "json": "is empty", "extxyz": "is empty",
            "db": "not an ASE database",
        }.items()
    },
    **{
        f"garbage {ending}": (lambda d, ending=ending: write(d / f"a.{ending}", GARBAGE), says)
        for ending, says in {
            "csv": "binary data", "parquet": "not a complete Parquet", "zip": "zip archive", "cif": "unreadable",
            "json": "not complete JSON", "extxyz": "number of atoms", "db": "not an ASE database",
            "json.gz": "not complete JSON",
        }.items()
    },
    "empty cif": (lambda d: write(d / "a.cif", ""), "unreadable 1"),
    "csv with a header only": (lambda d: write(d / "a.csv", "material_id,cif\n"), "holds no rows"),
    "csv without cif column": (lambda d: write(d / "a.csv", "id,x\n1,2\n"), "no column lattice or frac or Z"),
    "parquet without lattice": (lambda d: parquet(d / "a.parquet", lattice=None), "no column lattice"),
    "NaN coordinates": (lambda d: parquet(d / "a.parquet", frac=[NAN]), "not_finite 1"),
    "no volume": (lambda d: parquet(d / "a.parquet", lattice=[[1.0] * 9]), "bad_cell 1"),
    "negative volume": (
        lambda d: write(d / "a.cif", CIF.replace("_cell_length_a   5.64", "_cell_length_a   -5.64")),
        "bad_cell 1",
    ),
    "unknown element": (lambda d: parquet(d / "a.parquet", Z=[[130] * 8]), "unknown_element 1"),
    "unknown symbol": (lambda d: write(d / "a.cif", CIF.replace("  Na  ", "  Qq  ")), "unknown_element 1"),
    "10,000 atoms": (lambda d: big_cif(d / "a.cif"), "too_many_atoms 1"),
    "truncated zip": (lambda d: truncated(cif_zip(d / "a.zip", {"a.cif": CIF})), "not a complete zip"),
    "truncated parquet": (lambda d: truncated(parquet(d / "a.parquet")), "not a complete Parquet"),
    "truncated json": (lambda d: write(d / "a.json", json.dumps([salt().as_dict()])[:-40]), "not complete JSON"),
    "escaping zip": (lambda d: cif_zip(d / "a.zip", {"ok.cif": CIF, "../evil.cif": CIF}), "points outside"),
    "absolute zip": (lambda d: cif_zip(d / "a.zip", {"/etc/evil.cif": CIF}), "points outside"),
    "zip without crystals": (lambda d: cif_zip(d / "a.zip", {"a.txt": "x"}), "holds neither CIF nor POSCAR"),
    "xyz cut short": (lambda d: write(d / "a.xyz", "99999999999\nLattice\nNa 0 0 0\n"), "ends before"),
    "xyz out of step": (lambda d: write(d / "a.xyz", "1\nc\nNa 0 0 0\nCl 0 0 0\n"), "line 4 should be"),
    "deeply nested json": (lambda d: write(d / "a.json", "[" * 200_000), "not complete JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(case: str, tmp_path) -> None:
    make, says = BAD[case]
    source = make(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = run("prepare", source, tmp_path / "out", "--jobs", 1)
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in err
    after = sorted(p.name for p in tmp_path.iterdir())
    assert [name for name in after if name != "out.ledger.csv"] == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--elements", "Li,Xx"], "'Xx' is not a chemical symbol"),
        (["--keep-splits", "train,holdout"], "Splits to keep"),
        (["--split-fractions", "0.5,0.5"], "three numbers"),
        (["--split-fractions", "0.5,0.5,0.5"], "add up to 1"),
        (["--max-atoms", "-3"], "at least 1"),
        (["--jobs", "-1"], "at least 1"),
        (["--limit", "-1"], "at least 1 row"),
        (["--primitive-tolerance", "-1"], "between 0 and 1"),
    ],
)
def test_bad_settings_are_one_sentence(flags, says, tmp_path) -> None:
    code, _, err = run("prepare", parquet(tmp_path / "a.parquet"), tmp_path / "out", *flags)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert says in err
    assert not (tmp_path / "out").exists()


def test_bad_files_among_good_ones_cost_themselves_only(tmp_path) -> None:
    members = {"good.cif": CIF, "empty.cif": "", "garbage.cif": GARBAGE.decode("latin-1"), "more/good2.cif": CIF}
    code, shown, _ = run("prepare", cif_zip(tmp_path / "a.zip", members), tmp_path / "out", "--jobs", 1)
    assert code == 0
    assert "2 of 4 rows were dropped" in shown
    assert "garbage,unreadable" in (tmp_path / "out" / "ledger.csv").read_text()


def test_info_of_what_is_no_data_set(tmp_path) -> None:
    code, _, err = run("info", tmp_path)
    assert code == 2
    assert "no prepared data set" in err


def test_symmetry_is_found_and_kept_beside_the_data(dataset_folder) -> None:
    result = CliRunner().invoke(app, ["data", "symmetry", str(dataset_folder), "--jobs", "1", "--source", "a test"])
    assert result.exit_code == 0, result.output
    assert "templates" in result.output
    assert (dataset_folder / "symmetry.npz").is_file()
    assert '"source": "a test"' in (dataset_folder / "templates.json").read_text()
    missing = CliRunner().invoke(app, ["data", "symmetry", str(dataset_folder / "nowhere")])
    assert missing.exit_code != 0
