"""What a column of labels says: numbers as people write them, classes, and what is neither is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.info import describe
from crystalsmith.data.labels import Column, parse_label_kinds, plain_number, read_cell, sentence
from crystalsmith.data.prepare import prepare
from crystalsmith.errors import InputError
from crystalsmith.formats import cif_text

EDGES = np.linspace(4.0, 4.5, 8)


def crystals(count: int) -> list[str]:
    corners = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    return [cif_text(f"m{k}", corners, EDGES[k] * np.eye(3), np.array([55, 17])) for k in range(count)]


def table(path: Path, **columns: list) -> Path:
    count = len(next(iter(columns.values())))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", *columns])
        for k, cif in enumerate(crystals(count)):
            writer.writerow([f"m{k}", cif, *(values[k] for values in columns.values())])
    return path


def prepared(path: Path, out: Path, **options):
    manifest = prepare(path, out, jobs=1, progress=False, split_fractions=(1.0, 0.0, 0.0), **options)
    data = CrystalDataset.open(out)
    order = np.argsort([bytes(name) for name in data.ids])
    return manifest, {name: data.labels(order, [name])[name].tolist() for name in data.label_names}


def settle(texts: list, numbers: list[float] = (), asked: str = "", name: str = "x"):
    column = Column(name)
    for place, text in enumerate(texts):
        column.add(place, text)
    reading, values = column.settle(np.array(numbers), asked)
    return reading, [values.get(k) for k in range(len(texts))]


def test_label_column_not_numeric(tmp_path) -> None:
    table(
        tmp_path / "labels.csv",
        gap=["0,05", "1,15", "2,25", "3,35"],
        hardness=["0.5 GPa", "1.5 GPa", "2.5 GPa", "3.5 GPa"],
        phase=["metal", "insulator", "metal", "insulator"],
        is_metal=["True", "False", "True", "False"],
        mixed=["0", "1", "> 5", "na"],
        remark=["seen once", "twice", "in air", "never"],
    )
    manifest, labels = prepared(tmp_path / "labels.csv", tmp_path / "out")
    assert labels["gap"] == pytest.approx([0.05, 1.15, 2.25, 3.35])
    assert labels["hardness"] == [0.5, 1.5, 2.5, 3.5]
    assert labels["phase"] == [2.0, 1.0, 2.0, 1.0]
    assert labels["is_metal"] == [1.0, 0.0, 1.0, 0.0]
    assert labels["mixed"][:2] == [0.0, 1.0]
    assert np.isnan(labels["mixed"][2:]).all()
    assert manifest["labels"]["phase"]["classes"] == ["insulator", "metal"]
    assert manifest["labels"]["phase"]["kind"] == "category"
    assert manifest["labels"]["hardness"]["unit"] == "GPa"
    text = describe(manifest)
    for line in (
        "gap: 4 of 4 cells are no plain number ('0,05'); the comma is read as the decimal sign",
        "mixed: 2 of 4 cells are no plain number ('> 5'); 2 of them are taken as unlabelled",
        "remark: 4 of 4 cells are no plain number ('seen once'); left out as free text",
    ):
        assert line in text


def test_parquet_is_read_as_csv_is(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "gap": ["0,05", "1,15", None, "3,35"],
        "is_metal": [True, False, None, True],
        "number": ["1.5", "2", "3", "4"],
        "phase": ["a", "b", "a", "b"],
        "parts": [[1.0], [2.0], [3.0], [4.0]],
    }
    ids = [f"m{k}" for k in range(4)]
    pq.write_table(pa.table({"material_id": ids, "cif": crystals(4), **columns}), tmp_path / "a.parquet")
    written = {name: ["" if v is None else v for v in values] for name, values in columns.items() if name != "parts"}
    table(tmp_path / "a.csv", **written)
    manifest, labels = prepared(tmp_path / "a.parquet", tmp_path / "p")
    _, same = prepared(tmp_path / "a.csv", tmp_path / "c")
    assert str(labels) == str(same)
    assert labels["number"] == [1.5, 2.0, 3.0, 4.0]
    assert "parts: left out, as it holds list<" in describe(manifest)


@pytest.mark.parametrize(
    ("texts", "numbers", "expected", "why"),
    [
        (["1,234", "2,500"], [], [None, None], "could be a decimal sign or thousands"),
        (["1,234", "0,5"], [], [1.234, 0.5], "decimal sign"),
        (["1,234", "2,345.5"], [], [1234.0, 2345.5], "thousands"),
        (["1,234", "12"], [0.5], [1234.0, None], "thousands"),
        (["0,5"], [0.25], [None], "unlabelled"),
        (["1.5 eV", "200 meV"], [], [1.5, 0.2], "converted from meV"),
        (["1.5eV", "n/a"], [2.0], [1.5, None], "read in eV"),
        (["1 GPa"], [], [None], "band_gap is in eV"),
        (["true", "false"], [], [1.0, 0.0], "0 and 1"),
        (["true"], [0.0, 1.0], [1.0], "true and false"),
        (["2D", "3D", "2D", "3D"], [], [1.0, 2.0, 1.0, 2.0], "classes: 2D 1, 3D 2"),
        (["1e400", "inf"], [1.0], [None, None], "unlabelled"),
        (["[...]"], [], [None], "lists are no labels"),
        (["0x10", "1_000"], [1.0], [None, None], "unlabelled"),
    ],
)
def test_what_cells_mean_is_decided_by_their_column(texts, numbers, expected, why) -> None:
    reading, values = settle(texts, numbers, name="band_gap")
    assert values == (pytest.approx(expected) if None not in expected else expected)
    assert why in sentence("band_gap", reading.facts())
    assert reading.read == sum(v is not None for v in expected)


def test_units_of_a_label_that_is_not_known_must_be_the_same() -> None:
    assert settle(["1 S/cm", "2 S/cm"])[1] == [1.0, 2.0]
    assert settle(["1 S/cm", "2 S/m"])[1] == [None, None]
    assert settle(["1 S/cm"], [3.0])[1] == [None]


def test_the_user_settles_what_is_ambiguous() -> None:
    assert settle(["1,234"], [], "comma")[1] == [1.234]
    assert settle(["1,234"], [], "thousands")[1] == [1234.0]
    with pytest.raises(InputError, match="x:comma"):
        settle(["1,234"], [], "number")
    assert settle(["never", "once"], [], "category")[1] == [1.0, 2.0]
    assert settle(["True", "false", "true"], [], "category")[1] == [2.0, 1.0, 2.0]
    for bad in ("gap", "gap:word", ":number"):
        with pytest.raises(InputError, match="--label"):
            parse_label_kinds([bad])
    assert parse_label_kinds(["a:b:number", "bandgap:comma"]) == {"a:b": "number", "band_gap": "comma"}


def test_a_label_asked_for_that_no_column_has(tmp_path) -> None:
    table(tmp_path / "a.csv", gap=["1", "2"])
    with pytest.raises(InputError, match="--label gab"):
        prepared(tmp_path / "a.csv", tmp_path / "out", labels=["gab:number"])


def test_limits_of_energy_hold_for_cells_that_are_read_late(tmp_path) -> None:
    table(tmp_path / "a.csv", energy_above_hull=["0,05", "0,5", "50 meV", "0.2 eV/atom"])
    manifest, labels = prepared(tmp_path / "a.csv", tmp_path / "out")
    assert manifest["counts"]["dropped"] == {"above_hull": 2}
    assert labels["energy_above_hull"] == pytest.approx([0.05, 0.05])
    assert (tmp_path / "out" / "ledger.csv").read_text().count("above_hull") == 2


def test_names_stay_as_written(tmp_path) -> None:
    names = ["Hardness (GPa)", "Hardness [GPa]", "a/b", ".hidden", "type"]
    table(tmp_path / "a.csv", **{name: [str(k), "1"] for k, name in enumerate(names)})
    manifest, labels = prepared(tmp_path / "a.csv", tmp_path / "out")
    assert sorted(labels) == sorted(names)
    assert [labels[name][0] for name in names] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all((tmp_path / "out" / file).is_file() for file in manifest["sha256"])
    assert {p.parent for p in (tmp_path / "out").rglob("*.npy")} == {tmp_path / "out", tmp_path / "out" / "labels"}


def test_plain_numbers_and_nothing_else() -> None:
    assert [plain_number(v) for v in ("1.5", " 2 ", "-3e-12", 4, np.float32(0.5))] == [1.5, 2.0, -3e-12, 4.0, 0.5]
    odd = [True, np.bool_(True), None, "", "1_0", "inf", float("nan"), 1e39, 1e-46, [1.0], "1,5", {"a": 1}, 10**400]
    assert [plain_number(v) for v in odd] == [None] * len(odd)
    assert read_cell("5 %").word == "%"


def test_scalars_that_ase_keeps_for_itself_are_labels(tmp_path) -> None:
    frame = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 {} pbc="T T T"\nCs 0 0 0\nCl 2 2 2\n'
    facts = 'magmom=0.5 energy=-7.0 dipole="0 0 1" stress="1 0 0 0 1 0 0 0 1" gap=2.0 id=a'
    (tmp_path / "a.extxyz").write_text(frame.format(facts))
    manifest, labels = prepared(tmp_path / "a.extxyz", tmp_path / "out")
    assert labels == {"energy": [-7.0], "gap": [2.0], "magmom": [0.5]}
    assert {"dipole", "stress"} <= set(manifest["columns"])
    assert json.dumps(manifest["columns"]).count("lists are no labels") == 2
