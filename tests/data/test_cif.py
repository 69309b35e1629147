"""The CIF reader agrees with pymatgen, and says what is wrong where it cannot read."""

from __future__ import annotations

import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser

from crystalsmith.data.cif.read import crystals_of_cif
from crystalsmith.data.cif.sites import MAX_SITES
from crystalsmith.data.rows import Crystal, RowError

SALT = """# a comment
data_salt
_cell_length_a 5.6402(3)
_cell_length_b 5.6402(3)
_cell_length_c 5.6402(3)
_cell_angle_alpha 90
_cell_angle_beta 90.00
_cell_angle_gamma 90
_publ_text
;
 loop_ _atom_site_fract_x 7
;
_symmetry_space_group_name_H-M 'F m -3 m'
{symmetry}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0.0 0.0 0.0 1
Cl1 Cl- 0.5(1) 0.5 0.5 1.0
"""


def crystal_from_cif(text: str) -> Crystal:
    (found,) = crystals_of_cif(text)
    if isinstance(found, RowError):
        raise found
    return found.crystal


def same(text: str) -> bool:
    frac, cell, numbers = crystal_from_cif(text)
    expected = CifParser.from_str(text).parse_structures(primitive=False)[0]
    return len(numbers) == len(expected) and StructureMatcher(primitive_cell=False).fit(
        Structure(cell, numbers, frac), expected
    )


@pytest.mark.filterwarnings("ignore")
def test_a_space_group_by_its_symbol_alone() -> None:
    frac, _, numbers = crystal_from_cif(SALT.format(symmetry=""))
    assert len(frac) == 8
    assert sorted(numbers.tolist()) == [11] * 4 + [17] * 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", ["Fd-3m", "P3_221", "R-3m", "Pnma", "P6_3/mmc", "C2/c", "Ia-3d", "P-1"])
def test_symmetry_operations_agree_with_pymatgen(group: str) -> None:
    lattices = {
        "Fd-3m": Lattice.cubic(8), "Ia-3d": Lattice.cubic(12), "Pnma": Lattice.orthorhombic(5, 6, 7),
        "C2/c": Lattice.monoclinic(9, 6, 7, 105), "P-1": Lattice.from_parameters(5, 6, 7, 80, 85, 95),
    }  # fmt: skip
    lattice = lattices.get(group, Lattice.hexagonal(5, 9))
    made = Structure.from_spacegroup(group, lattice, ["Ti", "O"], [[0, 0, 0], [0.11, 0.27, 0.31]])
    text = made.to(fmt="cif", symprec=0.001)
    assert "P 1\n" not in text
    assert same(text)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("_cell_length_a 5.6402(3)", "_cell_length_a -5.64", "bad_cell"),
        ("_cell_length_a 5.6402(3)", "_cell_length_a nan", "bad_cell"),
        ("_cell_length_a 5.6402(3)", "", "unreadable"),
        ("_cell_angle_alpha 90", "_cell_angle_alpha 200", "bad_cell"),
        ("0.5(1)", "?", "not_finite"),
        ("0.5(1)", "nan", "not_finite"),
        ("Cl-", "Xx", "unknown_element"),
        ("Cl-", "Og", "unknown_element"),
        ("0.5 1.0", "0.5 0.5", "disordered"),
        ("_atom_site_fract_y", "_atom_site_other", "unreadable"),
        ("data_salt", "data_\0", "unreadable"),
        ("Cl1 Cl- 0.5(1) 0.5 0.5 1.0", "Cl1 Cl- 0.5(1)", "unreadable"),
    ],
)
def test_what_cannot_be_read_has_a_reason(old: str, new: str, reason: str) -> None:
    text = SALT.format(symmetry="")
    assert old in text
    crystal_from_cif(text)
    with pytest.raises(RowError) as error:
        crystal_from_cif(text.replace(old, new))
    assert error.value.reason == reason


def test_a_huge_cif_is_refused_by_its_number_of_sites() -> None:
    text = SALT.format(symmetry="") + "".join(f"Na{k} Na 0.{k:05d} 0 0 1\n" for k in range(10 * MAX_SITES))
    with pytest.raises(RowError) as error:
        crystal_from_cif(text)
    assert error.value.reason == "too_many_atoms"


def test_deuterium_is_hydrogen() -> None:
    assert crystal_from_cif(SALT.format(symmetry="").replace("Cl-", "D"))[2].tolist() == [11] * 4 + [1] * 4
