"""All 530 settings of the 230 space groups, written in every way and read back to the same crystal.

The operations by which the crystals are made are moyopy's, an implementation that shares nothing with the reader.
"""

from __future__ import annotations

from functools import cache

import gemmi
import moyopy
import numpy as np
import pytest

from crystalsmith.data.cif.read import crystals_of_cif
from crystalsmith.data.rows import RowError

NUMBERS = (26, 8)
"""Fe on a general position, O on the origin of the setting, a special position of most groups."""


@cache
def operations(hall_number: int) -> tuple[np.ndarray, np.ndarray]:
    found = moyopy.operations_from_number(
        moyopy.HallSymbolEntry(hall_number).number, setting=moyopy.Setting.hall_number(hall_number), primitive=False
    )
    return np.array(found.rotations, dtype=float), np.array(found.translations)


@cache
def crystal(hall_number: int) -> tuple[list[float], list[tuple[str, np.ndarray]], np.ndarray, np.ndarray, np.ndarray]:
    """Cell parameters, listed sites, and all atoms (coordinates, numbers) with the cell."""
    rotations, translations = operations(hall_number)
    rng = np.random.default_rng(hall_number)
    basis = np.diag([7.0, 8.0, 9.0]) + rng.uniform(-1, 1, (3, 3))
    metric = (np.swapaxes(rotations, 1, 2) @ (basis @ basis.T) @ rotations).mean(0)  # what the group leaves as it is
    lengths = np.sqrt(np.diag(metric))
    cosines = [metric[i, j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    sites = [("Fe", np.array([0.1237, 0.2719, 0.0613])), ("O", np.zeros(3))]
    places, numbers = [], []
    for number, (_, site) in zip(NUMBERS, sites, strict=True):
        images = (rotations @ site + translations) % 1.0
        images[images > 1 - 1e-9] = 0.0
        unique = np.unique(images.round(6), axis=0)
        places.append(unique)
        numbers += [number] * len(unique)
    parameters = [*lengths, *np.degrees(np.arccos(cosines))]
    return parameters, sites, np.concatenate(places), np.array(numbers), metric


def text(hall_number: int, symmetry: str, formula: bool = False) -> str:
    parameters, sites, _, numbers, _ = crystal(hall_number)
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", *(f"_cell_{tag} {value:.6f}" for tag, value in zip(tags, parameters, strict=True)), symmetry]
    if formula:
        iron, oxygen = (int((numbers == z).sum()) for z in NUMBERS)
        lines += [f"_chemical_formula_sum 'Fe{iron} O{oxygen}'", "_cell_formula_units_Z 1"]
    lines += ["loop_", "_atom_site_type_symbol", *(f"_atom_site_fract_{k}" for k in "xyz")]
    lines += [f"{name} {x:.6f} {y:.6f} {z:.6f}" for name, (x, y, z) in sites]
    return "\n".join(lines) + "\n"


def same(hall_number: int, symmetry: str, formula: bool = False) -> bool | None:
    """Whether the text is read as the crystal it is; None where it is refused because it leaves the origin open."""
    (found,) = crystals_of_cif(text(hall_number, symmetry, formula))
    if isinstance(found, RowError):
        assert found.reason == "ambiguous", (symmetry, found.detail)
        return None
    _, _, places, numbers, metric = crystal(hall_number)
    frac, cell, read = found.crystal
    np.testing.assert_allclose(cell @ cell.T, metric, atol=1e-4)
    if sorted(read) != sorted(numbers):
        return False
    delta = frac[:, None] - places[None]
    delta -= np.rint(delta)
    far = (np.abs(delta).max(-1) > 1e-4) | (read[:, None] != numbers[None])
    return bool((~far).sum(0).all() and (~far).sum(1).all())


SETTINGS = [moyopy.HallSymbolEntry(k) for k in range(1, 531)]


def hall(entry: moyopy.HallSymbolEntry) -> str:
    return entry.hall_symbol.replace("=", '"')


def quoted(symbol: str) -> str:
    return f"'{symbol}'" if '"' in symbol else f'"{symbol}"'


def wrong(way, formula: bool = False, refused: bool = False) -> list[str]:
    found = []
    for entry in SETTINGS:
        symmetry = way(entry)
        if symmetry is None:
            continue
        answer = same(entry.hall_number, symmetry, formula)
        if not (answer or (refused and answer is None)):
            found.append(symmetry)
    return found


def test_hall_symbols() -> None:
    assert not wrong(lambda entry: f"_space_group_name_Hall {quoted(hall(entry))}")


def test_symbols_with_origin_and_axes() -> None:
    def way(entry):
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall(entry)))
        return f"_symmetry_space_group_name_H-M '{group.xhm()}'"

    assert not wrong(way)


@pytest.mark.parametrize("name", ["hm_full", "hm_short"])
def test_symbols_with_the_code_of_their_setting(name: str) -> None:
    def way(entry):
        symbol = getattr(entry, name).replace("_", "")
        # 'C m m e' is the name of two settings, of which it means the first; one is 'B b c b' in moyopy's table.
        if "e" in symbol or entry.hall_number == 331:
            return None
        code = f"\n_space_group_IT_coordinate_system_code {entry.setting}" if entry.setting else ""
        return f"_space_group_name_H-M_alt '{symbol}'{code}"

    assert not wrong(way)


def test_full_symbols_alone_are_read_rightly_or_refused() -> None:
    def way(entry):
        return None if "e" in entry.hm_full else f"_symmetry_space_group_name_H-M '{entry.hm_full}'"

    assert not wrong(way, refused=True)
    # Most leave nothing open, and must not be refused.
    plain = [
        e for e in SETTINGS if "e" not in e.hm_full and not (e.setting[:1] in ("1", "2") or e.setting in ("H", "R"))
    ]
    assert len(plain) > 400
    assert all(same(e.hall_number, f"_symmetry_space_group_name_H-M '{e.hm_full}'") for e in plain[::7])


@pytest.mark.parametrize("formula", [False, True], ids=["alone", "with formula"])
def test_numbers_mean_the_standard_setting(formula: bool) -> None:
    seen: set[int] = set()

    def way(entry):
        first = entry.number not in seen
        seen.add(entry.number)
        return f"_space_group_IT_number {entry.number}" if first else None

    assert not wrong(way, formula, refused=True)
    assert len(seen) == 230


@pytest.mark.parametrize("upside_down", [False, True], ids=["x,y+1/2,z", "1/2+Y"])
def test_lists_of_operations(upside_down: bool) -> None:
    def one(rotation, translation):
        parts = []
        for row, shift in zip(rotation, translation, strict=True):
            letters = "".join(f"{'+' if f > 0 else '-'}{axis}" for f, axis in zip(row, "xyz", strict=True) if f)
            twelfths = round(shift * 24) % 24
            number = "" if not twelfths else f"{twelfths}/24"
            plain = f"{number}{letters}" if upside_down or not number else f"{letters}+{number}"
            parts.append(plain.upper() if upside_down else plain.lstrip("+"))
        return ", ".join(parts)

    def way(entry):
        lines = [f"'{one(r, t)}'" for r, t in zip(*operations(entry.hall_number), strict=True)]
        return "\n".join(["loop_", "_space_group_symop_operation_xyz", *(lines[::-1] if upside_down else lines)])

    assert not wrong(way)


def test_placeholder_operations_beside_a_name_never_give_another_crystal() -> None:
    def way(entry):
        return f"_space_group_name_Hall {quoted(hall(entry))}\nloop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'"

    assert not wrong(way, formula=True)
    assert not wrong(way, refused=True)
