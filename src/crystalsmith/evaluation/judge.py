"""Steps of an evaluation that look at the whole set: description, energies and hull, uniqueness and novelty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crystalsmith.engine.limits import TooSlow, at_most
from crystalsmith.engine.run import Engine, plainly, run
from crystalsmith.errors import InputError
from crystalsmith.evaluation.facts import Facts, facts_of
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays, Candidate, first_match, formula_key, group
from crystalsmith.evaluation.plausible import plausibility
from crystalsmith.evaluation.reference.hull import Hull
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.reference.schemes import scheme_name
from crystalsmith.evaluation.reference.sense import HIGHEST, LOWEST, wild
from crystalsmith.evaluation.structures import Sample
from crystalsmith.progress import metered

CHUNK = 32

SMACT_LIMIT = 10.0
"""Seconds for the oxidation states of one composition."""


def described(samples: Sequence[Sample], engine: Engine) -> list[Judged]:
    """Each crystal with its facts; those that cannot be described have failed."""
    chunks = [list(samples[k : k + CHUNK]) for k in range(0, len(samples), CHUNK)]
    crystals: list[Judged] = []
    with metered("describing", len(samples)) as advance:
        for part in run(plainly(_describe), chunks, engine.at_most(len(samples) // 100), ordered=True, tries=2):
            chunk = chunks[part.number]
            lost = [Judged(sample, failure="not_described", detail=part.detail) for sample in chunk]
            crystals += lost if part.status else part.value
            advance(len(chunk))
    return crystals


def _describe(samples: list[Sample]) -> list[Judged]:
    return [_described(sample) for sample in samples]


def _described(sample: Sample) -> Judged:
    if sample.failure:
        return Judged(sample, failure=sample.failure, detail=sample.detail)
    facts, problem = facts_or_problem(sample.arrays)
    if facts is None:
        return Judged(sample, failure="not_described", detail=problem)
    judged = Judged(sample, facts=facts, charge_balanced=charge_balanced(sample.numbers.tolist()))
    if facts.valid:
        judged.plausibility = plausibility(*sample.arrays, judged.charge_balanced)
        judged.condensed = judged.plausibility.condensed
    else:
        judged.failure = "not_valid"
        judged.detail = f"shortest distance {facts.shortest_distance:.2f} angstrom"
    return judged


def facts_or_problem(arrays: Arrays) -> tuple[Facts | None, str]:
    """The facts of a crystal, or what went wrong; no crystal may end a run."""
    try:
        return facts_of(*arrays), ""
    except Exception as error:  # foreign libraries raise what they like on garbage
        return None, f"{type(error).__name__}: {error}"[:200]


def charge_balanced(numbers: Sequence[int]) -> bool | None:
    """SMACT's verdict on a composition, with alloys and single elements let through; None without the package.

    Also None where its search takes longer than ``SMACT_LIMIT``: it tries all combinations of oxidation states.
    Compositions of elements that SMACT does not know have no neutral combination, so they do not pass.
    """
    try:
        from smact.screening import smact_validity
    except ImportError:
        return None
    from pymatgen.core import Composition

    from crystalsmith.evaluation.facts import reduced_formula

    try:
        with at_most(SMACT_LIMIT):
            return bool(smact_validity(Composition(reduced_formula(np.array(numbers)))))
    except TooSlow:
        return None
    except Exception:  # an element without oxidation states in its tables
        return False


def place_energies(
    crystals: Sequence[Judged], energies: dict[str, dict[str, float]], reference: Reference | None, scheme: str | None
) -> None:
    """Set formation energies from a file's energies.

    Raises:
        InputError: if they are not on the reference's scale, or belong to none of the crystals.
    """
    if reference is None or not reference.num_entries:
        raise InputError("Energies need a reference with a hull to be compared with; give --reference.")
    if scheme is None:
        raise InputError(
            f"Say with --corrections in which scheme the energies are; the reference {reference.name} is in "
            f"{reference.corrections}."
        )
    check_scheme(scheme_name(scheme), reference)
    if not any(crystal.sample.id in energies for crystal in crystals):
        raise InputError("None of the energies belongs to one of the crystals; the ids in both files must agree.")
    for crystal in crystals:
        given = energies.get(crystal.sample.id)
        if not given:
            crystal.no_energy = "no row of the energies is its own" if given is None else "its energy is no number"
            continue
        if crystal.facts is None:
            continue
        if "total" in given:
            crystal.energy_per_atom = given["total"]
            composition = composition_of(crystal)
            crystal.formation_energy = _finite(reference.formation_energy(composition, given["total"]))
            crystal.missing_elements = reference.without_elemental_energy(composition)
        if "formation" in given:
            crystal.formation_energy = given["formation"]
    _refuse_wild(crystals)


def _refuse_wild(crystals: Sequence[Judged]) -> None:
    """Refuse energies that are of another unit or quantity; a crystal whose own makes no sense has none.

    Raises:
        InputError: if more than half of them make no sense.
    """
    known = [(c, energy) for c in crystals if (energy := c.formation_energy) is not None]
    out = [(c, energy) for c, energy in known if not LOWEST <= energy <= HIGHEST]
    if len(out) > len(known) / 2:
        wild([energy for _, energy in known], [len(c.sample.numbers) for c, _ in known], "the crystals")
    for crystal, energy in out:
        crystal.energy_per_atom = crystal.formation_energy = None
        crystal.no_energy = f"{energy:.4g} eV/atom is no formation energy"


def check_scheme(scheme: str | None, reference: Reference) -> None:
    """Refuse energies of one correction scheme beside a hull of another.

    Raises:
        InputError: if they differ.
    """
    if reference.corrections != scheme:
        raise InputError(
            f"The energies are in the scheme '{scheme}' but the reference {reference.name} is in "
            f"'{reference.corrections}', so their difference means nothing; use a reference of the same scheme."
        )


def place_on_hull(crystals: Sequence[Judged], hull: Hull, name: Callable[[int], str]) -> None:
    """Set energies above the hull, and how many of its entries stand behind each; ``name`` gives the id of an entry."""
    for crystal in crystals:
        if crystal.facts is None:
            continue
        energy = math.nan if crystal.formation_energy is None else crystal.formation_energy
        found = hull.distance(composition_of(crystal), energy)
        crystal.hull_entries, crystal.hull_entries_with_all = found.entries, found.entries_with_all
        crystal.energy_above_hull = _finite(found.energy_above_hull)
        crystal.energy_above_hull_given = None
        if crystal.formation_energy_given is not None:
            given = hull.distance(composition_of(crystal), crystal.formation_energy_given)
            crystal.energy_above_hull_given = _finite(given.energy_above_hull)
        crystal.missing_elements = tuple(sorted({*crystal.missing_elements, *found.missing}))
        crystal.decomposition = "; ".join(f"{name(e)} {share:.3f}" for e, share in sorted(found.decomposition.items()))
        if crystal.missing_elements and crystal.formation_energy is None and not crystal.failure:
            crystal.failure = "not_in_reference"
            crystal.detail = f"the reference lacks {' '.join(crystal.missing_elements)}"


def composition_of(crystal: Judged) -> dict[int, float]:
    """The reduced composition of a crystal, atomic number to amount."""
    return {z: float(n) for z, n in formula_key(crystal.sample.numbers)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class _Peers:
    """The crystals of one reduced formula, and the reference's structures of the same."""

    crystals: list[tuple[str, Arrays]]
    known: list[tuple[str, Arrays]] | None


@dataclass(frozen=True)
class _Verdict:
    leader: str
    leader_disordered: str
    matched: str
    matched_disordered: str
    problem: str = ""


def match(
    crystals: Sequence[Judged],
    arrays: Callable[[Judged], Arrays | None],
    reference: Reference | None,
    engine: Engine,
) -> None:
    """Set which crystals are unique among themselves and novel with respect to the reference.

    Args:
        arrays: the crystal to compare (the relaxed one, say), or None to leave one out.
    """
    groups: dict[tuple[tuple[int, int], ...], list[tuple[Judged, Arrays]]] = {}
    for crystal in crystals:
        counted = arrays(crystal)
        if counted is not None:
            groups.setdefault(formula_key(counted[2]), []).append((crystal, counted))
    novelty = reference is not None and reference.num_structures > 0
    if reference is not None and novelty:
        _of_what(crystals, reference)
    tasks = [_Peers([(c.sample.id, a) for c, a in g], _known(reference, g[0][1])) for g in groups.values()]
    with metered("matching", sum(len(g) for g in groups.values())) as advance:
        everyone = list(groups.values())
        for found in run(plainly(_match), tasks, engine.at_most(len(tasks) // 50), tries=2):
            members = everyone[found.number]
            lost = [_Verdict("", "", "", "", found.detail)] * len(members)
            for (crystal, _), verdict in zip(members, lost if found.status else found.value, strict=True):
                _apply(crystal, verdict, novelty)
            advance(len(members))


def _of_what(crystals: Sequence[Judged], reference: Reference) -> None:
    """Set whether compositions and frameworks are new, whatever the structure."""
    for crystal in crystals:
        facts = crystal.relaxed or crystal.facts
        if facts is None or crystal.failure:
            continue
        crystal.novel_composition = not reference.knows_composition(crystal.sample.numbers)
        if reference.frameworks is not None and facts.framework:
            crystal.novel_framework = facts.framework not in reference.frameworks


def _known(reference: Reference | None, arrays: Arrays) -> list[tuple[str, Arrays]] | None:
    return None if reference is None else list(reference.same_formula(arrays[2]))


def _apply(crystal: Judged, verdict: _Verdict, novelty: bool) -> None:
    if verdict.problem:
        crystal.failure, crystal.detail = crystal.failure or "not_matched", crystal.detail or verdict.problem
        return
    crystal.unique, crystal.duplicate_of = not verdict.leader, verdict.leader
    crystal.unique_disordered = not verdict.leader_disordered
    crystal.duplicate_of_disordered = verdict.leader_disordered
    if novelty:
        crystal.novel, crystal.matched = not verdict.matched, verdict.matched
        crystal.novel_disordered = not (verdict.matched or verdict.matched_disordered)
        crystal.matched_disordered = verdict.matched_disordered


def _match(peers: _Peers) -> list[_Verdict]:
    """The verdicts on the crystals of one formula, in their order."""
    candidates = [Candidate(name, arrays) for name, arrays in peers.crystals]
    known = [Candidate(name, arrays) for name, arrays in peers.known or []]
    volumes = {k.name: _volume_per_atom(k.arrays) for k in known}
    ordered, disordered = group(candidates), group(candidates, disordered=True)
    found = []
    for index, candidate in enumerate(candidates):
        size = _volume_per_atom(candidate.arrays)
        # Any match settles the question, so the likeliest come first.
        nearest = sorted(known, key=lambda k: abs(math.log(volumes[k.name] / size)))
        matched = first_match(candidate, nearest) or ""
        similar = "" if matched else first_match(candidate, nearest, disordered=True) or ""
        leaders = [candidates[g[index]].name if g[index] != index else "" for g in (ordered, disordered)]
        candidate.reduced(False)
        found.append(_Verdict(leaders[0], leaders[1], matched, similar, candidate.problem))
    return found


def _volume_per_atom(arrays: Arrays) -> float:
    return abs(float(np.linalg.det(arrays[1]))) / len(arrays[2])


def rank_by_energy(crystals: Sequence[Judged]) -> None:
    """Rank the crystals of each reduced formula by energy per atom: which of the structures predicted for it to take.

    Crystals without energy and those that failed have no rank; equal energies keep the order of the input.
    """
    groups: dict[tuple[tuple[int, int], ...], list[tuple[float, int]]] = {}
    for place, crystal in enumerate(crystals):
        # Of one composition, total and formation energies differ by a constant.
        energy = crystal.formation_energy if crystal.energy_per_atom is None else crystal.energy_per_atom
        if energy is not None and not crystal.failure:
            groups.setdefault(formula_key(crystal.sample.numbers), []).append((energy, place))
    for members in groups.values():
        for rank, (_, place) in enumerate(sorted(members), start=1):
            crystals[place].energy_rank = rank
