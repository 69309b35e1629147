"""The hull agrees with pymatgen's phase diagram, is convex, and names what it cannot know."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from crystalsmith.elements import SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.hull import Hull


def random_entries(
    rng: np.random.Generator, elements: list[int], count: int
) -> tuple[list[dict[int, float]], list[float]]:
    """Elements at zero and compounds of whole-number composition scattered about it."""
    compositions: list[dict[int, float]] = [{z: 1.0} for z in elements]
    energies = [0.0] * len(elements)
    for _ in range(count):
        chosen = rng.choice(elements, rng.integers(1, len(elements) + 1), replace=False)
        compositions.append({int(z): float(rng.integers(1, 5)) for z in chosen})
        energies.append(float(rng.normal(-0.3, 0.4)) if len(chosen) > 1 else float(rng.uniform(0.0, 0.3)))
    return compositions, energies


def above_hull_by_pymatgen(compositions, energies, queries) -> list[float]:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    def entry(composition, energy):
        formula = Composition({SYMBOLS[z - 1]: n for z, n in composition.items()})
        return PDEntry(formula, energy * formula.num_atoms)

    diagram = PhaseDiagram([entry(c, e) for c, e in zip(compositions, energies, strict=True)])
    return [diagram.get_e_above_hull(entry(c, e), allow_negative=True, check_stable=False) for c, e in queries]


@pytest.mark.parametrize("num_elements", [1, 2, 3, 4, 5, 6])
def test_agrees_with_pymatgen(num_elements: int) -> None:
    rng = np.random.default_rng(num_elements)
    elements = [3, 8, 14, 26, 56, 17][:num_elements]
    compositions, energies = random_entries(rng, elements, 25 * num_elements)
    queries = list(zip(*random_entries(rng, elements, 60), strict=True))
    hull = Hull.from_entries(compositions, energies)
    ours = [hull.distance(c, e).energy_above_hull for c, e in queries]
    assert ours == pytest.approx(above_hull_by_pymatgen(compositions, energies, queries), abs=1e-8)


def test_entries_lie_on_or_above_their_hull_and_mixtures_reach_it() -> None:
    rng = np.random.default_rng(0)
    compositions, energies = random_entries(rng, [3, 8, 26, 15], 80)
    hull = Hull.from_entries(compositions, energies)
    for composition, energy in zip(compositions, energies, strict=True):
        found = hull.distance(composition, energy)
        assert found.energy_above_hull >= -1e-10
        assert sum(found.decomposition.values()) == pytest.approx(1.0)
        mixed = sum(share * energies[entry] for entry, share in found.decomposition.items())
        assert mixed == pytest.approx(found.hull_energy, abs=1e-10)


def test_only_the_composition_counts() -> None:
    hull = Hull.from_entries([{3: 1}, {8: 1}, {3: 2, 8: 1}], [0.0, 0.0, -2.0])
    assert hull.distance({3: 2, 8: 1}, -1.9).energy_above_hull == pytest.approx(0.1)
    assert hull.distance({3: 4, 8: 2}, -1.9) == hull.distance({3: 2, 8: 1}, -1.9)
    # Half way between Li and Li2O, by atoms.
    assert hull.distance({3: 5, 8: 1}, 0.0).hull_energy == pytest.approx(-1.0)


def test_missing_elements_are_named_and_numbers_of_entries_told() -> None:
    hull = Hull.from_entries([{3: 1}, {8: 1}, {3: 2, 8: 1}, {8: 1, 26: 1}], [0.0, 0.0, -2.0, -1.0])
    found = hull.distance({26: 1, 8: 1, 54: 1}, -1.0)
    assert found.missing == ("Fe", "Xe")
    assert np.isnan(found.energy_above_hull)
    known = hull.distance({3: 1, 8: 3}, 0.0)
    assert (known.entries, known.entries_with_all) == (3, 1)
    assert hull.elements == {3, 8}


def test_an_entry_without_energy_is_refused() -> None:
    with pytest.raises(InputError, match="no finite energy"):
        Hull.from_entries([{3: 1}], [float("nan")])


def test_agrees_with_the_labels_of_the_reference_data_and_is_quick(shared) -> None:
    import pyarrow.parquet as pq

    from crystalsmith.elements import NUMBERS

    table = pq.read_table(shared("data/hull_reference_mp2020_full.parquet")).to_pydict()
    compositions = [{NUMBERS[s]: x for s, x in json.loads(c).items()} for c in table["composition"]]
    # Formation energies count from the elements, so these lie at zero whatever entries of theirs the table holds.
    elements = sorted({z for c in compositions for z in c})
    hull = Hull.from_entries([*compositions, *({z: 1.0} for z in elements)], [*table["e_form"], *[0.0] * len(elements)])
    rows = np.random.default_rng(0).choice(len(compositions), 1000, replace=False)
    began = time.process_time()
    ours = [hull.distance(compositions[i], table["e_form"][i]).energy_above_hull for i in rows]
    assert time.process_time() - began < 5.0
    errors = np.abs(np.array(ours) - np.array(table["e_hull"])[rows])
    # Its column rests on terminals of its own: seven in eight agree to rounding, the others to a few meV/atom.
    assert np.mean(errors < 2e-4) > 0.84
    assert errors.max() < 6e-3
