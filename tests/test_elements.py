"""Laws of the table of elements and of chemical systems."""

from __future__ import annotations

import pytest

from crystalsmith.elements import (
    ALLOWED,
    MASK,
    NUM_CLASSES,
    NUMBERS,
    SYMBOLS,
    atomic_number,
    chemical_system,
    parse_chemical_system,
    symbol,
)
from crystalsmith.errors import InputError


def test_symbols_are_those_of_ase() -> None:
    data = pytest.importorskip("ase.data")
    assert list(SYMBOLS) == data.chemical_symbols[1:101]


def test_symbols_and_numbers_are_inverse() -> None:
    assert len(set(SYMBOLS)) == 100
    assert all(atomic_number(symbol(z)) == z for z in range(1, 101))
    assert len(NUMBERS) == NUM_CLASSES - 1 == MASK - 1


def test_the_allowed_elements_are_the_76_of_the_training_data() -> None:
    assert len(ALLOWED) == 76
    excluded = {SYMBOLS[z - 1] for z in range(1, 84) if z not in ALLOWED}
    assert excluded == {"He", "Ne", "Ar", "Kr", "Xe", "Tc", "Pm"}
    assert max(ALLOWED) == NUMBERS["Bi"]
    assert MASK not in ALLOWED


@pytest.mark.parametrize("text", ["Li-Fe-O", "O-Li-Fe", "Li,Fe,O", " Li  Fe O ", "Fe-O-Li-O", "Li - Fe, O"])
def test_a_chemical_system_is_a_set(text: str) -> None:
    assert parse_chemical_system(text) == (3, 8, 26)


def test_chemical_systems_round_trip() -> None:
    assert chemical_system([8, 26, 3, 8]) == "Fe-Li-O"
    assert parse_chemical_system(chemical_system(range(1, 101))) == tuple(range(1, 101))


@pytest.mark.parametrize("text", ["", " - ", ","])
def test_an_empty_chemical_system_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        parse_chemical_system(text)


@pytest.mark.parametrize("name", ["Xx", "fe", "Md", "", "8"])
def test_an_unknown_symbol_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'"):
        atomic_number(name)


@pytest.mark.parametrize("number", [0, -1, 101, 118])
def test_a_number_without_an_element_is_named(number: int) -> None:
    with pytest.raises(InputError, match=str(number)):
        symbol(number)
