"""Energies above a reference's hull as labels: right where they are known beforehand, and near those of MP-20."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from tests.evaluation.conftest import CRYSTALS, ENERGIES
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.evaluation.reference.labels import energies_above_hull
from crystalsmith.formats import cif_text


def test_labels_are_distances_to_the_hull(reference_folder) -> None:
    numbers = np.array([11, 17, 11, 17, 11, 92, 12, 8])
    energies = np.array([-1.9, np.nan, 0.0, -3.5])
    found = energies_above_hull(reference_folder, numbers, np.array([2, 2, 2, 2]), energies)
    np.testing.assert_allclose(found, [0.1, np.nan, np.nan, -0.5], atol=1e-9)


@pytest.fixture
def table(tmp_path):
    """The crystals with formation energies 0, 0.05 and 0.2 eV/atom above the hull, and labels that say otherwise."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["material_id", "cif", "formation_energy_per_atom", "e_above_hull"])
        for name, above in (("nacl", 0.0), ("kcl", 0.05), ("mgo", 0.2)):
            frac, cell, numbers = CRYSTALS[name]
            out.writerow([name, cif_text(name, frac, cell, np.array(numbers)), ENERGIES[name] + above, 0.09])
    return path


def test_preparing_with_a_reference_replaces_the_label_and_limits_by_it(reference_folder, table, tmp_path) -> None:
    flags = ["--reference", str(reference_folder), "--jobs", "1", "--split-fractions", "1,0,0"]
    result = CliRunner().invoke(app, ["data", "prepare", str(table), str(tmp_path / "data"), *flags])
    assert result.exit_code == 0, result.output
    data = CrystalDataset.open(tmp_path / "data")
    data.verify()
    assert [name.decode() for name in data.ids] == ["nacl", "kcl"]
    np.testing.assert_allclose(data.labels([0, 1], ["energy_above_hull"])["energy_above_hull"], [0, 0.05], atol=1e-6)
    ledger = list(csv.DictReader((tmp_path / "data" / "ledger.csv").open()))
    assert [(row["id"], row["reason"]) for row in ledger] == [("mgo", "above_hull")]
    assert data.manifest["counts"]["dropped"] == {"above_hull": 1}
    assert data.manifest["settings"]["energy_above_hull"] == "computed"


def test_a_table_without_formation_energies_is_refused(reference_folder, table, tmp_path) -> None:
    table.write_text(table.read_text().replace("formation_energy_per_atom", "colour"))
    flags = ["--reference", str(reference_folder), "--jobs", "1"]
    result = CliRunner().invoke(app, ["data", "prepare", str(table), str(tmp_path / "data"), *flags])
    assert result.exit_code == 2
    assert "formation energy" in result.stderr
    assert not (tmp_path / "data").exists()


def test_original_labels_of_mp20_come_back(shared) -> None:
    """On the hull of 94 % of the Materials Project's entries; labels that were computed from it do not count."""
    import pyarrow.parquet as pq

    from crystalsmith.evaluation.reference.energies import read_entries
    from crystalsmith.evaluation.reference.hull import Hull

    entries = read_entries([shared("data/hull_reference_mp2020_full.parquet")])
    hull = Hull.from_entries(entries.compositions, entries.energies)
    columns = ["Z", "formation_energy_per_atom", "e_above_hull", "ehull_source"]
    table = pq.read_table(shared("data/mp20.parquet"), columns=columns)
    rows = table.take(list(range(0, len(table), 50))).to_pylist()
    errors = []
    for row in rows:
        if row["ehull_source"] == "computed" or None in (row["formation_energy_per_atom"], row["e_above_hull"]):
            continue
        elements, counts = np.unique(row["Z"], return_counts=True)
        composition = dict(zip(elements.tolist(), counts.astype(float).tolist(), strict=True))
        found = hull.distance(composition, row["formation_energy_per_atom"])
        if not found.missing:
            errors.append(abs(found.energy_above_hull - row["e_above_hull"]))
    assert len(errors) > 300
    assert np.median(errors) < 1e-4
    assert np.mean(errors) < 3e-3
