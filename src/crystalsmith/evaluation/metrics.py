"""From judged crystals to rates, each with its interval; every definition stands in ``docs/evaluation.md``.

Rates count all crystals that were asked for: what failed on the way counts as not stable, not unique and not novel.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crystalsmith.elements import DENY_LISTS
from crystalsmith.evaluation.conventions import conventions
from crystalsmith.evaluation.facts import Facts
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.statistics import entropy, jensen_shannon, rate, spread, wasserstein

THRESHOLDS = (0.0, 0.05, 0.1)
"""Energies above the hull (eV/atom) up to which a crystal counts as stable; the field quotes 0.1."""

YTTERBIUM = 70
"""The Materials Project computed it with a pseudopotential (Yb_2) until 2023 that made compounds stable which are not
(pymatgen issue 2968): a hull with MP2020 corrections may rest on such energies."""

SHOWN = 20
"""Names of crystals without an energy that are kept."""


def summarise(crystals: Sequence[Judged], reference: Reference | None, relaxed: bool) -> dict[str, Any]:
    """All metrics of a set of crystals, and by name those that could not be computed with the reason."""
    missing: dict[str, str] = {}
    found: dict[str, Any] = {
        "requested": len(crystals),
        "valid": rate([c.valid for c in crystals]),
        "no_energy": _without_energy(crystals),
        "failures": dict(Counter(c.failure for c in crystals if c.failure).most_common()),
        "charge_balanced": _charge_balance(crystals, missing),
        "plausible": rate([c.plausibility is not None and c.plausibility.plausible for c in crystals]),
        "doubts": dict(Counter(d for c in crystals if c.plausibility for d in c.plausibility.doubts).most_common()),
        "not_condensed": sum(c.condensed is False for c in crystals),
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


def _without_energy(crystals: Sequence[Judged]) -> dict[str, Any] | None:
    """The crystals to which a table of energies gives none; None where it gives one to each."""
    names = [c.sample.id for c in crystals if c.no_energy]
    return {"count": len(names), "ids": names[:SHOWN]} if names else None


def _charge_balance(crystals: Sequence[Judged], missing: dict[str, str]) -> dict[str, Any] | None:
    judged = [c for c in crystals if c.facts is not None]
    if not any(c.charge_balanced is not None for c in judged):
        installed = importlib.util.find_spec("smact") is not None
        missing["charge_balanced"] = (
            "SMACT gave no verdict on any crystal (none is described, or its search took too long)"
            if installed
            else "smact is not installed (pip install 'crystalsmith[evaluate]')"
        )
        return None
    return rate([c.charge_balanced for c in crystals])


def _composition(crystals: Sequence[Judged]) -> dict[str, Any]:
    def share(elements: frozenset[int]) -> dict[str, Any]:
        return rate([bool(elements & set(c.sample.numbers.tolist())) for c in crystals])

    lists = {"radioactive": "radioactive", "noble_gases": "noble", "scarce": "scarce"}
    return {name: share(DENY_LISTS[kept]) for name, kept in lists.items()}


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
        "novel_composition": rate([c.novel_composition for c in crystals]),
        "novel_framework": _novel_frameworks(crystals, reference, missing),
    }


def _novel_frameworks(
    crystals: Sequence[Judged], reference: Reference, missing: dict[str, str]
) -> dict[str, Any] | None:
    if reference.frameworks is None:
        missing["novel_framework"] = "the reference was built before frameworks were kept (build it again)"
        return None
    return rate([c.novel_framework for c in crystals])


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
        found["sun"] = {_name(t): rate([c.stable(t) and c.new for c in crystals]) for t in THRESHOLDS}
        found["sun_disordered"] = {
            _name(t): rate([c.stable(t) and c.new_disordered for c in crystals]) for t in THRESHOLDS
        }
        found["conventions"] = conventions(crystals)
    apart = _without_ytterbium(crystals, reference)
    if apart is not None:
        found["ytterbium"] = apart
    if any(c.energy_above_hull_given is not None for c in crystals):
        found["as_given"] = _as_given(crystals, reference.num_structures > 0)
    return found


def _without_ytterbium(crystals: Sequence[Judged], reference: Reference) -> dict[str, Any] | None:
    """How many hold ytterbium, and the rates of the others; None where none does or the energies are of other kinds."""
    holds = [YTTERBIUM in c.sample.numbers for c in crystals]
    if reference.corrections != "mp2020" or not any(holds):
        return None
    others = [c for c, with_it in zip(crystals, holds, strict=True) if not with_it]
    found: dict[str, Any] = {
        "crystals": rate(holds),
        "stable": {_name(t): rate([c.stable(t) for c in others]) for t in THRESHOLDS},
    }
    if reference.num_structures:
        found["sun"] = {_name(t): rate([c.stable(t) and c.new for c in others]) for t in THRESHOLDS}
    return found


def _as_given(crystals: Sequence[Judged], novelty: bool) -> dict[str, Any]:
    """The same with the energies of the crystals as given; which are unique and novel is that of the relaxed ones."""
    found: dict[str, Any] = {
        "energy_above_hull": spread([c.energy_above_hull_given for c in crystals]),
        "stable": {_name(t): rate([c.stable_given(t) for c in crystals]) for t in THRESHOLDS},
    }
    if novelty:
        found["sun"] = {_name(t): rate([c.stable_given(t) and c.new for c in crystals]) for t in THRESHOLDS}
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
