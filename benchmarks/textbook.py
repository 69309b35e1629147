"""Fifty textbook compounds and one of 28 atoms: which does ``crystalsmith predict-structure`` find?

    python benchmarks/textbook.py out --samples 32 --only NaCl,TiO2
    python benchmarks/textbook.py out --check        # builds the table's structures and checks their space groups

For each compound: whether the structure known for it, by the matcher of the evaluation (cells scaled to one volume), is
the lowest in energy of those found (top 1) or among the five lowest (top 5). Structures are built from their prototypes
with the usual free parameters; lengths do not matter beyond ratios of axes. Most of these compounds are in MP-20, and
may have been in the training data of a model: the benchmark asks whether the command works, not whether it generalises.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from crystalsmith.models import DEFAULT_CSP

PROTOTYPES = {
    # name: space group, (a, b, c, alpha, beta, gamma), fractional coordinates of one atom of each orbit
    "rocksalt": (225, (5.6, 5.6, 5.6, 90, 90, 90), [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "cesium chloride": (221, (4.1, 4.1, 4.1, 90, 90, 90), [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "zincblende": (216, (5.4, 5.4, 5.4, 90, 90, 90), [(0, 0, 0), (0.25, 0.25, 0.25)]),
    "wurtzite": (186, (3.25, 3.25, 5.2, 90, 90, 120), [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.378)]),
    "fluorite": (225, (5.46, 5.46, 5.46, 90, 90, 90), [(0, 0, 0), (0.25, 0.25, 0.25)]),
    "rutile": (136, (4.6, 4.6, 2.96, 90, 90, 90), [(0, 0, 0), (0.305, 0.305, 0)]),
    "perovskite": (221, (3.9, 3.9, 3.9, 90, 90, 90), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]),
    "nickel arsenide": (194, (3.6, 3.6, 5.0, 90, 90, 120), [(0, 0, 0), (1 / 3, 2 / 3, 0.25)]),
    "cadmium iodide": (164, (4.2, 4.2, 6.8, 90, 90, 120), [(0, 0, 0), (1 / 3, 2 / 3, 0.25)]),
    "molybdenite": (194, (3.16, 3.16, 12.3, 90, 90, 120), [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.621)]),
    "aluminium diboride": (191, (3.0, 3.0, 3.25, 90, 90, 120), [(0, 0, 0), (1 / 3, 2 / 3, 0.5)]),
    "auricupride": (221, (3.75, 3.75, 3.75, 90, 90, 90), [(0, 0, 0), (0, 0.5, 0.5)]),
    "A15": (223, (4.56, 4.56, 4.56, 90, 90, 90), [(0.25, 0, 0.5), (0, 0, 0)]),
    "Heusler": (225, (5.95, 5.95, 5.95, 90, 90, 90), [(0.25, 0.25, 0.25), (0, 0, 0), (0.5, 0.5, 0.5)]),
    "half-Heusler": (216, (5.9, 5.9, 5.9, 90, 90, 90), [(0, 0, 0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5)]),
    "pyrite": (205, (5.42, 5.42, 5.42, 90, 90, 90), [(0, 0, 0), (0.385, 0.385, 0.385)]),
    "diamond": (216, (5.4, 5.4, 5.4, 90, 90, 90), [(0, 0, 0), (0.25, 0.25, 0.25)]),
    "delafossite": (166, (2.82, 2.82, 14.05, 90, 90, 120), [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2605)]),
    "corundum": (167, (4.76, 4.76, 12.99, 90, 90, 120), [(0, 0, 0.352), (0.306, 0, 0.25)]),
    "rhenium trioxide": (221, (3.75, 3.75, 3.75, 90, 90, 90), [(0, 0, 0), (0.5, 0, 0)]),
    "L1_0": (123, (2.8, 2.8, 3.7, 90, 90, 90), [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "olivine": (
        62,
        (10.33, 6.01, 4.69, 90, 90, 90),
        [
            (0, 0, 0),
            (0.282, 0.25, 0.975),
            (0.095, 0.25, 0.418),
            (0.097, 0.25, 0.743),
            (0.457, 0.25, 0.206),
            (0.166, 0.047, 0.285),
        ],
    ),
    "skutterudite": (204, (9.04, 9.04, 9.04, 90, 90, 90), [(0.25, 0.25, 0.25), (0, 0.335, 0.158)]),
}
DIAMOND_GROUP = 227

COMPOUNDS = (
    *((f, "rocksalt", s) for f, s in (("NaCl", "Na Cl"), ("MgO", "Mg O"), ("LiF", "Li F"), ("KBr", "K Br"))),
    *((f, "rocksalt", s) for f, s in (("CaO", "Ca O"), ("TiN", "Ti N"), ("PbS", "Pb S"), ("TiC", "Ti C"))),
    *((f, "cesium chloride", s) for f, s in (("CsCl", "Cs Cl"), ("CsI", "Cs I"), ("AlNi", "Al Ni"))),
    *((f, "zincblende", s) for f, s in (("ZnS", "Zn S"), ("GaAs", "Ga As"), ("BN", "B N"), ("SiC", "Si C"))),
    *((f, "wurtzite", s) for f, s in (("ZnO", "Zn O"), ("GaN", "Ga N"), ("AlN", "Al N"), ("BeO", "Be O"))),
    *((f, "fluorite", s) for f, s in (("CaF2", "Ca F"), ("CeO2", "Ce O"), ("BaF2", "Ba F"), ("Li2O", "O Li"))),
    *((f, "rutile", s) for f, s in (("TiO2", "Ti O"), ("SnO2", "Sn O"), ("MgF2", "Mg F"), ("GeO2", "Ge O"))),
    *((f, "perovskite", s) for f, s in (("SrTiO3", "Sr Ti O"), ("KMgF3", "K Mg F"), ("BaZrO3", "Ba Zr O"))),
    ("NiAs", "nickel arsenide", "Ni As"),
    *((f, "cadmium iodide", s) for f, s in (("TiS2", "Ti S"), ("CdI2", "Cd I"))),
    *((f, "molybdenite", s) for f, s in (("MoS2", "Mo S"), ("WSe2", "W Se"))),
    *((f, "aluminium diboride", s) for f, s in (("MgB2", "Mg B"), ("TiB2", "Ti B"))),
    *((f, "auricupride", s) for f, s in (("AuCu3", "Au Cu"), ("AlNi3", "Al Ni"))),
    ("Nb3Sn", "A15", "Nb Sn"),
    *((f, "Heusler", s) for f, s in (("AlCu2Mn", "Cu Mn Al"), ("Co2MnSi", "Co Mn Si"))),
    ("NiTiSn", "half-Heusler", "Ti Ni Sn"),
    ("FeS2", "pyrite", "Fe S"),
    ("Si", "diamond", "Si Si"),
    ("LiCoO2", "delafossite", "Li Co O"),
    ("Al2O3", "corundum", "Al O"),
    ("ReO3", "rhenium trioxide", "Re O"),
    ("CuAu", "L1_0", "Cu Au"),
    ("LiFePO4", "olivine", "Li Fe P O O O"),
    ("CoSb3", "skutterudite", "Co Sb"),
)
"""Formula, prototype, and the elements on its orbits."""


def known(prototype: str, elements: str):
    """The textbook structure of a compound, as pymatgen has it."""
    from pymatgen.core import Lattice, Structure

    group, lengths, places = PROTOTYPES[prototype]
    return Structure.from_spacegroup(group, Lattice.from_parameters(*lengths), elements.split(), places)


def check() -> list[str]:
    """Compounds whose structure has not the formula or the space group that the table says."""
    from pymatgen.core import Composition

    from crystalsmith.symmetry.groups import space_group

    wrong = []
    for formula, prototype, elements in COMPOUNDS:
        structure = known(prototype, elements)
        arrays = structure.frac_coords, structure.lattice.matrix, np.array(structure.atomic_numbers)
        expected = DIAMOND_GROUP if prototype == "diamond" else PROTOTYPES[prototype][0]
        right = Composition(formula).reduced_composition == structure.composition.reduced_composition
        if not right or space_group(*arrays, 0.01) != expected:
            wrong.append(f"{formula}: {structure.composition.reduced_formula}, {space_group(*arrays, 0.01)}")
    return wrong


def place(out: Path, prototype: str, elements: str) -> int | None:
    """The rank of the textbook structure among those found, from 1; None where it is not."""
    from crystalsmith.discovery.archive import ranked
    from crystalsmith.discovery.candidate import State
    from crystalsmith.discovery.ledger import Folder
    from crystalsmith.evaluation.matching import Candidate, matches

    structure = known(prototype, elements)
    arrays = structure.frac_coords, structure.lattice.matrix, np.array(structure.atomic_numbers)
    truth = Candidate("textbook", arrays)
    for rank, one in enumerate(ranked(State.of(Folder.open(out).lines())), start=1):
        if one.relaxed is not None and matches(Candidate(one.name, one.relaxed), truth):
            return rank
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Fifty textbook compounds by crystalsmith predict-structure.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--potential", default="7net-0")
    parser.add_argument("--model", default=DEFAULT_CSP)
    parser.add_argument("--only", default="")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.check:
        print(len(COMPOUNDS), "compounds;", check() or "formulas and space groups are right")
        return
    from crystalsmith.discovery.prediction import predict_structure
    from crystalsmith.engine.run import Engine

    chosen = [c for c in COMPOUNDS if not asked.only or c[0] in asked.only.split(",")]
    ranks: dict[str, int | None] = {}
    for formula, prototype, elements in chosen:
        folder = asked.out / formula
        settings = {"model": asked.model, "potential": asked.potential, "steps": asked.steps}
        there = (folder / "manifest.json").is_file()
        engine = Engine(asked.jobs)
        predict_structure(formula, folder, samples=asked.samples, resume=there, engine=engine, **settings)
        ranks[formula] = place(folder, prototype, elements)
        print(f"{formula:10} {prototype:20} rank {ranks[formula] or 'not found'}", flush=True)
    first, five = (sum(r is not None and r <= n for r in ranks.values()) for n in (1, 5))
    print(f"top 1: {first} of {len(ranks)}; top 5: {five}")
    (asked.out / "textbook.json").write_text(json.dumps({"samples": asked.samples, "ranks": ranks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
