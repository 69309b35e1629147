"""The small parts of the loop: the bandit, the estimates, the exchanges, the requirements met in part."""

from __future__ import annotations

import numpy as np
import pytest

from crystalsmith.discovery.bandit import PRIOR, Posterior
from crystalsmith.discovery.candidate import Candidate, State
from crystalsmith.discovery.choice import choose, over
from crystalsmith.discovery.estimate import (
    CHANCE_MEAN,
    Estimate,
    chance,
    chance_to_meet,
    fit_chance,
    fit_steps,
    price,
)
from crystalsmith.discovery.known import Known
from crystalsmith.discovery.proposals import Proposal, draw_round
from crystalsmith.discovery.wish import Limits, Wish, check_wish, parse_budgets
from crystalsmith.elements import NUMBERS
from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.requirements import parse_requirement
from crystalsmith.evaluation.reference.known import Reference


def test_the_posterior_counts_successes_and_failures_beside_the_prior() -> None:
    found = Posterior.of(["a", "b"], [("a", 1.0), ("a", 0.25), ("c", 1.0)])
    assert found.counts["a"] == (PRIOR[0] + 1.25, PRIOR[1] + 0.75)
    assert found.counts["b"] == PRIOR
    assert found.means()["a"] == pytest.approx(2.25 / 4)


def test_the_better_level_is_drawn_more_often_and_the_worse_one_as_often_as_the_floor_says() -> None:
    outcomes = [("good", 1.0)] * 40 + [("bad", 0.0)] * 40
    posterior = Posterior.of(["good", "bad"], outcomes)
    rng = np.random.default_rng(0)
    drawn = [posterior.draw(rng, 0.2) for _ in range(2000)]
    # An even draw comes with probability 0.2, and half of those are bad.
    assert drawn.count("bad") / 2000 == pytest.approx(0.1, abs=0.025)
    assert [posterior.draw(np.random.default_rng(5), 0.0) for _ in range(20)] == ["good"] * 20


def test_a_dear_level_must_succeed_more_often() -> None:
    posterior = Posterior.of(["cheap", "dear"], [("cheap", 0.5), ("dear", 0.5)] * 200)
    rng = np.random.default_rng(0)
    drawn = [posterior.draw(rng, 0.0, {"cheap": 1.0, "dear": 2.0}) for _ in range(100)]
    assert drawn.count("cheap") == 100


def test_the_chance_follows_the_outcomes_and_stays_finite_when_they_are_separable() -> None:
    low, high = Estimate(0.0, 0.1, 4), Estimate(1.0, 0.1, 4)
    assert fit_chance([]) == pytest.approx(CHANCE_MEAN)
    told = fit_chance([(low, True)] * 30 + [(high, False)] * 30)
    assert np.isfinite(told).all()
    assert chance(told, low) > 0.9 > 0.1 > chance(told, high)
    against = fit_chance([(low, False)] * 30)
    assert chance(against, low) < 0.2 < chance(fit_chance([]), low)


def test_the_fit_is_where_the_slope_of_the_posterior_vanishes() -> None:
    rng = np.random.default_rng(1)
    data = [(Estimate(float(e), float(f), 3), bool(rng.random() < 0.4)) for e, f in rng.random((25, 2)) * 2]
    weights = fit_chance(data)

    def loss(w: np.ndarray) -> float:
        from crystalsmith.discovery.estimate import CHANCE_STD

        total = 0.5 * float((((w - CHANCE_MEAN) / CHANCE_STD) ** 2).sum())
        for one, success in data:
            z = float(one.features @ w)
            total += np.logaddexp(0.0, -z) if success else np.logaddexp(0.0, z)
        return total

    for k in range(3):
        step = 1e-5 * np.eye(3)[k]
        assert abs(loss(weights + step) - loss(weights - step)) / 2e-5 < 1e-4


def test_large_forces_and_cells_cost_more() -> None:
    weights = fit_steps([(Estimate(0, 0.0, 2), 5), (Estimate(0, 10.0, 2), 200)] * 20)
    assert price(weights, Estimate(0, 10.0, 2)) > 5 * price(weights, Estimate(0, 0.0, 2))
    assert price(weights, Estimate(0, 1.0, 8)) == pytest.approx(4 * price(weights, Estimate(0, 1.0, 2)))


def test_the_chance_to_meet_is_that_of_the_normal_distribution() -> None:
    above = parse_requirement("bulk_modulus>300")
    assert chance_to_meet(above, 300.0, 20.0) == pytest.approx(0.5)
    assert chance_to_meet(above, 320.0, 20.0) == pytest.approx(0.8413, abs=1e-4)
    within = parse_requirement("band_gap 1.5..2.5")
    assert chance_to_meet(within, 2.0, 0.5) == pytest.approx(0.6827, abs=1e-4)
    assert chance_to_meet(within, 9.0, 0.0) == 0.0


def test_budgets_are_read_and_what_cannot_end_is_refused() -> None:
    assert parse_budgets(["500:relaxations", "180:bulk_modulus"]) == (500, {"bulk_modulus": 180})
    with pytest.raises(InputError, match="not understood"):
        parse_budgets(["180:sweets"])
    with pytest.raises(InputError, match="needs an end"):
        check_wish(Wish(), Limits())
    with pytest.raises(InputError, match="no requirement asks"):
        check_wish(Wish(), Limits(calculations={"bulk_modulus": 3}))


def test_limits_can_be_raised_and_keep_what_is_not_said_anew() -> None:
    before = Limits(want=10, calculations={"bulk_modulus": 5})
    assert before.raised(Limits(want=20)) == Limits(want=20, calculations={"bulk_modulus": 5})
    assert Limits.from_dict(before.to_dict()) == before


def _waiting(number: int, above: float, **values: float) -> Candidate:
    numbers = np.array([29, 79])
    raw = (np.zeros((2, 3)), 3 * np.eye(3), numbers)
    found = {"estimated_above_hull": above, "force": 0.5, **values}
    return Candidate(number, 0, {"source": "free", "kinds": "any", "size": "1-6"}, raw, stage="estimated", values=found)


def test_the_likeliest_are_relaxed_first_and_the_others_wait() -> None:
    state = State({k: _waiting(k, above) for k, above in enumerate([0.9, 0.0, 0.3, 0.05])})
    wish = Wish(relaxations=2, proposals=4)
    numbers, chances = choose(state, wish, {})
    assert numbers == [1, 3]
    assert sorted(chances, key=lambda n: -chances[n]) == [1, 3, 2, 0]
    state.take({"stage": "choice", "round": 0, "numbers": numbers, "chances": {str(k): v for k, v in chances.items()}})
    assert choose(state, wish, {})[0] == [2, 0]


def test_what_is_predicted_to_miss_the_requirement_waits() -> None:
    state = State({0: _waiting(0, 0.0, predicted_band_gap=6.0), 1: _waiting(1, 0.1, predicted_band_gap=2.0)})
    wish = Wish(requirements=("energy_above_hull<0.1", "band_gap 1.5..2.5"), relaxations=1, proposals=1)
    assert choose(state, wish, {"band_gap": 0.5})[0] == [1]


def test_a_run_is_over_when_a_limit_is_reached_and_not_before() -> None:
    state = State({0: _waiting(0, 0.0)}, at=3599.0)
    assert not over(state, Limits(want=1, hours=1.0, relaxations=1))
    state.take({"stage": "relaxed", "number": 0, "at": 3599.5})
    assert over(state, Limits(relaxations=1))
    assert not over(state, Limits(relaxations=2))
    state.take({"stage": "accepted", "number": 0, "at": 3600.0})
    assert over(state, Limits(want=1))
    assert over(state, Limits(hours=1.0))


@pytest.fixture
def known(alloys) -> Known:
    return Known(Reference.open(alloys))


def test_exchanges_are_counted_among_crystals_that_differ_in_one_element(known: Known) -> None:
    shares = known.exchanges
    assert shares.sum(1)[NUMBERS["Cu"]] == pytest.approx(1.0)
    # Known alloys of nickel and of copper with platinum make the two exchangeable; nothing does copper and oxygen.
    assert shares[NUMBERS["Ni"], NUMBERS["Cu"]] > 0
    assert shares[NUMBERS["Cu"], NUMBERS["O"]] == 0


def test_a_start_obeys_the_rules_and_its_cell_fits_its_elements(known: Known) -> None:
    rng = np.random.default_rng(0)
    allowed = [NUMBERS[s] for s in ("Ni", "Cu", "Pd", "Ag", "Pt", "Au")]
    for _ in range(30):
        start = known.draw(rng, (1, 4), allowed, [NUMBERS["Ag"]])
        assert start is not None
        numbers = set(start.arrays[2].tolist())
        assert numbers <= set(allowed)
        assert NUMBERS["Ag"] in numbers
        assert start.exchange
        volume = abs(np.linalg.det(start.arrays[1]))
        assert volume == pytest.approx(known.volumes[start.arrays[2]].sum(), rel=0.2)
    assert known.draw(rng, (9, 12), allowed) is None


def test_a_round_depends_on_the_seed_and_on_what_came_before_and_on_nothing_else(known: Known) -> None:
    wish = Wish(proposals=12, num_atoms=(1, 4), seed=3)
    metals = [NUMBERS[s] for s in ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")]
    first = draw_round(wish, 1, [], known, metals, [])
    assert first == draw_round(wish, 1, [], known, metals, [])
    assert [p.number for p in first] == list(range(12, 24))
    other = Wish(proposals=12, num_atoms=(1, 4), seed=4)
    assert first != draw_round(other, 1, [], known, metals, [])
    won = [Candidate(k, 0, {"source": "known:0", "kinds": "2", "size": "1-4"}, stage="accepted") for k in range(60)]
    after = draw_round(wish, 1, won, known, metals, [])
    assert sum(p.source == "known:0" for p in after) > sum(p.source == "known:0" for p in first)
    assert all(Proposal.from_dict(p.to_dict()) == p for p in after)


def test_the_screen_drops_what_no_crystal_is_and_says_why() -> None:
    from crystalsmith.discovery.screening import sanity

    corners = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    salt = np.array([55, 17])
    assert sanity((corners, 4.12 * np.eye(3), salt), [17, 55])[1] == ""
    assert sanity((corners, 4.12 * np.eye(3), salt), [17])[1] == "broken_rule"
    assert sanity((0.1 * corners, 4.12 * np.eye(3), salt), [17, 55])[1] == "not_valid"
    squeezed = (corners, 1.6 * np.eye(3), salt)
    facts, word, detail = sanity(squeezed, [17, 55])
    assert (facts is not None, word) == (True, "implausible")
    assert "short bond" in detail
    # The plain way relaxes whatever is valid, as an evaluation does.
    assert sanity(squeezed, [17, 55], strict=False)[1] == ""
