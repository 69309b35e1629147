"""From judged crystals to rates, each with its interval; every definition stands in ``docs/evaluation.md``.

Rates count all crystals that were asked for: what failed on the way counts as not stable, not unique and not novel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.reference import Reference
from crystalsmith.evaluation.statistics import entropy, jensen_shannon, rate, spread, wasserstein
from crystalsmith.evaluation.structures import Sample

THRESHOLDS = (0.0, 0.05, 0.1)
"""Energies above the hull (eV/atom) up to which a crystal counts as stable; the field quotes 0.1."""

HULL_TOLERANCE = 1e-6
"""eV/atom of rounding within which a crystal at the hull is not above it."""

RADIOACTIVE = frozenset({43, 61, *range(84, 101)})
"""Elements without a stable isotope, but for bismuth, which is as good as stable."""

NOBLE_GASES = frozenset({2, 10, 18, 36, 54})

SCARCE = frozenset({44, 45, 46, 52, 75, 76, 77, 78, 79})
"""Ru, Rh, Pd, Te, Re, Os, Ir, Pt, Au: less than about ten parts per billion of the crust."""


@dataclass
class Judged:
    """One crystal and all that was found out about it; None means not known, not asked or not applicable.

    Attributes:
        sample: as given.
        facts: of the crystal as given; None where there is none.
        relaxed: facts of the relaxed crystal.
        failure, detail: why it could not be judged to the end.
        formation_energy: eV/atom on the reference's scale.
        energy_rank: among the crystals of its reduced formula by energy, 1 is the lowest.
        energy_above_hull: eV/atom.
        energy_above_label_hull: eV/atom, where the hull is the potential's own.
        missing_elements: symbols that the hull does not know.
        hull_entries, hull_entries_with_all: entries of the hull within its chemical system, and with all its elements.
        hull_entries_by_size: those of one element, of two, ... as in ``2+5+1``.
        hull_gaps: its binary and ternary sub-systems without any entry.
        phases_left_out: competing phases by the labels that have no structure to compute.
        biased_elements: those whose energies the potential is known to get wrong.
        rmsd: angstrom, to the relaxed structure.
        unique, novel: by the ordered matcher; ``_disordered`` by either.
        duplicate_of, matched: the earlier crystal, or the reference entry, that it is the same as.
        charge_balanced: SMACT's verdict on the composition.
        bulk_modulus: GPa, by an equation of state; the note says why there is none.
        measured: properties by canonical name; see :mod:`crystalsmith.evaluation.measures`.
        meets: whether it meets all requirements.
    """

    sample: Sample
    facts: Facts | None = None
    relaxed: Facts | None = None
    failure: str = ""
    detail: str = ""
    energy_per_atom: float | None = None
    formation_energy: float | None = None
    energy_rank: int | None = None
    energy_above_hull: float | None = None
    missing_elements: tuple[str, ...] = ()
    hull_entries: int | None = None
    hull_entries_with_all: int | None = None
    hull_entries_by_size: str = ""
    hull_gaps: str = ""
    energy_above_label_hull: float | None = None
    phases_left_out: str = ""
    biased_elements: tuple[str, ...] = ()
    decomposition: str = ""
    rmsd: float | None = None
    unique: bool | None = None
    unique_disordered: bool | None = None
    duplicate_of: str = ""
    duplicate_of_disordered: str = ""
    novel: bool | None = None
    novel_disordered: bool | None = None
    matched: str = ""
    matched_disordered: str = ""
    charge_balanced: bool | None = None
    steps: int | None = None
    seconds: float | None = None
    bulk_modulus: float | None = None
    bulk_modulus_note: str = ""
    measured: dict[str, float | str | None] = field(default_factory=dict)
    meets: bool | None = None

    @property
    def valid(self) -> bool:
        """Whether the crystal as given exists and keeps its atoms apart."""
        return self.facts is not None and self.facts.valid

    def stable(self, threshold: float) -> bool:
        """Whether its energy above the hull is known and at most the threshold (eV/atom)."""
        return self.energy_above_hull is not None and self.energy_above_hull <= threshold + HULL_TOLERANCE


def summarise(crystals: Sequence[Judged], reference: Reference | None, relaxed: bool) -> dict[str, Any]:
    """All metrics of a set of crystals, and by name those that could not be computed with the reason."""
    missing: dict[str, str] = {}
    found: dict[str, Any] = {
        "requested": len(crystals),
        "valid": rate([c.valid for c in crystals]),
        "failures": dict(Counter(c.failure for c in crystals if c.failure).most_common()),
        "charge_balanced": _charge_balance(crystals, missing),
        "composition": _composition(crystals),
        "diversity": _diversity(crystals),
        "unique": rate([c.unique for c in crystals]),
        "unique_disordered": rate([c.unique_disordered for c in crystals]),
    }
    found |= _novelty(crystals, reference, missing)
    found |= _stability(crystals, reference, missing)
    found |= _relaxation(crystals, relaxed, missing)
    found["distributions"] = _distributions(crystals, reference, missing)
    found["missing"] = missing
    return {name: value for name, value in found.items() if value is not None}


def _charge_balance(crystals: Sequence[Judged], missing: dict[str, str]) -> dict[str, Any] | None:
    judged = [c for c in crystals if c.facts is not None]
    if not any(c.charge_balanced is not None for c in judged):
        missing["charge_balanced"] = "smact is not installed (pip install 'crystalsmith[evaluate]')"
        return None
    return rate([c.charge_balanced for c in crystals])


def _composition(crystals: Sequence[Judged]) -> dict[str, Any]:
    def share(elements: frozenset[int]) -> dict[str, Any]:
        return rate([bool(elements & set(c.sample.numbers.tolist())) for c in crystals])

    return {"radioactive": share(RADIOACTIVE), "noble_gases": share(NOBLE_GASES), "scarce": share(SCARCE)}


def _diversity(crystals: Sequence[Judged]) -> dict[str, Any]:
    known = [c for c in crystals if c.facts is not None]
    groups = [c.facts.space_groups[0] for c in known if c.facts is not None and c.facts.space_groups[0]]
    elements = Counter(int(z) for c in known for z in set(c.sample.numbers.tolist()))
    return {
        "formulas": len({c.facts.formula for c in known if c.facts is not None}),
        "chemical_systems": len({frozenset(c.sample.numbers.tolist()) for c in known}),
        "space_groups": len(set(groups)),
        "elements": len(elements),
        "element_entropy_bits": entropy(list(elements.values())),
        "space_group_entropy_bits": entropy(list(Counter(groups).values())),
        "in_p1": rate([g == 1 for g in groups]),
    }


def _novelty(crystals: Sequence[Judged], reference: Reference | None, missing: dict[str, str]) -> dict[str, Any]:
    if reference is None or not reference.num_structures:
        missing["novel"] = "no reference structures were given (--reference)"
        return {}
    return {
        "novel": rate([c.novel for c in crystals]),
        "novel_disordered": rate([c.novel_disordered for c in crystals]),
        "unique_and_novel": rate([c.unique and c.novel for c in crystals]),
    }


def _stability(crystals: Sequence[Judged], reference: Reference | None, missing: dict[str, str]) -> dict[str, Any]:
    if reference is None or not reference.num_entries:
        missing["stable"] = "no reference energies were given (--reference with a hull)"
        return {}
    if all(c.energy_above_hull is None for c in crystals):
        missing["stable"] = "no energies are known (relax with --potential, or give --energies)"
        return {}
    found: dict[str, Any] = {"energy_above_hull": spread([c.energy_above_hull for c in crystals])}
    found["energy_above_hull"]["unknown"] = sum(c.energy_above_hull is None for c in crystals)
    found["stable"] = {_name(t): rate([c.stable(t) for c in crystals]) for t in THRESHOLDS}
    if reference.num_structures:
        found["sun"] = {_name(t): rate([c.stable(t) and c.unique and c.novel for c in crystals]) for t in THRESHOLDS}
        found["sun_disordered"] = {
            _name(t): rate([c.stable(t) and c.unique_disordered and c.novel_disordered for c in crystals])
            for t in THRESHOLDS
        }
    return found


def _name(threshold: float) -> str:
    return f"{threshold:g}"


def _relaxation(crystals: Sequence[Judged], relaxed: bool, missing: dict[str, str]) -> dict[str, Any]:
    if not relaxed:
        for name in ("rmsd", "symmetry_kept"):
            missing[name] = "the crystals were not relaxed (--potential)"
        return {}
    done = [c for c in crystals if c.relaxed is not None]
    return {
        "relaxed": rate([c.relaxed is not None for c in crystals]),
        "rmsd": spread([c.rmsd for c in done]) | {"unmatched": sum(c.rmsd is None for c in done)},
        "symmetry_kept": {name: rate([_same_group(c, k) for c in crystals]) for name, k in (("0.01", 1), ("1e-05", 2))},
        "seconds_per_crystal": spread([c.seconds for c in crystals]),
    }


def _same_group(crystal: Judged, tolerance: int) -> bool:
    if crystal.facts is None or crystal.relaxed is None:
        return False
    before = crystal.facts.space_groups[tolerance]
    return before is not None and before == crystal.relaxed.space_groups[tolerance]


def _distributions(
    crystals: Sequence[Judged], reference: Reference | None, missing: dict[str, str]
) -> dict[str, Any] | None:
    if reference is None or not reference.num_structures:
        missing["distributions"] = "no reference structures were given (--reference)"
        return None
    valid = [(c.sample, c.facts) for c in crystals if c.facts is not None and c.facts.valid]
    if not valid:
        missing["distributions"] = "no crystal is valid"
        return None
    groups = np.bincount([f.space_groups[0] or 0 for _, f in valid], minlength=231)[:231].astype(float)
    elements = np.bincount(np.concatenate([s.numbers for s, _ in valid]), minlength=101)[:101]
    known = np.bincount(reference.space_groups, minlength=231)[:231].astype(float)
    groups[0] = known[0] = 0.0
    line: dict[str, Callable[[Facts], float]] = {
        "density": lambda f: f.density,
        "num_atoms": lambda f: f.num_atoms,
        "num_elements": lambda f: f.num_elements,
    }
    theirs = {"density": reference.density, "num_atoms": reference.num_atoms, "num_elements": reference.num_elements}
    found: dict[str, Any] = {
        f"{name}_wasserstein": wasserstein([value(f) for _, f in valid], theirs[name]) for name, value in line.items()
    }
    found["elements_jensen_shannon"] = jensen_shannon(elements, reference.element_counts)
    found["space_groups_jensen_shannon"] = jensen_shannon(groups, known)
    low, high = np.quantile(reference.density, [0.005, 0.995])
    found["density_in_range"] = rate([low <= f.density <= high for _, f in valid], len(crystals))
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in found.items()}
