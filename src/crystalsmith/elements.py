"""The elements that the models speak, and how chemical systems and element sets are written.

Atomic numbers run from 1 to 100; 101 stands for an element that is still masked (not yet decided) during
generation. The class index of the species output is the atomic number minus one.
"""

from __future__ import annotations

from collections.abc import Iterable

from crystalsmith.errors import InputError

MASK = 101
"""Atomic number that stands for a masked atom; it never appears in a result."""

NUM_CLASSES = 101
"""Species classes: atomic numbers 1 to 100 and the mask."""

# fmt: off
SYMBOLS: tuple[str, ...] = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm",
)
# fmt: on
"""Chemical symbols in order of atomic number: ``SYMBOLS[Z - 1]``."""

NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)}
"""Atomic number of each chemical symbol."""


def _ranges(*bounds: tuple[int, int]) -> frozenset[int]:
    return frozenset(z for low, high in bounds for z in range(low, high + 1))


ALLOWED: frozenset[int] = _ranges(
    (1, 1), (3, 9), (11, 17), (19, 35), (37, 42), (44, 53), (55, 60), (62, 83)
)  # fmt: skip
"""The 76 elements of the training data: no noble gases, no Tc, no Pm, nothing beyond Bi."""


def symbol(atomic_number: int) -> str:
    """Chemical symbol of an atomic number from 1 to 100.

    Raises:
        InputError: if the number is outside that range.
    """
    if not 1 <= atomic_number <= len(SYMBOLS):
        raise InputError(f"There is no element with atomic number {atomic_number}; use 1 to {len(SYMBOLS)}.")
    return SYMBOLS[atomic_number - 1]


def atomic_number(name: str) -> int:
    """Atomic number of a chemical symbol.

    Raises:
        InputError: if the symbol is unknown or beyond Fm.
    """
    try:
        return NUMBERS[name.strip()]
    except KeyError:
        raise InputError(f"'{name}' is not a chemical symbol up to Fm; write for example Li, Fe or O.") from None


def parse_chemical_system(text: str) -> tuple[int, ...]:
    """Atomic numbers, sorted, of a chemical system such as ``Li-Fe-O`` (commas and spaces separate as well).

    Raises:
        InputError: if the text is empty or holds an unknown symbol.
    """
    parts = [part for part in text.replace(",", "-").replace(" ", "-").split("-") if part]
    if not parts:
        raise InputError("The chemical system is empty; write for example Li-Fe-O.")
    return tuple(sorted({atomic_number(part) for part in parts}))


def chemical_system(atomic_numbers: Iterable[int]) -> str:
    """The chemical system of a set of atoms, symbols in alphabetical order, as in ``Fe-Li-O``."""
    return "-".join(sorted({symbol(int(z)) for z in atomic_numbers}))
