"""Kinds of CIF that other readers turn into another crystal: each is read rightly here, or refused by name."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from crystalsmith.data.cif.read import Found, crystals_of_cif
from crystalsmith.data.rows import RowError
from crystalsmith.data.sense import GRAM_PER_CM3
from crystalsmith.elements import SYMBOLS

MASS = {"Na": 22.990, "Cl": 35.453, "Ti": 47.867, "O": 15.999, "Si": 28.085, "Mg": 24.305, "Al": 26.982, "Mn": 54.938}
MASS |= {"F": 18.998, "Sr": 87.62, "C": 12.011, "Bi": 208.98, "Fe": 55.845}


def cif(name: str, cell: tuple[float, ...], symmetry: str, atoms: list[str], columns: str = "", more: str = "") -> str:
    """A CIF of ``atoms`` such as ``Na 0 0 0``, with further columns of the atom loop."""
    names = zip(("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"), cell, strict=True)
    lines = [f"data_{name}", *(f"_cell_{key} {value}" for key, value in names), symmetry, more, "loop_"]
    lines += ["_atom_site_type_symbol", *(f"_atom_site_fract_{k}" for k in "xyz"), *columns.split(), *atoms]
    return "\n".join(line for line in lines if line) + "\n"


def cubic(a: float) -> tuple[float, ...]:
    return (a, a, a, 90, 90, 90)


def salt(symmetry: str, more: str = "") -> str:
    return cif("rocksalt", cubic(5.64), symmetry, ["Na 0 0 0", "Cl 0.5 0.5 0.5"], more=more)


def read(text: str, disorder: str = "refuse") -> Found:
    (found,) = crystals_of_cif(text, disorder)
    if isinstance(found, RowError):
        raise found
    return found


def contents(found: Found) -> dict[str, int]:
    return dict(Counter(SYMBOLS[z - 1] for z in found.crystal[2].tolist()))


def density(found: Found) -> float:
    mass = sum(MASS[name] * n for name, n in contents(found).items())
    return mass * GRAM_PER_CM3 / abs(np.linalg.det(found.crystal[1]))


def refusal(text: str) -> RowError:
    with pytest.raises(RowError) as error:
        read(text)
    return error.value


def is_rock_salt(found: Found) -> bool:
    """Four of each, and every atom with six neighbours of the other kind at half the edge."""
    frac, cell, numbers = found.crystal
    delta = frac[:, None] - frac[None]
    distance = np.linalg.norm((delta - np.rint(delta)) @ cell, axis=-1)
    unlike = distance[np.ix_(numbers == 11, numbers == 17)]
    near = np.isclose(unlike, 2.82, atol=1e-6).sum(1)  # one image each of six, three of them by rounding
    return contents(found) == {"Na": 4, "Cl": 4} and bool((near == 3).all())


OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n"
CENTRED = OPERATIONS + "'x,y,z'\n'x,y+1/2,z+1/2'\n'x+1/2,y,z+1/2'\n'x+1/2,y+1/2,z'"


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_space_group_name_H-M 'F 4/m -3 2/m'",
        "_symmetry_space_group_name_H-M 'F 4/m 3 2/m'",
        "_symmetry_space_group_name_H-M 'F m 3 m'",
        "_symmetry_space_group_name_H-M Fm3m",
        "_symmetry_space_group_name_H-M 'F m \\bar{3} m'",
        "_symmetry_space_group_name_H-M 'F m -3 m (No. 225)'",
        "_space_group_name_H-M 'F m -3 m'",
        "_space_group.name_H-M_alt 'F m -3 m'\n_space_group.IT_number 225",
        "_space_group.name_H-M_full 'F 4/m -3 2/m'",
        "_space_group_name_H-M_alt ?\n_space_group_IT_number 225",
        "_symmetry.space_group_name_H-M 'F m -3 m'",
    ],
)
def test_cif_full_symbol(symmetry: str) -> None:
    found = read(salt(symmetry))
    assert is_rock_salt(found)
    assert density(found) == pytest.approx(2.164, abs=0.001)


@pytest.mark.parametrize(
    "symmetry",
    [
        "_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_space_group_name_H-M ?\n_symmetry_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_space_group_name_H-M 'not a symbol'\n_symmetry_space_group_name_Hall '-f_4_2_3'",
        "_space_group.name_Hall '-F 4 2 3'",
    ],
)
def test_cif_hall_only(symmetry: str) -> None:
    assert is_rock_salt(read(salt(symmetry)))


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_space_group_name_H-M 'Q m -3 m'",
        "_symmetry_space_group_name_Hall '-F 9 2 3'",
        "_symmetry_space_group_name_H-M 'F m -3 m :3x'\n_symmetry_space_group_name_Hall 'what'",
        "_space_group_symop_special_xyz 'x,y,z'",
        "_symmetry_cell_setting cubic",
        "_space_group_name_Schoenflies Oh^5",
        "_space_group_point_group_H-M m-3m",
        "_symmetry_Int_Tables_number 231",
        OPERATIONS + "'x,y,q'",
        OPERATIONS + "'x,y,z'\n'-y,x,z'",
        OPERATIONS + "'x,y,z+1/0'",
        OPERATIONS + f"'x,y,z+{'1' * 4000}/3'",
    ],
)
def test_symmetry_that_is_not_understood_is_never_p1(symmetry: str) -> None:
    assert refusal(salt(symmetry)).reason == "symmetry"


def test_a_file_that_says_nothing_of_symmetry_is_p1_with_a_note() -> None:
    found = read(salt(""))
    assert contents(found) == {"Na": 1, "Cl": 1}
    assert [word for word, _ in found.notes] == ["no_symmetry"]


MAGNETIC = """_parent_space_group.name_H-M_alt 'P 42/m n m'
_parent_space_group.IT_number 136
_space_group_magn.number_BNS 136.499
loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
2 -x,-y,z,+1
3 -x,-y,-z,+1
4 x,y,-z,+1
5 -x+1/2,y+1/2,-z+1/2,+1
6 x+1/2,-y+1/2,-z+1/2,+1
7 x+1/2,-y+1/2,z+1/2,+1
8 -x+1/2,y+1/2,z+1/2,+1
9 -y+1/2,x+1/2,z+1/2,-1
10 y+1/2,-x+1/2,z+1/2,-1
11 y+1/2,-x+1/2,-z+1/2,-1
12 -y+1/2,x+1/2,-z+1/2,-1
13 y,x,-z,-1
14 -y,-x,-z,-1
15 -y,-x,z,-1
16 y,x,z,-1"""


def test_cif_magnetic() -> None:
    found = read(cif("mnf2", (4.87, 4.87, 3.31, 90, 90, 90), MAGNETIC, ["Mn 0 0 0", "F 0.305 0.305 0"]))
    assert contents(found) == {"Mn": 2, "F": 4}
    assert density(found) == pytest.approx(3.93, abs=0.01)
    assert [word for word, _ in found.notes] == ["magnetic"]


def test_magnetic_centrings_double_the_atoms() -> None:
    symmetry = (
        "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx+1/2,y+1/2,z+1/2,-1"
    )
    assert contents(read(cif("iron", cubic(2.87), symmetry, ["Fe 0 0 0"]))) == {"Fe": 2}


def test_magnetic_groups_without_operations_and_modulated_structures_are_refused() -> None:
    bare = cif("x", cubic(4.2), "_space_group_magn.name_BNS 'P 1'", ["Fe 0 0 0"])
    assert refusal(bare).reason == "magnetic"
    modulated = cif("x", cubic(4.2), OPERATIONS + "x,y,z\n", ["Fe 0 0 0"], more="_cell_modulation_dimension 1")
    assert refusal(modulated).reason == "modulated"
    superspace = "loop_\n_space_group_symop_ssg_operation_algebraic\n'x1,x2,x3,x4'"
    assert refusal(cif("x", cubic(4.2), superspace, ["Fe 0 0 0"])).reason == "modulated"


def test_cif_many_blocks() -> None:
    one = cif("one", cubic(4.12), OPERATIONS + "'x, y, z'", ["Cl 0.5 0.5 0.5", "Na 0 0 0"])
    two = cif("two", cubic(2.87), OPERATIONS + "'x, y, z'", ["Fe 0 0 0", "Fe 0.5 0.5 0.5"])
    text = "data_global\n_publ_section_title 'three'\n" + one + two + salt(CENTRED).replace("rocksalt", "one")
    found = crystals_of_cif(text)
    assert [contents(f) for f in found] == [{"Na": 1, "Cl": 1}, {"Fe": 2}, {"Na": 4, "Cl": 4}]


def test_one_broken_block_costs_itself() -> None:
    broken = salt(CENTRED).replace("Cl 0.5 0.5 0.5", "Cl 0.5 'unclosed")
    first, second, third = crystals_of_cif(salt(CENTRED) + broken + salt(CENTRED))
    assert isinstance(second, RowError)
    assert contents(first) == contents(third) == {"Na": 4, "Cl": 4}


@pytest.mark.parametrize(
    ("columns", "flags"), [("_atom_site_attached_hydrogens", ("4", "0")), ("", ("", ""))], ids=["attached", "formula"]
)
def test_cif_missing_hydrogens(columns: str, flags: tuple[str, str]) -> None:
    atoms = [f"N 0.5 0.5 0.5 {flags[0]}", f"Cl 0 0 0 {flags[1]}"]
    more = "_chemical_formula_sum 'N H4 Cl'\n_cell_formula_units_Z 1"
    found = refusal(cif("nh4cl", cubic(3.876), OPERATIONS + "'x, y, z'", atoms, columns, more))
    assert found.reason == "missing_atoms"
    assert "hydrogens without positions" in found.detail


@pytest.mark.parametrize("symmetry", ["_symmetry_space_group_name_H-M 'F m -3 m'", CENTRED], ids=["symbol", "listed"])
def test_cif_occupancy_unknown(symmetry: str) -> None:
    atoms = ["Na 0 0 0 ?", "Cl 0.5 0.5 0.5 ."]
    assert is_rock_salt(read(cif("rocksalt", cubic(5.64), symmetry, atoms, "_atom_site_occupancy")))


ANATASE = (3.785, 3.785, 9.514, 90, 90, 90)


@pytest.mark.parametrize("number", ["", "_symmetry_Int_Tables_number {n}\n"], ids=["symbol", "symbol and number"])
@pytest.mark.parametrize(
    ("symbols", "n", "cell", "atoms", "holds", "says"),
    [
        (
            ("I 41/a m d :2", "I41/amd:2", "I 41/a m d Z", "I 41/a 2/m 2/d (origin choice 2)"),
            141, ANATASE, ["Ti 0 0.75 0.125", "O 0 0.75 0.3331"], {"Ti": 4, "O": 8}, 3.89,
        ),
        (
            ("I 41/a m d :1", "I 41/a m d S"),
            141, ANATASE, ["Ti 0 0 0", "O 0 0 0.2081"], {"Ti": 4, "O": 8}, 3.89,
        ),
        (
            ("F d -3 m :2", "F d 3 m :2", "F d -3 m Z", "F 41/d -3 2/m :2"),
            227, cubic(5.43), ["Si 0.125 0.125 0.125"], {"Si": 8}, 2.33,
        ),
        (
            ("F d -3 m :2", "Fd-3mZ"),
            227, cubic(8.083), ["Mg 0.125 0.125 0.125", "Al 0.5 0.5 0.5", "O 0.2624 0.2624 0.2624"],
            {"Mg": 8, "Al": 16, "O": 32}, 3.58,
        ),
    ],
)  # fmt: skip
def test_cif_origin_choice(symbols, n, cell, atoms, holds, says, number) -> None:
    for symbol in symbols:
        symmetry = f"_symmetry_space_group_name_H-M '{symbol}'\n" + number.format(n=n)
        found = read(cif("x", cell, symmetry, atoms))
        assert (symbol, contents(found)) == (symbol, holds)
        assert density(found) == pytest.approx(says, abs=0.01)


def test_an_origin_that_is_not_said_is_told_by_the_formula_or_refused() -> None:
    symbol = "_symmetry_space_group_name_H-M 'F d -3 m'"
    atoms = ["Si 0.125 0.125 0.125"]
    assert refusal(cif("si", cubic(5.43), symbol, atoms)).reason == "ambiguous"
    found = read(cif("si", cubic(5.43), symbol, atoms, more="_chemical_formula_sum Si\n_cell_formula_units_Z 8"))
    assert contents(found) == {"Si": 8}
    assert [word for word, _ in found.notes] == ["symmetry"]
    told = symbol + "\n_space_group_IT_coordinate_system_code 2"
    assert contents(read(cif("si", cubic(5.43), told, atoms))) == {"Si": 8}


def test_a_formula_exposes_the_wrong_origin() -> None:
    symmetry = "_symmetry_space_group_name_H-M 'F d -3 m :1'"
    text = cif("si", cubic(5.43), symmetry, ["Si 0.125 0.125 0.125"])
    text = text.replace("loop_", "_chemical_formula_sum Si\n_cell_formula_units_Z 8\nloop_")
    assert refusal(text).reason == "contradiction"


@pytest.mark.parametrize(
    ("symbol", "cell", "atoms"),
    [
        ("R -3 m :H", (3.16, 3.16, 17.1, 90, 90, 120), 6),
        ("R -3 m", (3.16, 3.16, 17.1, 90, 90, 120), 6),
        ("R -3 m H", (3.16, 3.16, 17.1, 90, 90, 120), 6),
        ("R -3 2/m", (3.16, 3.16, 17.1, 90, 90, 120), 6),
        ("R -3 m :R", (5.98, 5.98, 5.98, 30.6, 30.6, 30.6), 2),
        ("R -3 m", (5.98, 5.98, 5.98, 30.6, 30.6, 30.6), 2),
        ("R-3mR", (5.98, 5.98, 5.98, 30.6, 30.6, 30.6), 2),
    ],
)
def test_rhombohedral_and_hexagonal_axes(symbol: str, cell: tuple[float, ...], atoms: int) -> None:
    symmetry = f"_symmetry_space_group_name_H-M '{symbol}'"
    found = read(cif("x", cell, symmetry, ["Na 0 0 0", "Cl 0 0 0.5" if atoms == 6 else "Cl 0.5 0.5 0.5"]))
    assert sum(contents(found).values()) == atoms


@pytest.mark.parametrize("symbol", ["R -3 m :R", "F m -3 m", "P 63/m m c"])
def test_a_cell_without_the_symmetry_of_its_group_is_refused(symbol: str) -> None:
    text = cif("x", (3.16, 3.5, 17.1, 90, 90, 120), f"_symmetry_space_group_name_H-M '{symbol}'", ["Na 0 0 0"])
    assert "the cell has not the symmetry" in refusal(text).detail


def test_the_unique_axis_of_a_short_symbol_is_that_of_the_cell() -> None:
    for angles in ((90, 110, 90), (90, 90, 110), (110, 90, 90)):
        found = read(cif("x", (5, 6, 7, *angles), "_symmetry_space_group_name_H-M 'P 21/m'", ["Na 0.1 0.2 0.3"]))
        assert sum(contents(found).values()) == 4


PLACEHOLDER = """_symmetry_space_group_name_H-M   {symbol}
_symmetry_Int_Tables_number   {number}
_chemical_formula_sum   '{formula}'
_cell_formula_units_Z   {units}
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'"""


@pytest.mark.parametrize(
    ("symbol", "number", "formula", "units", "a", "atoms", "holds"),
    [
        ("Fm-3m", 225, "Mg4 O4", 4, 4.21, ["Mg 0 0 0 4", "O 0.5 0.5 0.5 4"], {"Mg": 4, "O": 4}),
        ("Pm-3m", 221, "Sr1 Ti1 O3", 1, 3.905, ["Sr 0 0 0 1", "Ti 0.5 0.5 0.5 1", "O 0.5 0.5 0 3"],
         {"Sr": 1, "Ti": 1, "O": 3}),
    ],
)  # fmt: skip
def test_cif_placeholder_operations(symbol, number, formula, units, a, atoms, holds) -> None:
    symmetry = PLACEHOLDER.format(symbol=symbol, number=number, formula=formula, units=units)
    assert contents(read(cif("x", cubic(a), symmetry, atoms, "_atom_site_symmetry_multiplicity"))) == holds
    # Multiplicities alone tell it as well.
    bare = "\n".join(line for line in symmetry.splitlines() if "formula" not in line)
    if 4 in {int(atom.split()[-1]) for atom in atoms}:
        assert contents(read(cif("x", cubic(a), bare, atoms, "_atom_site_symmetry_multiplicity"))) == holds
    # All atoms listed beside the name of the group, and the placeholder: the same crystal.
    listed = [f"{name} {x} {y} {z} 1" for name, x, y, z in whole(holds)]
    assert contents(read(cif("x", cubic(a), symmetry, listed, "_atom_site_symmetry_multiplicity"))) == holds


def whole(holds: dict[str, int]) -> list[tuple[str, float, float, float]]:
    if "Sr" in holds:
        oxygen = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
        return [("Sr", 0, 0, 0), ("Ti", 0.5, 0.5, 0.5), *(("O", *place) for place in oxygen)]
    faces = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    return [("Mg", *place) for place in faces] + [("O", x, y, z + 0.5) for x, y, z in faces]


def test_a_placeholder_without_evidence_is_refused() -> None:
    symmetry = "_symmetry_space_group_name_H-M 'F m -3 m'\n" + OPERATIONS + "'x, y, z'"
    found = refusal(salt(symmetry))
    assert found.reason == "ambiguous"
    assert "beside the space group" in found.detail


def test_operations_that_contradict_the_name_are_told_by_the_formula() -> None:
    formula = "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4"
    symmetry = "_symmetry_space_group_name_H-M 'P m -3 m'\n" + CENTRED
    assert refusal(salt(symmetry)).reason == "ambiguous"
    assert is_rock_salt(read(salt(symmetry, more=formula)))


def test_partly_occupied_sites() -> None:
    atoms = ["Na 0 0 0 0.7", "Cl 0 0 0 0.3", "O 0.5 0.5 0.5 0.4", "F 0.5 0 0 0.9"]
    text = cif("x", cubic(5.64), OPERATIONS + "'x,y,z'", atoms, "_atom_site_occupancy")
    assert refusal(text).reason == "disordered"
    found = read(text, "largest")
    assert contents(found) == {"Na": 1, "F": 1}
    assert [word for word, _ in found.notes] == ["disorder_resolved"]


def test_disorder_groups_without_occupancies_are_disorder() -> None:
    atoms = ["Na 0 0 0 A 1", "Na 0.05 0 0 A 2", "Cl 0.5 0.5 0.5 . ."]
    columns = "_atom_site_disorder_assembly _atom_site_disorder_group"
    text = cif("x", cubic(5.64), OPERATIONS + "'x,y,z'", atoms, columns)
    assert refusal(text).reason == "disordered"
    assert contents(read(text, "largest")) == {"Na": 1, "Cl": 1}


def test_rounded_coordinates_of_special_positions_stay_one_atom() -> None:
    symmetry = "_symmetry_space_group_name_H-M 'P 63/m m c'"
    found = read(cif("mg", (3.21, 3.21, 5.21, 90, 90, 120), symmetry, ["Mg 0.333 0.667 0.25"]))
    assert contents(found) == {"Mg": 2}
    np.testing.assert_allclose(sorted(found.crystal[0][:, 0] % 1), [1 / 3, 2 / 3], atol=1e-9)


def test_coordinates_off_their_special_positions_are_moved_where_the_formula_says_so() -> None:
    symmetry = "_symmetry_space_group_name_H-M 'P 63/m m c'"
    cell, atoms = (3.21, 3.21, 5.21, 90, 90, 120), ["Mg 0.30 0.667 0.25"]
    found = read(cif("mg", cell, symmetry, atoms, more="_chemical_formula_sum Mg\n_cell_formula_units_Z 2"))
    assert contents(found) == {"Mg": 2}
    assert "moved_onto_symmetry" in [word for word, _ in found.notes]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("_chemical_formula_sum 'Na2 Cl'\n_cell_formula_units_Z 4", "contradiction"),
        ("_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 8", "contradiction"),
        ("_chemical_formula_sum 'Na Cl O4'\n_cell_formula_units_Z 4", "contradiction"),
        ("_cell_volume 250", "contradiction"),
        ("_cell_length_a 7.5", "contradiction"),
    ],
)
def test_contradictions_are_refused(more: str, reason: str) -> None:
    text = salt("_symmetry_space_group_name_H-M 'F m -3 m'", more)
    assert refusal(text).reason == reason


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ("_chemical_formula_sum 'Na1.005 Cl'\n_cell_formula_units_Z 4", ""),
        ("_chemical_formula_sum 'Na0.985 Cl'\n_cell_formula_units_Z 4", "formula_rounded"),
        ("_cell_volume 175", "cell_volume"),
        ("_chemical_formula_sum 'see text'", "unknown_formula"),
        ("_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z ?", ""),
    ],
)
def test_small_contradictions_are_kept_with_a_note(more: str, word: str) -> None:
    found = read(salt("_symmetry_space_group_name_H-M 'F m -3 m'", more))
    assert is_rock_salt(found)
    assert [w for w, _ in found.notes] == ([word] if word else [])


def test_z_alone_is_doubted_where_operations_and_name_agree() -> None:
    listed = "x,y,z\n-x,-y,-z\nx+1/2,y+1/2,z+1/2\n-x+1/2,-y+1/2,-z+1/2"
    symmetry = "_symmetry_space_group_name_H-M 'I -1'\n" + OPERATIONS + listed
    more = "_chemical_formula_sum Fe\n_cell_formula_units_Z 1"
    found = read(cif("iron", cubic(2.87), symmetry, ["Fe 0 0 0"], more=more))
    assert contents(found) == {"Fe": 2}
    assert [word for word, _ in found.notes] == ["formula_units"]


def test_names_that_contradict_one_another_are_told_by_the_formula_or_refused() -> None:
    symmetry = "_symmetry_space_group_name_H-M 'P 1'\n_symmetry_Int_Tables_number 225"
    found = refusal(salt(symmetry))
    assert found.reason == "ambiguous"
    assert "contradict one another (P 1, F m -3 m)" in found.detail
    assert is_rock_salt(read(salt(symmetry, more="_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4")))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: "Here is the file:\n\n" + text,
        lambda text: "```cif\n" + text + "```\n",
        lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\x1a",
        lambda text: text.split("\n", 1)[1],
        lambda text: text.replace("'F m -3 m'", "\n;\nF m -3 m\n;"),
        lambda text: text.upper().replace("NA 0", "Na 0").replace("CL 0", "Cl 0"),
    ],
    ids=["prose", "fence", "mark", "no header", "text field", "upper case"],
)
def test_texts_around_and_spellings_of_a_cif(wrap) -> None:
    assert is_rock_salt(read(wrap(salt("_symmetry_space_group_name_H-M 'F m -3 m'"))))


def test_all_atoms_listed_beside_the_name_of_the_group_are_taken_once() -> None:
    atoms = [f"{name.replace('Mg', 'Na').replace('O', 'Cl')} {x} {y} {z}" for name, x, y, z in whole({"Mg": 4, "O": 4})]
    found = read(cif("rocksalt", cubic(5.64), "_symmetry_space_group_name_H-M 'F m -3 m'", atoms))
    assert is_rock_salt(found)
    assert [word for word, _ in found.notes] == ["repeated_sites"]
