"""What a hull lacks is counted, named and called a lower bound."""

from __future__ import annotations

import numpy as np
from tests.evaluation.conftest import CORNERS, write_cifs

from crystalsmith.engine.run import Engine
from crystalsmith.evaluation.judge import described
from crystalsmith.evaluation.reference.completeness import completeness, survey
from crystalsmith.evaluation.reference.hull import Hull
from crystalsmith.evaluation.run import Options, evaluate
from crystalsmith.evaluation.structures import Sample

NAMES = ["li", "o2", "element Fe", "li2o", "li2o2", "lifeo2", "lifeo2-layered"]
HULL = Hull.from_entries(
    [{3: 1}, {8: 1}, {26: 1}, {3: 2, 8: 1}, {3: 1, 8: 1}, {3: 1, 26: 1, 8: 2}, {3: 1, 26: 1, 8: 2}],
    [0.0, 0.0, 0.0, -2.0, -1.6, -1.9, -1.95],
)


def test_entries_and_gaps_of_a_system() -> None:
    found = completeness((3, 8, 26), HULL, NAMES.__getitem__, [(3, 8), (3, 8, 26), (3, 9)])
    assert found.entries == (2, 2, 2)  # iron was only added at zero
    assert found.without_phase == ("Fe",)
    assert found.without_terminal == ()
    assert found.gaps == ["Li-Fe", "O-Fe"]
    assert found.left_out == 2
    record = found.record(5)
    assert (record["binaries"], record["ternaries"], record["crystals"]) == ([1, 3], [1, 1], 5)


def test_a_missing_element_is_the_first_gap() -> None:
    found = completeness((3, 8, 9), HULL, NAMES.__getitem__)
    assert found.without_terminal == ("F",)
    assert found.gaps == ["F", "Li-F", "O-F", "Li-O-F"]


def test_a_system_of_many_elements_is_not_told_at_length() -> None:
    found = completeness(tuple(range(1, 60)), HULL, NAMES.__getitem__)
    assert len(found.gaps) == 56 + 40 + 1
    assert found.gaps[-1] == f"... and {59 * 58 // 2 + 59 * 58 * 57 // 6 - 2 - 40} more"


def test_a_survey_counts_each_system_and_sub_system_once() -> None:
    cell = 4.0 * np.eye(3)
    samples = [Sample(str(k), CORNERS, cell, np.array(numbers)) for k, numbers in enumerate([[3, 8], [3, 8], [8, 26]])]
    crystals = described(samples, Engine())
    found = survey(crystals, HULL, NAMES.__getitem__)
    assert found["chemical_systems"] == 2
    assert found["binaries"] == {"count": 1, "of": 2}
    assert found["ternaries"] == {"count": 0, "of": 0}
    assert found["crystals_with_gaps"] == 1
    assert [c.hull_gaps for c in crystals] == ["", "", "O-Fe"]
    assert [c.hull_entries_by_size for c in crystals] == ["2+2", "2+2", "1+0"]
    assert [s["crystals"] for s in found["systems"]] == [2, 1]


def test_the_report_tells_it_and_says_lower_bound(tmp_path, reference_folder) -> None:
    cifs = write_cifs(tmp_path / "cifs", ["nacl", "cscl"])
    found = evaluate(cifs, tmp_path / "out", Options(reference=reference_folder))["metrics"]["hull"]
    assert found["kind"] == "labels"
    assert "lower bound" in found["note"]
    assert found["elements_without_structure"] == ["Cl", "Cs", "Na"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "lower bound" in page
    assert '"Na-Cl",1' in page
    header = (tmp_path / "out" / "crystals.csv").read_text().splitlines()[0].split(",")
    assert {"hull_entries_by_size", "hull_gaps", "biased_elements"} <= set(header)
