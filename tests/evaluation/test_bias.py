"""Planted errors of a potential are found element by element, and the crystals that rest on them are flagged."""

from __future__ import annotations

import numpy as np
import pytest
from tests.evaluation.conftest import GOLD_ERROR, metals
from typer.testing import CliRunner

from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judge import described
from crystalsmith.evaluation.potential.bias import (
    PENALTY,
    ElementBias,
    fitted,
    flag_biased,
    measure_bias,
    read_bias,
    robust_ridge,
    spread_over_elements,
)
from crystalsmith.evaluation.potential.potentials import find_potential
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import Sample

EMT = "ase.calculators.emt:EMT"


def crystals_of(rng, number, elements):
    """Fractions of two or three of so many elements."""
    fractions = np.zeros((number, elements))
    for row in fractions:
        chosen = rng.choice(elements, rng.integers(2, 4), replace=False)
        row[chosen] = rng.integers(1, 4, len(chosen))
    return fractions / fractions.sum(1, keepdims=True)


def test_planted_biases_are_found_in_spite_of_outliers() -> None:
    rng = np.random.default_rng(0)
    fractions = crystals_of(rng, 600, 20)
    planted = np.zeros(20)
    planted[[3, 7]] = 0.12, -0.08
    differences = fractions @ planted + 0.01 * rng.standard_normal(600)
    differences[rng.choice(600, 15, replace=False)] -= 0.5
    biases, errors = robust_ridge(fractions, differences)
    assert np.abs(biases - planted).max() < 0.02
    assert 0.001 < np.median(errors) < 0.01
    plain = np.linalg.lstsq(fractions, differences, rcond=None)[0]
    assert np.abs(plain - planted).max() > 0.02


def test_a_single_structure_is_drawn_towards_zero_by_the_penalty() -> None:
    biases, _ = robust_ridge(np.array([[1.0]]), np.array([0.011]))
    assert biases[0] == pytest.approx(0.011 / (1 + PENALTY))


def test_without_error_there_is_no_bias() -> None:
    found = fitted([{3: 0.5, 8: 0.5}, {3: 1.0}], [0.0, 0.0])
    assert found["elements"]["Li"]["bias"] == 0.0
    assert found["elements"]["O"]["structures"] == 1
    assert found["mean_absolute_error"] == 0.0


def test_rows_are_spread_over_the_elements_and_stay_when_there_are_more() -> None:
    rng = np.random.default_rng(1)
    elements = {row: [8, int(rng.integers(20, 30))] for row in range(500)}
    elements |= {500: [79], 501: [8, 79]}
    few, more = (spread_over_elements(elements, n, seed=0) for n in (24, 60))
    assert more[:24] == few
    assert len(set(more)) == 60
    assert sum(79 in elements[row] for row in few) == 2
    assert all(sum(z in elements[row] for row in few) >= 1 for z in range(20, 30))
    assert len(spread_over_elements(elements, 10_000, seed=0)) == len(elements)
    assert not set(spread_over_elements(elements, 50, 0, lambda row: row % 2 == 0)) & set(range(1, 502, 2))


def test_the_error_of_gold_is_measured_kept_and_flagged(metal_reference, in_process) -> None:
    reference = Reference.open(metal_reference)
    assert read_bias(reference, find_potential(EMT)) is None
    found = measure_bias(reference, EMT, rows=10)
    assert found["structures"] == 4
    # EMT lies below the labels by the planted error; the ridge keeps some of it.
    assert found["elements"]["Au"]["bias"] == pytest.approx(-GOLD_ERROR, abs=0.05)
    assert abs(found["elements"]["Cu"]["bias"]) < 0.05

    biases = read_bias(reference, find_potential(EMT))
    assert biases is not None
    biases["Au"] = ElementBias(-0.18, 0.01, 0.1, 3)
    samples = [Sample(name, *metals()[name]) for name in ("cu", "cuau")]
    samples.append(Sample("salt", np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 4.0 * np.eye(3), np.array([11, 17])))
    crystals = described(samples, Engine())
    flagged = flag_biased(crystals, biases)
    assert [c.biased_elements for c in crystals] == [(), ("Au",), ()]
    assert flagged["crystals"]["count"] == 1
    assert flagged["not_measured"] == ["Cl", "Na"]

    file = next((metal_reference / "potentials").glob("*.bias.json"))
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_bias(reference, find_potential(EMT))


def test_doubt_needs_a_large_and_a_sure_bias() -> None:
    assert ElementBias(-0.08, 0.01, 0.08, 12).doubtful
    assert not ElementBias(0.04, 0.001, 0.04, 90).doubtful
    assert not ElementBias(0.08, 0.06, 0.08, 1).doubtful


def test_a_reference_without_labels_for_its_structures_is_refused(reference_folder) -> None:
    reference = Reference.open(reference_folder)  # its entries are not called as its structures are
    with pytest.raises(InputError, match="no structures with labelled energies"):
        measure_bias(reference, EMT, rows=5)
    with pytest.raises(InputError, match="at least one"):
        measure_bias(reference, EMT, rows=0)


def test_the_command_prints_a_table_and_goes_on(metal_reference, in_process) -> None:
    from crystalsmith.cli.main import app

    command = ["reference", "bias", str(metal_reference), "--potential", EMT, "--jobs", "1"]
    first = CliRunner().invoke(app, [*command, "--rows", "2"])
    assert first.exit_code == 0, first.output
    assert "0 energies are known, 2 single points" in first.output
    second = CliRunner().invoke(app, command)
    assert "2 energies are known, 2 single points" in second.output
    gold = next(line for line in second.stdout.splitlines() if line.startswith("Au"))
    assert "doubtful" in gold
    wrong = CliRunner().invoke(app, ["reference", "bias", str(metal_reference), "--potential", "unheard"])
    assert wrong.exit_code == 2
    assert "no potential 'unheard'" in wrong.output
