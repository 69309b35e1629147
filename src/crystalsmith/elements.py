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


DENY_LISTS: dict[str, frozenset[int]] = {
    "radioactive": frozenset({43, 61, *range(84, 101)}),
    "noble": frozenset({2, 10, 18, 36, 54}),
    "scarce": frozenset({44, 45, 46, 52, 75, 76, 77, 78, 79}),
    "toxic": frozenset({4, 33, 48, 80, 81, 82}),
}
"""Elements that people leave out, by the name of the list.

- ``radioactive``: Tc, Pm and all from Po on: no stable isotope (NUBASE2020, Kondev et al., Chinese Phys. C 45, 030001,
  2021). Bi, with a half-life of 2e19 years, is as good as stable and is not in it.
- ``noble``: He, Ne, Ar, Kr, Xe.
- ``scarce``: Ru, Rh, Pd, Te, Re, Os, Ir, Pt, Au: less than about ten parts per billion of the Earth's crust
  (abundances of the CRC Handbook of Chemistry and Physics).
- ``toxic``: As, Pb, Hg and Cd, the metals at the head of the Substance Priority List of the US Agency for Toxic
  Substances and Disease Registry, and Be and Tl, which are as poisonous. Metals that are so in some compounds only, as
  Cr and Ni, are not in it.
"""


def deny_lists(names: str | Iterable[str]) -> frozenset[int]:
    """The elements of some of the named lists, as in ``scarce,radioactive``.

    Raises:
        InputError: if there is no such list.
    """
    wanted = [n.strip() for n in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in DENY_LISTS:
            raise InputError(f"There is no list of elements '{name}'; use {', '.join(DENY_LISTS)}.")
    return frozenset().union(*(DENY_LISTS[name] for name in wanted))


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
