"""The names of the field, what crystals cost, and what is new in itself."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import CORNERS, CRYSTALS, FCC, write_cifs, write_hull

from crystalsmith.errors import InputError
from crystalsmith.evaluation.conventions import PRESETS, conventions, preset
from crystalsmith.evaluation.efficiency import efficiency
from crystalsmith.evaluation.framework import framework
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.plausible import Plausibility
from crystalsmith.evaluation.reference.build import build_reference
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import Sample

FINE = Plausibility((), 3, 1, True)
ODD = Plausibility(("charge",), 3, 1, False)


def judged(name: str, above: float | None, **facts) -> Judged:
    sample = Sample(name, CORNERS, 5.64 * FCC, np.array([11, 17]))
    new = {"unique": True, "novel": True, "unique_disordered": True, "novel_disordered": True, "plausibility": FINE}
    return Judged(sample, energy_above_hull=above, **(new | facts))


def test_names_differ_where_their_rules_do() -> None:
    crystals = [
        judged("at the hull", 0.0),
        judged("at 0.1", 0.1),
        judged("below 0.1", 0.09, novel_disordered=False),
        judged("odd", -0.1, plausibility=ODD),
        judged("a molecule", -0.1, condensed=False),
        judged("known", 0.0, novel=False, novel_disordered=False),
        judged("twice", 0.0, unique=False, unique_disordered=False),
        judged("unknown", None),
    ]
    found = conventions(crystals)
    counts = {name: found[name]["count"] for name in ("SUN", "MSUN", "MatterGen")}
    assert counts == {"SUN": 2, "MSUN": 4, "MatterGen": 2}
    lemat = {name: value["count"] for name, value in found["lemat"].items() if "count" in value}
    assert lemat == {"valid": 7, "unique": 6, "novel": 6, "stable": 4, "metastable": 6, "SUN": 1, "MSUN": 3}
    assert found["SUN"]["of"] == 8


def test_crystals_of_ytterbium_stand_apart(tmp_path) -> None:
    """Three of five hold it, whose rates are those of the other two; with another scheme there is nothing to tell."""
    from crystalsmith.evaluation.metrics import summarise
    from crystalsmith.evaluation.report.headline import headline

    def of(name: str, above: float | None, *numbers: int) -> Judged:
        made = judged(name, above)
        made.sample = replace(made.sample, numbers=np.array(numbers))
        return made

    crystals = [of("a", 0.0, 70, 8), of("b", 0.3, 70, 8), of("c", 0.05, 70, 17)]
    crystals += [of("d", 0.05, 11, 17), of("e", 0.4, 12, 8)]
    hull = write_hull(tmp_path / "hull.csv")
    found = {}
    for scheme in ("mp2020", "none"):
        place = tmp_path / scheme
        build_reference([write_cifs(tmp_path / "cifs", ["nacl"])], place, hull=hull, corrections=scheme)
        found[scheme] = summarise(crystals, Reference.open(place), relaxed=False)
    apart = found["mp2020"]["ytterbium"]
    assert (apart["crystals"]["count"], apart["crystals"]["of"]) == (3, 5)
    assert {t: (v["count"], v["of"]) for t, v in apart["stable"].items()} == {
        "0": (0, 2),
        "0.05": (1, 2),
        "0.1": (1, 2),
    }
    assert apart["sun"]["0.1"]["count"] == 1
    assert found["mp2020"]["sun"]["0.1"]["count"] == 3
    assert "ytterbium" not in found["none"]
    labels = [line.label for line in headline(found["mp2020"])]
    assert "S.U.N., within 0.1 eV/atom, without ytterbium" in labels


def test_presets_are_named() -> None:
    assert preset("lemat") == PRESETS["lemat"]
    with pytest.raises(InputError, match="no preset 'mace'"):
        preset("mace")


def test_a_relaxation_that_may_stop_early_is_taken_as_it_stands() -> None:
    from crystalsmith.evaluation.potential.relaxed import Relaxation, ending

    late = (-1.0, 0.3, 1.0, 1.0, 50)
    assert ending(*late, Relaxation(steps=50))[:2] == (True, "not_converged")
    assert ending(*late, Relaxation(steps=50, unconverged=True))[:2] == (True, "")
    assert ending(float("nan"), 0.3, 1.0, 1.0, 50, Relaxation(steps=50, unconverged=True))[1] == "exploded"


@pytest.mark.parametrize(("energy", "force"), [(-1.5e15, 3.0), (-10.0, 7.8e15)])
def test_energies_and_forces_out_of_any_sense_are_an_explosion_whose_result_is_read_again(
    energy: float, force: float, tmp_path: Path
) -> None:
    from crystalsmith.evaluation.potential.relaxation import recover
    from crystalsmith.evaluation.potential.relaxed import Relaxation, Relaxed, ending
    from crystalsmith.files import append_line

    assert ending(energy, force, 1.0, 1.0, 3, Relaxation(unconverged=True))[:2] == (True, "exploded")
    file, settings = tmp_path / "relaxed.jsonl", Relaxation()
    assert recover(file, settings, resume=True) == []
    vectors = [[force, 0.0, 0.0]]
    found = Relaxed("a", "key", "not_converged", energy=energy, energy_given=energy, forces=vectors)
    append_line(file, asdict(found))
    assert [(one.id, one.energy, one.forces) for one in recover(file, settings, resume=True)] == [
        ("a", energy, vectors)
    ]


def test_costs_add_up() -> None:
    crystals = [judged("a", 0.0, steps=9, seconds=3.0), judged("b", 0.5, steps=19, seconds=5.0)]
    session = {"seconds": 20.0, "processor_seconds": 36.0, "machine": "x", "peak_memory_mib": 500}
    manifest = {
        "counts": {"finished": 4},
        "batches": [[0, 2, 8.0], [2, 4, 10.0]],
        "sessions": [session],
        "network_evaluations": 400,
        "model": {"parameters": 1000},
    }
    found = efficiency(crystals, manifest, 11.0, True)
    assert found["judging"]["energy_calls"] == 30
    assert found["judging"]["per_crystal"] == {"relaxation_seconds": 4.0, "energy_calls": 15.0}
    assert found["generation"]["per_crystal"]["sampling_seconds"] == 4.5
    hit = found["per_msun"]
    assert (hit["crystals"], hit["judging_energy_calls"], hit["network_evaluations"]) == (1, 30, 800)
    # Two of the four crystals that took 36 processor seconds were judged, and one is S.U.N.
    assert hit["msun_per_processor_hour"] == pytest.approx(200)
    assert efficiency(crystals, None, 11.0, True)["generation"] is None
    assert efficiency(crystals, {"sessions": "?"}, 11.0, True)["generation"] is None
    none = efficiency([judged("b", 0.5, steps=1, seconds=1.0)], manifest, 1.0, True)["per_msun"]
    assert (none["crystals"], none["judging_energy_calls"], none["msun_per_processor_hour"]) == (0, None, 0.0)


def test_frameworks_do_not_see_elements_cells_or_origins() -> None:
    salt = framework(CORNERS, 5.64 * FCC, np.array([11, 17]))
    assert salt == (225, "225|4m-3m|4m-3m")
    assert framework(CORNERS + 0.3, 4.2 * FCC, np.array([8, 12])) == salt
    double = np.concatenate([CORNERS * [0.5, 1, 1], CORNERS * [0.5, 1, 1] + [0.5, 0, 0]])
    assert framework(double, 5.64 * FCC * [[2], [1], [1]], np.array([11, 17, 11, 17])) == salt
    assert framework(CORNERS, 4.12 * np.eye(3), np.array([55, 17]))[1] == "221|1m-3m|1m-3m"
    rng = np.random.default_rng(0)
    assert framework(rng.random((3, 3)), 5 * np.eye(3) + rng.random((3, 3)), np.array([3, 8, 26])) == (1, "")


def test_what_is_new_in_itself(tmp_path, reference_folder) -> None:
    """CsCl has an energy but no structure in the reference, which does not know its framework; rock salt's it knows."""
    from crystalsmith.evaluation.run import Options, evaluate
    from crystalsmith.formats import cif_text

    reference = Reference.open(reference_folder)
    assert reference.frameworks == {"225|4m-3m|4m-3m"}
    assert reference.knows_composition(np.array([55, 17, 55, 17]))
    assert reference.knows_composition(np.array([11, 17]))
    assert not reference.knows_composition(np.array([11, 17, 17]))
    cifs = write_cifs(tmp_path / "cifs", ["cscl", "mgo"])
    frac, cell, _ = CRYSTALS["mgo"]
    (cifs / "2-mgcl.cif").write_text(cif_text("mgcl", frac, 1.3 * cell, np.array([12, 17])))
    found = evaluate(cifs, tmp_path / "out", Options(reference=reference_folder))["metrics"]
    assert found["novel"]["count"] == 2
    assert found["novel_composition"]["count"] == 1
    assert found["novel_framework"]["count"] == 1
