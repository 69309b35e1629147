"""Laws of the peers' table: equal samples, the same crystals for each ruler, rates as counted by hand."""

from __future__ import annotations

import csv
import gzip
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import metals

from crystalsmith.formats import extxyz_frame

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EMT, OTHER = "ase.calculators.emt:EMT", "tests.evaluation.test_peers:alloys_too_high"


def alloys_too_high():
    """EMT with 1 eV more for each atom of an alloy."""
    from ase.calculators.emt import EMT as Calculator

    class Shifted(Calculator):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if len(set(self.atoms.numbers)) > 1:
                self.results["energy"] += len(self.atoms)

    return Shifted()


@pytest.fixture
def peers(monkeypatch):
    """The script, with all its relaxations in this process: to start another takes seconds."""
    from crystalsmith.engine.run import Engine, run
    from crystalsmith.evaluation.potential import relaxation

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(
        relaxation,
        "run",
        lambda begin, tasks, engine, arguments, time_limit: run(begin, tasks, Engine(1), arguments=arguments),
    )
    script = import_module("peers")
    script.relaxable.cache_clear()
    return script


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("peers_table")


def write(path: Path, names: list[str], times: int = 1) -> Path:
    """Slightly rattled metals; ``times`` doubles the cell along the last axis."""
    rng, known = np.random.default_rng(0), metals()
    frames = []
    for k, name in enumerate(names):
        frac, cell, numbers = known[name]
        big = np.concatenate([(frac + [0, 0, image]) / [1, 1, times] for image in range(times)])
        cell = cell * np.array([1, 1, times])[:, None]
        moved = big + 1e-4 * rng.standard_normal(big.shape)
        frames.append(extxyz_frame(moved, cell, np.tile(numbers, times), {"id": f"{path.stem}{k}"}))
    path.write_text("".join(frames))
    return path


def ids(path: Path) -> list[str]:
    from crystalsmith.evaluation.structures import read_samples

    return [sample.id for sample in read_samples(path)]


def test_a_sample_depends_on_seed_and_file_alone(peers, tmp_path) -> None:
    plain = write(tmp_path / "a.extxyz", ["cu", "au", "cuau", "cu3au"] * 3)
    packed = tmp_path / "b.extxyz.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for state, path, seed in (("s1", plain, 0), ("s2", packed, 0), ("s3", plain, 1)):
        facts = peers.draw("one", path, tmp_path / state, seed, 20)
        assert (facts["available"], facts["drawn"], facts["left_out"]) == (12, 12, 0)
    drawn = [ids(tmp_path / s / "samples" / "one" / "crystals.extxyz") for s in ("s1", "s2", "s3")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == sorted(ids(plain)) != drawn[0]


def test_samples_are_primitive_and_not_large(peers, tmp_path) -> None:
    from crystalsmith.evaluation.structures import read_samples

    path = write(tmp_path / "a.extxyz", ["cu", "cuau", "cu3au"], times=2)
    facts = peers.draw("one", path, tmp_path / "state", 0, 2)
    assert (facts["available"], facts["drawn"], facts["left_out"]) == (3, 2, 1)
    kept = read_samples(tmp_path / "state" / "samples" / "one" / "crystals.extxyz")
    assert sorted(sorted(s.numbers.tolist()) for s in kept) == [[29], [29, 79]]
    assert {round(float(abs(np.linalg.det(s.cell))), 3) for s in kept} == {
        round(float(abs(np.linalg.det(metals()[name][1]))), 3) for name in ("cu", "cuau")
    }


def test_a_sample_of_another_file_is_not_taken_for_this_one(peers, tmp_path) -> None:
    one, other = write(tmp_path / "a.extxyz", ["cu"]), write(tmp_path / "b.extxyz", ["au"])
    peers.draw("one", one, tmp_path / "state", 0, 20)
    with pytest.raises(peers.InputError, match="choose another name or state folder"):
        peers.draw("one", other, tmp_path / "state", 0, 20)


def test_rounds_are_balanced_and_go_on(peers, tmp_path, metal_reference, monkeypatch) -> None:
    """Stopped in the second round, the tables are of the first; started again nothing is relaxed twice."""
    few = write(tmp_path / "few.extxyz", ["cuau", "cu", "au"])
    many = write(tmp_path / "many.extxyz", ["cu3au", "cuau", "cu", "au", "cu3au", "cuau"])
    state = tmp_path / "state"
    done: list[tuple[str, str]] = []
    real = peers.relaxations

    def counted(tasks, settings, engine):
        for result in real(tasks, settings, engine):
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append((settings.potential, result.id))
            yield result

    monkeypatch.setattr(peers, "relaxations", counted)
    command = [str(metal_reference), str(state), f"few={few}", f"many={many}", "--num", "6", "--round", "2"]
    command += ["--potential", EMT, "--potential", OTHER, "--energy-scale", "pbe"]
    stop = 11
    with pytest.raises(KeyboardInterrupt):
        peers.main(command)
    # Both rulers have judged the first two of each system; then the third and fourth, as far as there are any.
    first = ids(state / "samples" / "few" / "crystals.extxyz"), ids(state / "samples" / "many" / "crystals.extxyz")
    turn = [f"few/{first[0][0]}", f"many/{first[1][0]}", f"few/{first[0][1]}", f"many/{first[1][1]}"]
    third = [f"few/{first[0][2]}", f"many/{first[1][2]}", f"many/{first[1][3]}"]
    assert done == [(p, name) for p in (EMT, OTHER) for name in turn] + [(EMT, name) for name in third]
    for name in ("table-ase.calculators.emt-EMT", "table-tests.evaluation.test_peers-alloys_too_high"):
        rows = json.loads((state / f"{name}.json").read_text())["rows"]
        assert {row["system"]: row["metrics"]["requested"] for row in rows} == (
            {"few": 3, "many": 4} if name.endswith("EMT") else {"few": 2, "many": 2}
        )
    assert {s["msun"]["of"] for s in json.loads((state / "consensus.json").read_text())["systems"].values()} == {2}
    stop = 1000
    peers.main(command)
    assert len(done) == len(set(done)) == 2 * (3 + 6)
    rows = json.loads((state / "table-ase.calculators.emt-EMT.json").read_text())["rows"]
    assert {row["system"]: (row["num"], row["metrics"]["requested"]) for row in rows} == {"few": (3, 3), "many": (6, 6)}


def test_what_two_rulers_say_is_what_both_say(peers, tmp_path, metal_reference, capsys) -> None:
    """The second ruler calls every alloy unstable, the first none: both call the pure metals stable."""
    path = write(tmp_path / "mine.extxyz", ["cuau", "cu", "cu3au", "au"])
    state = tmp_path / "state"
    command = [str(metal_reference), str(state), f"mine={path}", "--num", "4", "--potential", EMT]
    peers.main([*command, "--potential", OTHER, "--energy-scale", "pbe"])
    found = json.loads((state / "consensus.json").read_text())["systems"]["mine"]
    counts = []
    for folder in ("ase.calculators.emt-EMT", "tests.evaluation.test_peers-alloys_too_high"):
        with (state / folder / "mine" / "crystals.csv").open() as file:
            counts.append({row["id"] for row in csv.DictReader(file) if row["stable_0.1"] == "True"})
    assert counts[1] < counts[0]
    assert found["metastable"]["count"] == len(counts[0] & counts[1]) == 2
    assert found["metastable"]["of"] == 4
    assert "By two potentials" in capsys.readouterr().out


def rated(count: int, of: int) -> dict:
    from crystalsmith.evaluation.statistics import rate

    return rate([True] * count + [False] * (of - count))


def test_systems_are_ordered_alike_or_not(table) -> None:
    said = table.disagreements(
        {
            "a": {"x": rated(60, 100), "y": rated(20, 100)},
            "b": {"x": rated(30, 100), "y": rated(40, 100)},
            "c": {"x": rated(10, 100), "y": rated(10, 100)},
        }
    )
    assert said == [
        "The potentials order 2 of 3 pairs of systems alike by MSUN (0.1).",
        "- By x a stands above b (60 and 30 %), by y a stands below b (20 and 40 %): beyond chance by x and y.",
    ]
    close = table.disagreements(
        {"a": {"x": rated(6, 10), "y": rated(5, 10)}, "b": {"x": rated(5, 10), "y": rated(6, 10)}}
    )
    assert close[1].endswith("neither beyond chance.")
    assert table.disagreements({"a": {"x": rated(6, 10)}, "b": {"x": rated(5, 10)}}) == []


def test_differences_beyond_chance_are_newcombes(table) -> None:
    """His example: 56 of 70 and 48 of 80 differ by 0.0524 to 0.3339 (Statistics in Medicine 17, 873, table II)."""
    assert table.difference(rated(56, 70), rated(48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert table.beyond_chance(rated(56, 70), rated(48, 80))
    assert table.beyond_chance(rated(48, 80), rated(56, 70))
    assert not table.beyond_chance(rated(9, 10), rated(6, 10))
    assert not table.beyond_chance(rated(0, 10), rated(0, 10))


def test_cells_show_rates_and_intervals(table) -> None:
    assert table.percent(rated(61, 100)) == "61 (51-70)"
    assert table.percent(None) == table.percent(rated(0, 0)) == ""
    median = {"of": 3, "median": 0.1, "median_low": 0.05, "median_high": 0.2}
    assert table.spread(median) == "0.100 (0.050-0.200)"
    assert table.spread({"of": 0}) == ""


def test_rows_are_sorted_and_tell_what_was_left_out(table, tmp_path) -> None:
    def row(name: str, hits: int) -> dict:
        metrics = {"valid": rated(10, 10), "sun": {"0.1": rated(hits, 10)}}
        return {"system": name, "num": 10, "available": 12, "left_out": 2, "metrics": metrics, "folder": "-"}

    text = table.write_table(tmp_path, "mine:make", [row("low", 1), row("high", 5)])
    assert (tmp_path / "table-mine-make.md").read_text() == text
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    cells = [dict(zip(head, line, strict=True)) for line in lines]
    assert [c["system"] for c in cells] == ["high", "low"]
    assert cells[0]["MSUN (0.1)"] == "50 (24-76)"
    assert cells[0]["left out (size)"] == "2 of 12"
    assert cells[0]["hold Yb"] == ""


def test_consensus_counts_what_two_have_judged(table, tmp_path) -> None:
    """Of three rulers two must say so; a crystal that one has not judged is not counted; Yb stands apart."""
    verdicts = {"a": "TTF", "b": "TFF", "c": "TTT", "d": "TTT"}
    formulas = {"a": "NaCl", "b": "YBr3", "c": "YbO", "d": "MgO"}
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        lines = ["id,formula,stable_0.1,msun"]
        lines += [f"{n},{formulas[n]},{v[k] == 'T'},{v[k] == 'T'}" for n, v in verdicts.items() if n != "d" or k < 2]
        (tmp_path / str(k) / "crystals.csv").write_text("\n".join(lines) + "\\n")
    found = table.consensus([tmp_path / str(k) for k in range(3)])
    assert {name: (r["count"], r["of"]) for name, r in found.items()} == {
        "metastable": (2, 3),
        "msun": (2, 3),
        "msun_without_yb": (1, 2),
    }


def test_systems_judged_elsewhere_take_part(peers, tmp_path, metal_reference) -> None:
    from crystalsmith.evaluation.potential.relaxed import Relaxation
    from crystalsmith.evaluation.run import Options, evaluate

    path = write(tmp_path / "mine.extxyz", ["cuau", "cu"])
    done = tmp_path / "done"
    evaluate(path, done, Options(reference=metal_reference, relaxation=Relaxation(EMT, "pbe")))
    peers.main(
        [str(metal_reference), str(tmp_path / "s"), f"new={path}", "--judged", f"old={done}", "--potential", EMT]
    )
    rows = json.loads((tmp_path / "s" / "table-ase.calculators.emt-EMT.json").read_text())["rows"]
    assert {row["system"]: row["metrics"]["stable"] for row in rows}.keys() == {"old", "new"}
    assert rows[0]["metrics"]["stable"] == rows[1]["metrics"]["stable"]
    with pytest.raises(SystemExit, match="was judged by"):
        peers.main([str(tmp_path / "another"), str(tmp_path / "s"), "--judged", f"old={done}", "--potential", EMT])
