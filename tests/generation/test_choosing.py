"""Laws of choosing among proposals, and of elements drawn anew on known geometries."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalsmith.cells import symmetric_polar
from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.predictor import Predictor, PredictorFacts, save_predictor
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.formats import extxyz_frame
from crystalsmith.generation import choosing, selectors
from crystalsmith.generation.choosing import OWN, Choosing, chosen, make_choosing
from crystalsmith.generation.loaded import load
from crystalsmith.generation.making import make_request
from crystalsmith.generation.misfit import misfits
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.steering import Steering
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.network.predictor import PropertyNetwork
from crystalsmith.symmetry.groups import space_group

SMALL = GemNetConfig(width=16, num_blocks=1, cutoff=4.0, max_neighbors=8, num_radial=8, width_triplet=8)


class Known:
    """A reference that knows the even elements."""

    def knows_composition(self, numbers: np.ndarray) -> bool:
        return int(numbers[0]) % 2 == 0


def hydrogens(value: int) -> CrystalBatch:
    return CrystalBatch.from_arrays([(np.zeros((1, 3)), 3 * np.eye(3), np.array([value]))])


def make(plans: list[Plan]) -> CrystalBatch:
    """The element is 10 + index + 3 attempt."""
    cells = [(np.zeros((1, 3)), 3 * np.eye(3), np.array([10 + p.index + 3 * p.attempt])) for p in plans]
    return CrystalBatch.from_arrays(cells)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Least:
        name = "number"

        def __call__(self, crystals: list) -> list[float]:
            return [float(z[0]) for _, _, z in crystals]

    monkeypatch.setattr(choosing, "_reference", lambda folder: Known())
    monkeypatch.setattr(choosing, "find_selector", lambda name, reference: Least())


def distance_from_14(plans: list[Plan], crystals: CrystalBatch) -> list[float]:
    return [abs(z - 14.0) for z in crystals.atomic_numbers.tolist()]


def again(index: int, attempt: int) -> Plan:
    return Plan(0, index, attempt)


def run(wanted: Choosing, num: int = 4) -> tuple[list[Plan], list[int]]:
    found = chosen([Plan(0, i) for i in range(num)], again, make, distance_from_14, wanted)
    assert found is not None
    return found[0], found[1].atomic_numbers.tolist()


def test_known_compositions_are_turned_down_until_one_is_new(stand_ins: None) -> None:
    plans, numbers = run(Choosing(novel_to="ref"))
    assert numbers == [13, 11, 15, 13]  # 10 and 12 are known, and the next of their own streams are not
    assert [p.attempt for p in plans] == [1, 0, 1, 0]
    assert [dict(p.labels)["proposals"] for p in plans] == [2, 1, 2, 1]
    assert not any(dict(p.labels)["composition_known"] for p in plans)


def test_of_several_proposals_the_lowest_prediction_stays_and_new_comes_before_low(stand_ins: None) -> None:
    plans, numbers = run(Choosing(select=3, selector="x"))
    assert numbers == [10, 11, 12, 13]
    plans, numbers = run(Choosing(novel_to="ref", select=3, selector="x"))
    assert numbers == [13, 11, 15, 13]
    assert [dict(p.labels)["predicted_number"] for p in plans] == [13.0, 11.0, 15.0, 13.0]
    assert all(dict(p.labels)["proposals"] == 3 for p in plans)


def test_the_model_itself_chooses_what_it_would_change_least(stand_ins: None) -> None:
    plans, numbers = run(Choosing(select=3, selector=OWN))
    assert numbers == [13, 14, 15, 13]
    assert [dict(p.labels)["predicted_misfit"] for p in plans] == [1.0, 0.0, 1.0, 1.0]


def test_what_is_chosen_does_not_depend_on_the_batch(stand_ins: None) -> None:
    wanted = Choosing(novel_to="ref", select=2, selector="x")
    together = run(wanted, 4)[1]
    for i in range(4):
        alone = chosen([Plan(0, i)], again, make, distance_from_14, wanted)
        assert alone is not None
        assert alone[1].atomic_numbers.tolist() == together[i : i + 1]


def test_a_crystal_that_is_never_new_is_kept_and_said_to_be_known(stand_ins: None) -> None:
    same = chosen([Plan(0, 0)], again, lambda p: hydrogens(2), distance_from_14, Choosing(novel_to="ref"))
    assert same is not None
    labels = dict(same[0][0].labels)
    assert labels == {"proposals": choosing.ATTEMPTS, "composition_known": True}


def test_memory_that_runs_out_is_told(stand_ins: None) -> None:
    assert chosen([Plan(0, 0)], again, lambda p: None, distance_from_14, Choosing(novel_to="ref")) is None


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    assert make_choosing(None, None, None) is None
    assert make_choosing(None, 1, None) is None
    for options, word in (((None, 0, None), "--select"), ((None, None, "x"), "--selector"), ((None, 100, None), "64")):
        with pytest.raises(InputError, match=word):
            make_choosing(*options)
    with pytest.raises(InputError):
        make_choosing(tmp_path, None, None)
    with pytest.raises(InputError, match="no predictor"):
        make_choosing(None, 4, str(tmp_path))


def test_choosing_goes_to_json_and_back() -> None:
    wanted = Choosing("ref", 4, "p")
    assert Choosing.from_dict(json.loads(json.dumps(wanted.to_dict()))) == wanted


ROCK_SALT = {"compositions": ["NaCl"], "space_group": "Fm-3m"}


def test_a_known_crystal_fits_its_model_better_than_one_of_a_wrong_cell() -> None:
    model = load_model("mp20-csp")
    request = make_request(model, num=1, steering=Steering(**ROCK_SALT))
    plan = request.plan(0)
    primitive = np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    batches = [
        [(np.array([[0.0] * 3, [0.5] * 3]), edge / 2 * primitive, plan.arrangement.numbers())]
        for edge in (4.9, 5.65, 6.5)
    ]
    cpu = torch.device("cpu")

    def misfit(crystals: list, plans: list[Plan]) -> list[float]:
        upright = CrystalBatch.from_arrays(crystals)
        upright = upright.replace(cell=symmetric_polar(upright.cell))
        return misfits(model, request.sampling, plans, upright, cpu, model.denoiser)

    small, true, large = (misfit(one, [plan])[0] for one in batches)
    assert true < 0.5 * min(small, large)
    # It depends on the crystal and its plan alone, and the noise is the same for all proposals.
    further = dataclasses.replace(plan, attempt=3)
    together = misfit([one[0] for one in batches], [plan, further, plan])
    assert np.allclose(together, [small, true, large], rtol=1e-4)


def test_proposals_that_the_model_chooses_among_are_of_one_plan(untrained: Path) -> None:
    model = load_model(untrained)
    request = make_request(model, num=3, steering=Steering(select=3, selector=OWN))
    first, third = request.plan(1), request.plan(1, 2)
    assert dataclasses.replace(third, attempt=0) == first
    own = load(untrained).generate(4, seed=3, select=3, selector=OWN, batch_size=3)
    assert [row["proposals"] for row in own.table] == [3] * 4
    assert all(float(row["predicted_misfit"]) > 0 for row in own.table)
    alone = load(untrained).generate(4, seed=3, select=3, selector=OWN, batch_size=1)
    assert np.allclose(own.batch.cell, alone.batch.cell, atol=1e-3)


def test_a_model_may_choose_among_proposals_by_default(untrained: Path, tmp_path: Path) -> None:
    shutil.copytree(untrained, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["metadata"]["sampling"] |= {"select": 2, "selector": OWN}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path / "m")
    assert make_request(model).choosing == Choosing(select=2, selector=OWN)
    assert make_request(model, steering=Steering(select=1)).choosing is None
    by_name = make_request(model, steering=Steering(select=4)).choosing
    assert by_name == Choosing(select=4, selector=choosing.DEFAULT_SELECTOR)


def test_selection_from_the_model_itself(untrained: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    facts = PredictorFacts("energy_above_hull", elements=tuple(range(1, 101)))
    save_predictor(Predictor(PropertyNetwork(SMALL), facts), tmp_path / "p")
    model = load(untrained)
    one = model.generate(6, seed=3, space_group="free")
    best = model.generate(6, seed=3, space_group="free", select=3, selector=tmp_path / "p", batch_size=4)
    predictor = choosing.find_selector(str(tmp_path / "p"), "")
    first, kept = (np.array(predictor(x.batch.crystals())) for x in (one, best))
    assert (kept <= first + 1e-6).all()
    assert (kept < first - 1e-6).any()
    told = np.array([row["predicted_energy_above_hull"] for row in best.table], dtype=float)
    assert np.allclose(told, kept, atol=1e-4)


PEROVSKITE = (
    np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    3.9 * np.eye(3),
    np.array([56, 22, 8, 8, 8]),
)


@pytest.fixture
def perovskite(tmp_path: Path) -> Path:
    path = tmp_path / "known.extxyz"
    path.write_text(extxyz_frame(*PEROVSKITE, {}))
    return path


def test_elements_are_drawn_anew_and_the_space_group_stays(untrained: Path, perovskite: Path) -> None:
    found = load(untrained).generate(8, start_from=perovskite, redecorate=True, strength=0.2, seed=1)
    assert len({row["formula"] for row in found.table}) > 4
    for frac, cell, numbers in found.batch.crystals():
        assert len(numbers) == 5
        assert space_group(frac, cell, numbers, 0.01) == 221
        counts = sorted(np.unique(numbers, return_counts=True)[1].tolist())
        assert max(counts) >= 3  # the three atoms of one orbit share their element


def test_rules_hold_for_elements_drawn_anew(untrained: Path, perovskite: Path) -> None:
    found = load(untrained).generate(4, start_from=perovskite, redecorate=True, allow="Sr,Zr,S", require="S", seed=2)
    assert all({38, 40, 16} >= set(z.tolist()) and 16 in z for _, _, z in found.batch.crystals())


def test_what_contradicts_redecoration_is_refused(untrained: Path, perovskite: Path) -> None:
    model = load(untrained)
    for more in ({"fix_cell": True}, {"fix_sites": "0"}, {"resample": 2}, {"space_group": 225}):
        with pytest.raises(InputError):
            model.generate(1, start_from=perovskite, redecorate=True, **more)
    with pytest.raises(InputError, match="start_from"):
        model.generate(1, redecorate=True)


def test_a_models_own_targets_hold_unless_others_are_named(conditional: Path) -> None:
    model = load_model(conditional)
    own = {"solver": "predictor_corrector", "steps": 5, "targets": {"band_gap": 1.0}, "guidance": 1.5}
    model.metadata = dataclasses.replace(model.metadata, sampling=own)
    assert dict(make_request(model).plan(0).targets) == {"band_gap": 1.0}
    assert make_request(model).sampling.guidance == {"band_gap": 1.5}
    named = make_request(model, steering=Steering(properties=["band_gap=3", "bulk_modulus=100"], guidance=1.0))
    assert dict(named.plan(0).targets) == {"band_gap": 3.0, "bulk_modulus": 100.0}
    assert set(named.sampling.guidance.values()) == {1.0}


def test_a_potential_selects_by_one_energy_on_the_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hull:
        reference = object()

        def place(self, crystal: tuple, energy: float) -> dict[str, float]:
            return {"energy_above_hull": energy - 1.0} if crystal[2][0] != 3 else {"problem": "no entry"}

    energies = {1: 1.2, 2: 0.5, 3: 1.0, 4: float("nan"), 5: 1.0}
    monkeypatch.setattr(selectors, "_placing", lambda potential, reference: Hull())
    monkeypatch.setattr(selectors, "_energies", lambda name: lambda some: [energies[int(c[2][0])] for c in some])
    values = selectors.OneEnergy("7net-0", "ref")([(None, None, np.array([z])) for z in energies])
    # The second lies so far below the hull that the potential is the likelier to err; the third has no place on it.
    np.testing.assert_allclose(values, [0.2, np.nan, np.nan, np.nan, 0.0], atol=1e-12)


def test_energies_of_a_potential_are_those_of_its_calculator() -> None:
    pytest.importorskip("ase")
    from ase import Atoms
    from ase.calculators.emt import EMT

    fcc = (np.ones((3, 3)) - np.eye(3)) / 2
    crystals = [(np.zeros((1, 3)), a * fcc, np.array([z])) for z, a in ((29, 3.6), (92, 4))]
    found = selectors._energies("ase.calculators.emt:EMT")(crystals)
    atoms = Atoms(numbers=[29], cell=crystals[0][1], pbc=True, calculator=EMT())
    assert found[0] == pytest.approx(atoms.get_potential_energy())
    assert np.isnan(found[1])  # an element that EMT does not know


def test_potentials_and_predictors_are_told_apart_and_a_potential_needs_a_hull() -> None:
    assert [selectors.names_potential(n) for n in ("7net-0", "my.module:make")] == [True, True]
    assert not any(selectors.names_potential(n) for n in ("energy-above-hull", "runs/p", r"C:\runs\p", "C:/p"))
    with pytest.raises(InputError, match="--novel-to"):
        make_choosing(None, 4, "7net-0")
