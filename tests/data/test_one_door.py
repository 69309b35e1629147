"""Folders, archives, POSCAR and JSON of every shape: read, refused by name, or counted as left out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import stat
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from crystalsmith.data.cif.read import crystals_of_cif
from crystalsmith.data.poscar import crystal_of_poscar
from crystalsmith.data.prepare import prepare
from crystalsmith.data.readers import open_source
from crystalsmith.data.rows import Refused, Row, RowError
from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.evaluation.structures import read_samples
from crystalsmith.generation.start import read_crystals

SALT = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na 0 0 0
Cl 0.5 0.5 0.5
"""
IRON = """iron
2.87
1 0 0
0 1 0
0 0 1
Fe
2
Direct
0 0 0
0.5 0.5 0.5
"""


def rows(path: Path, **options) -> list[Row | Refused]:
    return [row for chunk in open_source(path, **options).chunks(3) for row in chunk.rows()]


def formula(row: Row | Refused) -> str:
    if isinstance(row, Refused):
        return row.reason
    counts = Counter(SYMBOLS[z - 1] for z in row.atomic_numbers.tolist())
    return "".join(f"{name}{n}" for name, n in sorted(counts.items()))


MEMBERS = {
    "a.cif": SALT.encode(),
    "b.CIF": SALT.encode("utf-16"),
    "c.mcif": SALT.encode(),
    "d.cif.gz": gzip.compress(SALT.encode()),
    "e.cif.bz2": bz2.compress(SALT.encode()),
    "f.cif.xz": lzma.compress(SALT.encode()),
    "POSCAR": IRON.encode(),
    "sub/CONTCAR_2": IRON.encode(),
    "sub/x.vasp": IRON.encode(),
    "sub/POSCAR.gz": gzip.compress(IRON.encode()),
    "two.cif": (SALT + SALT).encode(),
    "._a.cif": b"\0\x05\x16\x07Mac OS X",
    "__MACOSX/._b.cif": b"\0",
    "inner.zip": b"PK",
    "readme.txt": b"hello",
    "POSCAR.json": b"{}",
}
FOUND = {
    "a": "Cl4Na4", "b": "Cl4Na4", "c": "Cl4Na4", "d": "Cl4Na4", "e": "Cl4Na4", "f": "Cl4Na4", "two:1": "Cl4Na4",
    "two:2": "Cl4Na4", "POSCAR": "Fe2", "sub/CONTCAR_2": "Fe2", "sub/x": "Fe2", "sub/POSCAR": "Fe2",
}  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_folder_and_a_zip_obey_the_same_rules(tmp_path: Path, zipped: bool) -> None:
    place = tmp_path / "in"
    if zipped:
        place = tmp_path / "in.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
    else:
        for name, content in MEMBERS.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    assert {row.id: formula(row) for row in rows(place)} == FOUND
    left = {one.what: one.count for one in open_source(place).files_left_out}
    assert left == {"hidden": 2, "archives inside": 1, "neither CIF nor POSCAR": 2}


@pytest.mark.parametrize(
    "name", [name for name in MEMBERS if not name.startswith(("._", "__", "inner", "readme"))][:11]
)
def test_each_file_by_itself_is_read_as_in_a_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / Path(name).name
    path.write_bytes(MEMBERS[name])
    assert {formula(row) for row in rows(path)} == {FOUND.get(name.split(".")[0], "Cl4Na4")}


def test_files_left_out_and_notes_stand_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "._a.cif").write_bytes(b"\0")
    (tmp_path / "in" / "a.cif").write_text(SALT)
    (tmp_path / "in" / "bare.cif").write_text(SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'", ""))
    manifest = prepare(tmp_path / "in", tmp_path / "out", jobs=1, progress=False)
    assert manifest["files_left_out"] == [{"what": "hidden", "count": 1, "example": "._a.cif"}]
    assert manifest["counts"]["noted"] == {"no_symmetry": 1}
    assert "bare,no_symmetry" in (tmp_path / "out" / "notes.csv").read_text()


def test_links_pipes_and_devices(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "real").mkdir(parents=True)
    (folder / "a.cif").write_text(SALT)
    (folder / "link.cif").symlink_to(folder / "a.cif")
    (folder / "nowhere.cif").symlink_to(tmp_path / "missing")
    (folder / "device.cif").symlink_to("/dev/zero")
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.cif")
    found = {row.id: row for row in rows(folder)}
    assert {name: formula(row) for name, row in found.items()} == {
        "a": "Cl4Na4", "link": "Cl4Na4", "nowhere": "unreadable", "device": "unreadable", "pipe": "unreadable",
    }  # fmt: skip
    assert "leads nowhere" in found["nowhere"].detail
    assert [one.what for one in open_source(folder).files_left_out] == ["links to folders"]
    for name in ("pipe.cif", "device.cif", "nowhere.cif"):
        with pytest.raises(InputError, match=r"pipe|device|nowhere"):
            open_source(folder / name)
    for ending in (".csv", ".json", ".extxyz", ".db", ".parquet", ".zip"):
        os.mkfifo(tmp_path / f"pipe{ending}")
        with pytest.raises(InputError, match="pipe"):
            open_source(tmp_path / f"pipe{ending}")


def test_a_link_inside_a_zip_is_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link.cif")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("a.cif", SALT)
    assert [row.id for row in rows(tmp_path / "a.zip")] == ["a"]
    assert [one.what for one in open_source(tmp_path / "a.zip").files_left_out] == ["links"]


def test_the_directory_of_a_zip_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for k in range(12):
            archive.writestr(f"{k}.cif", SALT)
    opened = []
    plain = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a, **k: opened.append(a) or plain(*a, **k))
    assert len(rows(tmp_path / "a.zip")) == 12  # in four chunks
    assert len(opened) == 2  # once to list the names, once for all chunks


def bombs(limit_name: str) -> bytes:
    return gzip.compress(b"0" * (70 * 2**20)) if limit_name == "gz" else lzma.compress(b"0" * (70 * 2**20))


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_what_unpacks_to_too_much_costs_one_row(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"a.cif.{kind}").write_bytes(bombs(kind))
    (found,) = rows(tmp_path / f"a.cif.{kind}")
    assert found.reason == "too_large"


@pytest.mark.parametrize("command", ["prepare", "evaluate", "start", "reference"])
def test_the_same_reader_gives_the_same_crystal_from_every_command(tmp_path: Path, command: str) -> None:
    path = tmp_path / "salt.cif"
    path.write_text(SALT.replace("'F m -3 m'", "'F 4/m -3 2/m'"))
    if command == "prepare":
        from crystalsmith.data.dataset import CrystalDataset

        prepare(path, tmp_path / "out", primitive=False, niggli=False, jobs=1, progress=False)
        data = CrystalDataset.open(tmp_path / "out")
        _, _, numbers = data.batch(np.arange(1)).crystals()[0]
    elif command == "evaluate":
        numbers = read_samples(path)[0].numbers
    elif command == "reference":
        from crystalsmith.evaluation.reference.build import build_reference

        assert build_reference([path], tmp_path / "ref")["counts"]["structures"] == 1
        numbers = np.load(tmp_path / "ref" / "atomic_numbers.npy")
    else:
        numbers = read_crystals(path)[0][2]
    assert Counter(np.asarray(numbers).tolist()) == {11: 4, 17: 4}


def test_three_blocks_are_three_crystals_for_evaluate_and_start(tmp_path: Path) -> None:
    path = tmp_path / "three.cif"
    path.write_text(SALT * 3)
    assert [sample.id for sample in read_samples(path)] == ["three:1", "three:2", "three:3"]
    assert len(read_crystals(path)) == 3


def test_poscar_without_elements(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(IRON.replace("Fe\n", ""))
    assert [row.reason for row in rows(path)] == ["no_elements"]
    with pytest.raises(InputError, match="names no elements"):
        read_crystals(path)
    # Where elements do not matter (templates), kinds are numbered.
    assert read_crystals(path, elements_matter=False)[0][2] == [1, 1]


@pytest.mark.parametrize(
    ("change", "atoms", "volume"),
    [
        (lambda t: t, {"Fe": 2}, 2.87**3),
        (lambda t: t.replace("2.87\n", "-24\n"), {"Fe": 2}, 24),
        (lambda t: t.replace("2.87\n", "2.87 2.87 5.74\n"), {"Fe": 2}, 2 * 2.87**3),
        (lambda t: t.replace("Fe\n2", "Fe_pv\n2"), {"Fe": 2}, 2.87**3),
        (lambda t: t.replace("Fe\n2", "Fe O\n1 1"), {"Fe": 1, "O": 1}, 2.87**3),
        (lambda t: t.replace("Direct", "Selective\nDirect").replace("0 0\n0.5", "0 0 F F F\n0.5"), {"Fe": 2}, 2.87**3),
        (lambda t: t.replace("iron", "Fe").replace("Fe\n2\n", "2\n"), {"Fe": 2}, 2.87**3),
        (
            lambda t: t.replace("Fe\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Fe\n0.5 0.5 0.5 O"),
            {"Fe": 1, "O": 1}, 2.87**3,
        ),
    ],
)  # fmt: skip
def test_poscar_in_its_forms(change, atoms, volume) -> None:
    (frac, cell, numbers), _ = crystal_of_poscar(change(IRON))
    assert Counter(SYMBOLS[z - 1] for z in numbers.tolist()) == atoms
    assert abs(np.linalg.det(cell)) == pytest.approx(volume)
    np.testing.assert_allclose(frac[1], [0.5] * 3)


def test_cartesian_positions_of_a_poscar_are_scaled_as_the_cell_is() -> None:
    (frac, _, _), _ = crystal_of_poscar(IRON.replace("Direct", "Cartesian"))
    np.testing.assert_allclose(frac[1], [0.5] * 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5 0.5 0.5\n", ""), ("Direct\n", ""), ("\n2\n", "\n2 3\n"), ("Fe", "Qq"), ("0 1 0", "0 1"), ("2.87", "x"),
        ("0 0 1\n", "0 1 0\n"),
    ],
)  # fmt: skip
def test_a_broken_poscar_is_refused(old: str, new: str) -> None:
    with pytest.raises(RowError):
        crystal_of_poscar(IRON.replace(old, new))


def structure() -> dict:
    (found,) = crystals_of_cif(SALT)
    frac, cell, numbers = found.crystal
    sites = [
        {"species": [{"element": SYMBOLS[z - 1], "occu": 1}], "abc": list(map(float, place)), "label": "x"}
        for place, z in zip(frac, numbers, strict=True)
    ]
    return {"@module": "x", "@class": "Structure", "lattice": {"matrix": cell.tolist()}, "sites": sites}


def arrays() -> tuple[np.ndarray, np.ndarray, list[str]]:
    (found,) = crystals_of_cif(SALT)
    frac, cell, numbers = found.crystal
    return frac, cell, [SYMBOLS[z - 1] for z in numbers]


def optimade() -> dict:
    frac, cell, names = arrays()
    attributes = {"lattice_vectors": cell.tolist(), "cartesian_site_positions": (frac @ cell).tolist()}
    species = [{"name": f"{n}1", "chemical_symbols": [n], "concentration": [1.0]} for n in ("Na", "Cl")]
    attributes |= {"species_at_sites": [f"{n}1" for n in names], "species": species, "_gap": 5.0}
    return {"id": "odbx/1", "type": "structures", "attributes": attributes}


def jarvis(cartesian: bool = False) -> dict:
    frac, cell, names = arrays()
    coords = (frac @ cell if cartesian else frac).tolist()
    return {"lattice_mat": cell.tolist(), "coords": coords, "elements": names, "cartesian": cartesian}


def ase_json(database: bool) -> str:
    from ase import Atoms
    from ase.db import connect
    from ase.io.jsonio import encode

    frac, cell, names = arrays()
    atoms = Atoms(names, scaled_positions=frac, cell=cell, pbc=True)
    if not database:
        return encode(atoms)
    path = Path(f"{os.getpid()}.json").absolute()
    try:
        connect(path, type="json", append=False).write(atoms, _gap=5.0)
        return path.read_text()
    finally:
        path.unlink()


def frame(orient: str) -> str:
    import pandas

    table = pandas.DataFrame({"structure": [structure(), structure()], "_gap": [5.0, 5.0]})
    return table.to_json(orient=orient)


SHAPES = {
    "pymatgen": lambda: json.dumps(structure()),
    "pymatgen list": lambda: json.dumps([structure()] * 2),
    "pymatgen by name": lambda: json.dumps({"a": structure(), "b": structure()}),
    "pymatgen beside labels": lambda: json.dumps({"structure": structure(), "_gap": 5.0}),
    "text inside": lambda: json.dumps([{"structure": json.dumps(structure()), "_gap": 5.0}]),
    "cif inside": lambda: json.dumps([{"material_id": "x", "cif": SALT, "_gap": 5.0}]),
    "cif by name": lambda: json.dumps({"a": SALT, "b": SALT}),
    "optimade": lambda: json.dumps({"data": [optimade(), optimade()], "meta": {"more": False}}),
    "optimade single": lambda: json.dumps({"meta": {}, "data": optimade()}),
    "jarvis": lambda: json.dumps([{"jid": "JVASP-1", "atoms": jarvis(), "_gap": 5.0}]),
    "jarvis cartesian": lambda: json.dumps(jarvis(True)),
    "ase": lambda: ase_json(False),
    "ase database": lambda: ase_json(True),
    "matbench": lambda: frame("split"),
    "data first": lambda: json.dumps(dict(reversed(json.loads(frame("split")).items()))),
    **{f"pandas {orient}": (lambda o=orient: frame(o)) for orient in ("records", "index", "columns", "table")},
    "columns of lists": lambda: json.dumps({"structure": [structure()] * 2, "_gap": [5.0] * 2}),
    "columns of arrays": lambda: json.dumps(
        [{"lattice": arrays()[1].tolist(), "frac": arrays()[0].tolist(), "Z": [11] * 4 + [17] * 4, "_gap": 5.0}]
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_of_every_shape(tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = SHAPES[shape]()
    for name, content in {
        "a.json": text.encode(),
        "b.json": text.encode("utf-16"),
        "c.json.gz": gzip.compress(text.encode()),
    }.items():
        (tmp_path / name).write_bytes(content)
        found = rows(tmp_path / name)
        assert found
        assert {formula(row) for row in found} == {"Cl4Na4"}
        assert all(row.labels.get("_gap", 5.0) == 5.0 for row in found)
    if "_gap" in text:
        assert all(row.labels for row in found)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"@class": "Molecule", "sites": [{"species": [{"element": "H", "occu": 1}], "xyz": [0, 0, 0]}]}, "molecule"),
        ({"composition": {"Na": 1}, "energy": -1.0, "entry_id": "a"}, "without a structure"),
        (
            {"numbers": [1], "positions": [[0, 0, 0]], "cell": np.eye(3).tolist(), "pbc": [True, True, False]},
            "periodic",
        ),
        ({"id": "x", "attributes": {"chemical_formula": "H2", "a": 1}}, "no crystal in a shape"),
    ],
)  # fmt: skip
def test_json_that_holds_no_crystal_is_named_for_what_it_is(tmp_path: Path, content: dict, says: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps([content]))
    (found,) = rows(tmp_path / "a.json")
    assert says in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "{", "[1, 2", '{"a": }', "[" * 100_000, "1" * 5000, '{"a": 1}', "[]x", "nonsense", "[" + "1" * 5000 + "]",
        '{"a": [1], "b": [1, 2]}',
    ],
)  # fmt: skip
def test_json_of_no_sense_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as error:
        rows(tmp_path / "a.json")
    assert len(str(error.value).splitlines()) == 1


def test_json_is_streamed_and_a_value_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalsmith.data import json_stream

    entry = json.dumps(structure())
    assert [v for _, _, v in json_stream.pieces(io.StringIO("[" + ",".join([entry] * 400) + "]"))] == [
        structure()
    ] * 400
    monkeypatch.setattr(json_stream, "MAX_VALUE", 10_000)
    monkeypatch.setattr(json_stream, "BLOCK", 1000)
    assert sum(1 for _ in json_stream.pieces(io.StringIO("[" + ",".join([entry] * 400) + "]"))) == 400
    with pytest.raises(ValueError, match="more than"):
        list(json_stream.pieces(io.StringIO('["' + "x" * 30_000 + '"]')))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_csv_of_every_separator_and_encoding(tmp_path: Path, separator: str, encoding: str) -> None:
    header = separator.join(["Material_ID", "Formula", "Author", "CIF"])
    body = separator.join(["mp-1", "NaCl", "Müller", f'"{SALT}"'])
    (tmp_path / "a.csv").write_bytes(f"{header}\n{body}\n".encode(encoding))
    (found,) = rows(tmp_path / "a.csv")
    assert (found.id, formula(found)) == ("mp-1", "Cl4Na4")


def test_a_cell_of_a_csv_with_several_blocks_gives_several_crystals(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'id,gap,cif\nx,1.5,"{SALT}{SALT}"\ny,2.5,"{SALT}"\n')
    found = rows(tmp_path / "a.csv")
    assert [(row.id, row.labels) for row in found] == [("x:1", {}), ("x:2", {}), ("y", {"gap": 2.5})]
    assert found[0].notes[0][0] == "labels_left_out"


def test_small_files_of_large_cost_are_refused_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.monotonic()
    wide = 'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3:x:R:99999999'
    (tmp_path / "a.extxyz").write_text(f"1\n{wide}\nNa 0 0 0\n")
    assert [row.reason for row in rows(tmp_path / "a.extxyz")] == ["unreadable"]
    zeros = pa.array([[0.0] * 2_000_000], type=pa.list_(pa.float64()))
    table = {"lattice": pa.array([[1.0] * 9]), "frac": zeros, "Z": pa.array([[1]])}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(InputError, match="2,000,000 values"):
        open_source(tmp_path / "a.parquet")
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(f"'x,y,z+{k}/5039'" for k in range(1, 5000))
    for symmetry in (listed, "_cell_note '" * 200_000, "_cell_note 'a\n" * 100_000):
        text = SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'", symmetry)
        assert all(isinstance(found, RowError) for found in refused(text))
    sites = "".join(f"Na {k / 200:.4f} {k % 14 / 14:.4f} {k % 15 / 15:.4f}\n" for k in range(200))
    refused(SALT + sites)
    connection = sqlite3.connect(tmp_path / "a.db")
    endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n"
    connection.execute(f"CREATE VIEW systems AS {endless}")
    connection.close()
    with pytest.raises(InputError, match="a view in the place"):
        open_source(tmp_path / "a.db")
    assert time.monotonic() - start < 60  # all of them together, on a busy machine


def refused(text: str) -> list:
    try:
        return crystals_of_cif(text)
    except RowError as error:
        return [error]


@pytest.mark.parametrize(
    ("a", "atoms", "says"),
    [
        (1.59, "Bi 0 0 0", "g/cm3"),
        (20.0, "H 0 0 0", "no crystal"),
        (1e4, "Fe 0 0 0\nFe 0.5 0.5 0.5", "no crystal"),
        (6.0, "Bi 0 0 0\nBi 0.2 0 0", "sum of their radii"),
        (6.0, "Fe 0 0 0\nFe 0.05 0 0", "angstrom apart"),
    ],
)
def test_crystals_of_no_sense_are_refused(tmp_path: Path, a: float, atoms: str, says: str) -> None:
    text = SALT.replace("5.64", str(a)).replace("'F m -3 m'", "'P 1'").replace("Na 0 0 0\nCl 0.5 0.5 0.5", atoms)
    (tmp_path / "a.cif").write_text(text)
    with pytest.raises(InputError, match=says):
        prepare(tmp_path / "a.cif", tmp_path / "out", elements=None, jobs=1, progress=False)


def test_partly_occupied_sites_are_refused_or_the_largest_taken(tmp_path: Path) -> None:
    mixed = structure()
    mixed["sites"][0]["species"] = [{"element": "Na", "occu": 0.6}, {"element": "K", "occu": 0.4}]
    mixed["sites"][7]["species"] = [{"element": "Cl", "occu": 0.2}]
    (tmp_path / "a.json").write_text(json.dumps([mixed]))
    assert [row.reason for row in rows(tmp_path / "a.json")] == ["disordered"]
    (found,) = rows(tmp_path / "a.json", disorder="largest")
    assert formula(found) == "Cl3Na4"
    assert found.notes[0][0] == "disorder_resolved"
    with pytest.raises(InputError, match="refuse or largest"):
        open_source(tmp_path / "a.json", disorder="some")


@pytest.mark.parametrize("text", [False, True], ids=["nested columns", "JSON text"])
def test_a_parquet_column_of_structures(tmp_path: Path, text: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = json.dumps(structure()) if text else structure()
    table = [{"material_id": "a", "structure": held, "gap": 1.5}, {"material_id": "b", "structure": held, "gap": None}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    assert [(row.id, formula(row), row.labels) for row in rows(tmp_path / "a.parquet")] == [
        ("a", "Cl4Na4", {"gap": 1.5}),
        ("b", "Cl4Na4", {}),
    ]
