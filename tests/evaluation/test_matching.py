"""The quick matcher gives pymatgen's verdicts, and knows copies, alloys and different crystals."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.conftest import FCC
from tests.evaluation.pairs import KINDS, crystal, disturbed, doubled, hard_pairs, our_verdicts, plain_verdicts

from crystalsmith.evaluation.matching import (
    Candidate,
    first_match,
    group,
    matches,
    merged,
    rms_displacement,
    substitution_groups,
)

ROCK_SALT = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], 5.64 * FCC, [11, 17])
CAESIUM_CHLORIDE = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], 3.5 * np.eye(3), [11, 17])
RUTILE = crystal(
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]],
    np.diag([4.59, 4.59, 2.96]),
    [22, 22, 8, 8, 8, 8],
)


def test_verdicts_are_those_of_the_plain_matcher() -> None:
    rng = np.random.default_rng(0)
    sizes = (0.0, 0.1, 0.4)
    pool = [disturbed(base, rng, size, size / 5) for base in (ROCK_SALT, CAESIUM_CHLORIDE) for size in sizes]
    pool += [doubled(ROCK_SALT), doubled(CAESIUM_CHLORIDE, 2)]
    pool += [disturbed(doubled(ROCK_SALT), rng, 0.3)]
    candidates = [Candidate(str(i), arrays) for i, arrays in enumerate(pool)]
    verdicts = [
        (matches(a, b), plain_verdicts(a.arrays, b.arrays)[0]) for i, a in enumerate(candidates) for b in candidates[i:]
    ]
    assert [ours for ours, _ in verdicts] == [theirs for _, theirs in verdicts]
    assert 0 < sum(ours for ours, _ in verdicts) < len(verdicts)


def test_verdicts_on_hard_pairs_of_real_crystals(shared) -> None:
    """The thousands are for benchmarks/matcher_verdicts.py."""
    import pyarrow.parquet as pq

    table = pq.read_table(shared("data/mp20.parquet"), columns=["frac", "lattice", "Z", "n_atoms"]).slice(0, 12000)
    structures = [
        crystal(np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3)), row["Z"])
        for row in table.to_pylist()
        if row["n_atoms"] <= 8
    ]
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for kind, one, other in hard_pairs(structures, np.random.default_rng(1), 60):
        found[kind].append((our_verdicts(one, other), plain_verdicts(one, other)))
    assert all(ours == plain for verdicts in found.values() for ours, plain in verdicts)
    for kind in ("copies", "supercells"):
        assert 0 < sum(ours[0] for ours, _ in found[kind]) < 60
    assert not all(ours[1] for ours, _ in found["polymorphs"])
    assert sum(ours[1] and not ours[0] for ours, _ in found["alloys"]) > 0


def test_copies_are_the_same_and_polymorphs_are_not() -> None:
    rng = np.random.default_rng(1)
    rutile = Candidate("rutile", RUTILE)
    assert matches(rutile, Candidate("", disturbed(RUTILE, rng)))
    assert matches(rutile, Candidate("", doubled(RUTILE, 2)))
    assert not matches(Candidate("", ROCK_SALT), Candidate("", CAESIUM_CHLORIDE))
    others = [Candidate("cscl", CAESIUM_CHLORIDE), Candidate("nacl", doubled(ROCK_SALT)), Candidate("late", ROCK_SALT)]
    assert first_match(Candidate("", disturbed(ROCK_SALT, rng)), others) == "nacl"


def test_groups_have_their_first_member_as_leader() -> None:
    rng = np.random.default_rng(2)
    crystals = [ROCK_SALT, RUTILE, disturbed(ROCK_SALT, rng), CAESIUM_CHLORIDE, doubled(RUTILE), doubled(ROCK_SALT)]
    candidates = [Candidate(str(i), c) for i, c in enumerate(crystals)]
    assert group(candidates) == [0, 1, 0, 3, 1, 0]


def decorated(order):
    """Eight atoms on a simple cubic lattice, with elements as given."""
    corners = np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5], indexing="ij"), -1).reshape(-1, 3)
    return crystal(corners, 6.0 * np.eye(3), order)


def test_decorations_of_an_alloy_match_only_when_disordered() -> None:
    layers = Candidate("layers", decorated([28, 28, 28, 28, 29, 29, 29, 29]))
    checkered = Candidate("checkered", decorated([28, 29, 29, 28, 29, 28, 28, 29]))
    assert substitution_groups(frozenset({28, 29})) == (frozenset({28, 29}),)
    assert not matches(layers, checkered)
    assert matches(layers, checkered, disordered=True)
    assert group([layers, checkered]) == [0, 1]
    assert group([layers, checkered], disordered=True) == [0, 0]


def test_salts_are_no_alloys() -> None:
    layers = Candidate("", decorated([11, 11, 11, 11, 17, 17, 17, 17]))
    checkered = Candidate("", decorated([11, 17, 17, 11, 17, 11, 11, 17]))
    assert not layers.can_be_disordered
    assert not matches(layers, checkered, disordered=True)


def test_substitution_is_linked_pair_by_pair_and_spares_elements_without_data() -> None:
    # Radii in pm: Cr 140, Fe 140, O 60; noble gases have none.
    assert substitution_groups(frozenset({24, 26, 8})) == (frozenset({8}), frozenset({24, 26}))
    assert substitution_groups(frozenset({10, 18})) == (frozenset({10}), frozenset({18}))
    assert merged(np.array([8, 26, 24])).tolist() == [8, 24, 24]


def test_displacements_are_in_angstrom() -> None:
    frac, cell, numbers = RUTILE
    assert rms_displacement(RUTILE, doubled(RUTILE, 2)) == pytest.approx(0.0, abs=1e-6)
    moved = frac.copy()
    moved[2:] += np.array([[1, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0]]) * 0.1 / 4.59
    # Oxygen moves by 0.1, titanium not: root of 4/6 times 0.1.
    assert rms_displacement(RUTILE, (moved, cell, numbers)) == pytest.approx(0.1 * (4 / 6) ** 0.5, rel=0.02)
    assert rms_displacement(RUTILE, crystal(frac, 2 * cell, numbers)) is None


def test_a_crystal_that_cannot_be_reduced_matches_nothing() -> None:
    unheard = Candidate("", crystal([[0, 0, 0]], 3.0 * np.eye(3), [130]))
    assert not matches(unheard, unheard)
    assert unheard.problem


def test_a_pair_that_takes_too_long_is_recorded(monkeypatch) -> None:
    import time

    from crystalsmith.evaluation import matching

    class Slow:
        def fit(self, *_, **__) -> bool:
            for _ in range(3000):
                time.sleep(0.01)
            return True

    monkeypatch.setattr(matching, "TIME_LIMIT", 0.05)
    monkeypatch.setattr(matching, "_matcher", Slow)
    crystals = [Candidate(name, ROCK_SALT) for name in ("a", "b", "c")]
    began = time.monotonic()
    assert group(crystals) == [0, 1, 2]
    assert group(crystals, disordered=True) == [0, 1, 2]
    assert time.monotonic() - began < 5
    assert crystals[0].problem == ""
    assert "comparing a and b took more than 0.05 s" in crystals[1].problem


def test_two_hundred_atoms_are_matched_with_their_own_copy() -> None:
    rng = np.random.default_rng(0)
    frac, cell, numbers = rng.random((200, 3)), 16.0 * np.eye(3), rng.integers(1, 5, 200)
    moved = frac + 0.02 * rng.standard_normal((200, 3)) / 16.0
    assert matches(Candidate("a", (frac, cell, numbers)), Candidate("b", (moved, cell, numbers)))
