"""One composition, every structure that the proposals lead to, ranked; known ones are named, not dropped."""

from __future__ import annotations

from pathlib import Path

from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.prediction import predict_structure, ranking


def test_structures_of_a_composition_are_ranked_by_energy(
    tmp_path: Path, alloys: Path, untrained: Path, potential: str
) -> None:
    asked = {"samples": 6, "model": str(untrained), "potential": potential, "reference": alloys}
    summary = predict_structure("CuAu", tmp_path / "run", **asked)
    state = Folder.open(tmp_path / "run").state()
    assert (summary.status, summary.proposed) == ("complete", 6)
    relaxed = [c for c in state.candidates.values() if c.relaxed is not None]
    assert relaxed
    for candidate in relaxed:
        numbers = candidate.relaxed[2].tolist()
        assert set(numbers) == {29, 79}
        assert numbers.count(29) == numbers.count(79)
        assert candidate.dropped in ("", "duplicate", "exploded")
    rows = ranking(tmp_path / "run")
    energies = [row["energy_per_atom"] for row in rows]
    assert energies == sorted(energies)
    assert rows[0]["above_best"] == 0.0
    again = predict_structure("CuAu", tmp_path / "run", resume=True)
    assert (again.proposed, again.accepted) == (summary.proposed, summary.accepted)
