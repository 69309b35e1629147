"""Every format that preparation reads gives back the crystals, ids, labels and splits that were written."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from monty.json import MontyEncoder
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor

from crystalsmith.data.readers import open_source
from crystalsmith.data.rows import Refused, Row

GAPS = {"salt": 5.0, "diamond": 4.1, "titanate": 1.8, "quartz": 5.7}


def read(path: Path) -> dict[str, Row]:
    rows = [row for chunk in open_source(path).chunks(2) for row in chunk.rows()]
    refused = [row for row in rows if isinstance(row, Refused)]
    assert not refused
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return {row.id: row for row in rows if isinstance(row, Row)}


def check(rows: dict[str, Row], structures: dict[str, Structure], *, gaps: bool = True) -> None:
    assert set(rows) == set(structures)
    matcher = StructureMatcher(primitive_cell=False, ltol=0.001, stol=0.001, angle_tol=0.1)
    for name, expected in structures.items():
        row = rows[name]
        assert matcher.fit(Structure(row.cell, row.atomic_numbers, row.frac_coords), expected), name
        assert row.labels == pytest.approx({"band_gap": GAPS[name]} if gaps and name in GAPS else {})


def write_csv(path: Path, structures: dict[str, Structure], symprec: float | None = None) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "material_id", "dft_band_gap", "pretty_formula", "cif"])
        for k, (name, s) in enumerate(structures.items()):
            table.writerow([k, name, GAPS.get(name, ""), s.reduced_formula, s.to(fmt="cif", symprec=symprec)])


def test_parquet(structures, write_parquet) -> None:
    crystals = {k: (s.frac_coords, s.lattice.matrix, s.atomic_numbers) for k, s in structures.items()}
    splits = ["train", "train", "val", "test", ""]
    path = write_parquet(crystals, band_gap=[GAPS.get(k) for k in structures], mp20_split=splits, volume=[1.0] * 5)
    rows = read(path)
    check(rows, structures)
    assert [row.split for row in rows.values()] == ["train", "train", "val", "test", None]


def test_parquet_of_symbols_and_cartesian_positions(structures, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "immutable_id": list(structures),
        "lattice_vectors": [s.lattice.matrix.tolist() for s in structures.values()],
        "cartesian_site_positions": [s.cart_coords.tolist() for s in structures.values()],
        "species_at_sites": [[site.specie.symbol for site in s] for s in structures.values()],
    }
    pq.write_table(pa.table(table), tmp_path / "input.parquet")
    check(read(tmp_path / "input.parquet"), structures, gaps=False)


@pytest.mark.parametrize("symprec", [None, 0.01], ids=["P1", "symmetry operations"])
def test_csv(structures, tmp_path, symprec) -> None:
    write_csv(tmp_path / "crystals.csv", structures, symprec)
    check(read(tmp_path / "crystals.csv"), structures)


def test_folder_of_split_files(structures, tmp_path) -> None:
    names = list(structures)
    parts = {"train": names[:3], "val": names[3:4], "test": names[4:]}
    for split, members in parts.items():
        write_csv(tmp_path / f"{split}.csv", {k: structures[k] for k in members})
    rows = read(tmp_path)
    check(rows, structures)
    assert {split: [k for k, row in rows.items() if row.split == split] for split in parts} == parts


def test_folder_and_zip_of_cifs(structures, tmp_path) -> None:
    folder = tmp_path / "cifs"
    (folder / "more").mkdir(parents=True)
    for k, (name, s) in enumerate(structures.items()):
        s.to(filename=str((folder / "more" if k > 2 else folder) / f"{name}.cif"))
    with zipfile.ZipFile(tmp_path / "cifs.zip", "w") as archive:
        for file in folder.rglob("*.cif"):
            archive.write(file, file.relative_to(folder))
        archive.writestr("readme.txt", "not a crystal")
    for path in (folder, tmp_path / "cifs.zip"):
        rows = {name.split("/")[-1]: row for name, row in read(path).items()}
        check(rows, structures, gaps=False)


def test_extended_xyz(structures, tmp_path) -> None:
    frames = []
    for name, s in structures.items():
        atoms = AseAtomsAdaptor.get_atoms(s)
        atoms.info = {"material_id": name, **({"band_gap": GAPS[name]} if name in GAPS else {})}
        frames.append(atoms)
    ase.io.write(tmp_path / "crystals.extxyz", frames, format="extxyz")
    check(read(tmp_path / "crystals.extxyz"), structures)


@pytest.mark.parametrize("layout", ["list", "named", "entries", "lines", "compressed"])
def test_pymatgen_json(structures, tmp_path, layout) -> None:
    import gzip

    entries = [
        ComputedStructureEntry(s, -1.0, entry_id=k, data={"dft_band_gap": GAPS[k]} if k in GAPS else {})
        for k, s in structures.items()
    ]
    plain = json.loads(json.dumps(entries, cls=MontyEncoder))
    path = tmp_path / {"lines": "a.jsonl", "compressed": "a.json.gz"}.get(layout, "a.json")
    if layout == "named":
        path.write_text(json.dumps({k: s.as_dict() for k, s in structures.items()}))
    elif layout == "lines":
        path.write_text("\n".join(json.dumps(entry) for entry in plain))
    elif layout == "compressed":
        path.write_bytes(gzip.compress(json.dumps(plain).encode()))
    else:
        path.write_text(json.dumps({"entries": plain} if layout == "entries" else plain))
    check(read(path), structures, gaps=layout != "named")


def test_json_imports_nothing_that_it_names(structures, tmp_path) -> None:
    poisoned = structures["low"].as_dict()
    poisoned["@module"], poisoned["@class"] = "antigravity", "Popen"
    for site in poisoned["sites"]:
        site["properties"] = {"x": {"@module": "antigravity", "@class": "anything"}}
    (tmp_path / "a.json").write_text(json.dumps({"low": poisoned}))
    check(read(tmp_path / "a.json"), {"low": structures["low"]}, gaps=False)


def test_ase_database(structures, tmp_path) -> None:
    with ase.db.connect(tmp_path / "crystals.db") as database:
        for name, s in structures.items():
            gap = {"band_gap": GAPS[name]} if name in GAPS else {}
            database.write(AseAtomsAdaptor.get_atoms(s), material_id=name, **gap)
    check(read(tmp_path / "crystals.db"), structures)


def test_the_preferred_of_two_names_for_one_property_wins(structures, write_parquet) -> None:
    crystals = {k: (s.frac_coords, s.lattice.matrix, s.atomic_numbers) for k, s in structures.items()}
    path = write_parquet(crystals, ml_bulk_modulus=[1.0] * 5, dft_bulk_modulus=[2.0, None, float("nan"), 2.0, 2.0])
    values = [row.labels["bulk_modulus"] for row in read(path).values()]
    assert values == [2.0, 1.0, 1.0, 2.0, 2.0]


def test_cells_of_a_column_that_hold_no_number_are_no_labels(structures, tmp_path) -> None:
    write_csv(tmp_path / "crystals.csv", structures)
    text = (tmp_path / "crystals.csv").read_text().replace("pretty_formula", "remark").replace("NaCl,", "InF,")
    (tmp_path / "crystals.csv").write_text(text)
    assert not any("remark" in row.labels for row in read(tmp_path / "crystals.csv").values())


def test_positions_are_read_exactly(structures, write_parquet) -> None:
    s = structures["low"]
    row = read(write_parquet({"low": (s.frac_coords, s.lattice.matrix, s.atomic_numbers)}))["low"]
    np.testing.assert_array_equal(row.frac_coords, s.frac_coords)
    np.testing.assert_array_equal(row.cell, s.lattice.matrix)
    assert row.atomic_numbers.tolist() == list(s.atomic_numbers)


def test_ids_and_labels_that_cannot_be_stored_as_they_are(structures, tmp_path) -> None:
    entry = {
        "structure": structures["low"].as_dict(),
        "data": {"material_id": "a\ud800\n\0b", "x/../y": 1.0, "huge": 1e300},
    }
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    row = read(tmp_path / "a.json")["a???b"]
    assert row.labels == {"x/../y": 1.0}


def test_line_ends_that_are_written_out_and_names_of_jarvis(tmp_path: Path) -> None:
    import json

    from crystalsmith.formats import cif_text

    corners, cell, numbers = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 3.0 * np.eye(3), np.array([55, 17])
    text = cif_text("x", corners, cell, numbers)
    written = text.replace("\n", "\\n").replace('"', '""')
    (tmp_path / "escaped.csv").write_text(f'id,cif\na,"{written}"\n')
    atoms = {"lattice_mat": cell.tolist(), "coords": corners.tolist(), "elements": ["Cs", "Cl"], "cartesian": False}
    (tmp_path / "jarvis.json").write_text(json.dumps([{"jid": "JVASP-1", "atoms": atoms}]))
    (tmp_path / "lines.jsonl").write_text(json.dumps({"material_id": "mp-1", "cif": text, "gap": 1.5}) + "\n")
    for name, own in (("escaped.csv", "a"), ("jarvis.json", "JVASP-1"), ("lines.jsonl", "mp-1")):
        (row,) = [row for chunk in open_source(tmp_path / name).chunks(5) for row in chunk.rows()]
        assert isinstance(row, Row), row
        assert row.id == own
        assert row.atomic_numbers.tolist() == [55, 17]
        assert np.allclose(row.cell, cell)
