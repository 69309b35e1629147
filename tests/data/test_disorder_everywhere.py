"""``--disorder``: every command that reads crystals has the same choice, of the same crystals."""

import csv

import pytest
from typer.testing import CliRunner

from crystalsmith.cli.main import app
from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.build import build_reference

CIF = """data_alloy
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 0.75
K1 K 0 0 0 0.25
Cl1 Cl 0.5 0.5 0.5 1
"""


def test_partly_occupied_sites_are_refused_or_resolved(tmp_path):
    (tmp_path / "alloy.cif").write_text(CIF)
    with pytest.raises(InputError):
        build_reference([tmp_path / "alloy.cif"], tmp_path / "refused")
    manifest = build_reference([tmp_path / "alloy.cif"], tmp_path / "largest", disorder="largest")
    assert manifest["counts"]["structures"] == 1
    assert manifest["disorder"] == "largest"
    assert manifest["noted"]["disorder_resolved"] == 1


def commands(path, model, out):
    """Every command that reads the crystal, and what it leaves where the crystal is read."""
    few = ["--model", str(model), "--num", "2", "--no-cif"]
    return {
        "data prepare": (["data", "prepare", str(path), str(out / "prepared")], "prepared/manifest.json"),
        "reference build": (["reference", "build", str(path), str(out / "known")], "known/manifest.json"),
        "evaluate": (["evaluate", str(path), "--out", str(out / "judged")], "judged/crystals.csv"),
        "score": (["score", str(path), str(path), "--match-by", "formula", "--out", str(out / "s")], "s/score.json"),
        "predict": (["predict", "band-gap", str(path), "--out", str(out / "gap.csv")], "gap.csv"),
        "start": (["generate", str(out / "a"), *few, "--start-from", str(path)], "a/crystals.csv"),
        "templates": (["generate", str(out / "b"), *few, "--templates", str(path)], "b/crystals.csv"),
    }


ALL = ("data prepare", "reference build", "evaluate", "score", "predict", "start", "templates")


@pytest.mark.parametrize("name", ALL)
def test_every_command_refuses_the_crystal_or_resolves_it(tmp_path, untrained, name) -> None:
    (tmp_path / "alloy.cif").write_text(CIF)
    command, left = commands(tmp_path / "alloy.cif", untrained, tmp_path)[name]
    refused = CliRunner().invoke(app, command)
    told = refused.output + ((tmp_path / left).read_text() if (tmp_path / left).is_file() else "")
    assert refused.exit_code != 0 or name in ("evaluate", "predict")  # these name it in their tables
    assert refused.exception is None or isinstance(refused.exception, SystemExit)
    assert "disordered" in told or "occupied" in told
    other = tmp_path / "again"
    other.mkdir()
    command, left = commands(tmp_path / "alloy.cif", untrained, other)[name]
    resolved = CliRunner().invoke(app, [*command, "--disorder", "largest"])
    assert resolved.exit_code == 0, resolved.output
    assert (other / left).is_file()
    if left.endswith(".csv"):
        with (other / left).open() as lines:
            rows = list(csv.DictReader(lines))
        assert not any(row.get("failure") for row in rows)
        assert name in ("start", "templates") or rows[0]["formula"] == "NaCl"


def test_disorder_without_a_file_is_refused(untrained, tmp_path) -> None:
    found = CliRunner().invoke(
        app, ["generate", str(tmp_path / "x"), "--model", str(untrained), "--disorder", "largest"]
    )
    assert found.exit_code == 2
    assert "--start-from" in found.output
