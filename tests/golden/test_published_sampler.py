"""The published sampler beside ours where the answer is known: Gaussian cells with an exact score."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "published_cell_noise.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("published_cell_noise", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_find_the_mean_and_about_the_spread(benchmark):
    for solver in ("predictor_corrector", "published"):
        found = benchmark.moments(benchmark.sample_cells(solver, crystals=400, steps=100))
        assert abs(found["mean"]) < 0.15, solver
        for name in ("variance_diagonal", "variance_off_diagonal"):
            assert 0.7 < found[name] < 1.6, (solver, name)


def test_only_the_published_cell_noise_correlates_the_elements(benchmark):
    ours = benchmark.moments(benchmark.sample_cells("predictor_corrector", crystals=400, steps=100))
    theirs = benchmark.moments(benchmark.sample_cells("published", crystals=400, steps=100))
    names = ("correlation_diagonal", "correlation_off_diagonal", "correlation_mixed")
    assert max(abs(ours[name]) for name in names) < 0.12  # 400 samples: 0.05 / sqrt(3) and more
    assert theirs["correlation_off_diagonal"] > 0.15
    assert theirs["correlation_mixed"] > 0.1


def test_without_a_corrector_the_scalar_noise_is_all_there_is(benchmark):
    """Perfectly correlated elements, twice the variance off the diagonal."""
    found = benchmark.moments(benchmark.sample_cells("ancestral", crystals=200, steps=100, scalar_noise=True))
    assert found["correlation_mixed"] > 0.99
    ratio = found["variance_off_diagonal"] / found["variance_diagonal"]
    assert ratio == pytest.approx(2.0, rel=0.1)
