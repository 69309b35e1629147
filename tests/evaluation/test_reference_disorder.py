"""``reference build --disorder``: the same choice, of the same crystals, as ``data prepare`` has."""

import pytest

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
