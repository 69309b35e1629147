"""Laws of steered requests: an untrained network breaks no rule, rules compose, impossible requests never run."""

from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.errors import InputError
from crystalsmith.generation import sampler
from crystalsmith.generation.loaded import load
from crystalsmith.generation.making import make_request, warnings_of
from crystalsmith.generation.progress import Silent
from crystalsmith.generation.request import Request
from crystalsmith.generation.rules import parse_formula
from crystalsmith.generation.steering import Steering

REMASKING = pytest.mark.parametrize("solver", ["ancestral", "predictor_corrector,remask=1"])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(untrained):
    return load_model(untrained)


def crystals(
    model, num: int, num_atoms=None, size: int = 64, steps: int = 3, seed: int = 0, solver="ancestral", **steering
):
    request = make_request(
        model, num=num, steps=steps, seed=seed, num_atoms=num_atoms, solver=solver, steering=Steering(**steering)
    )
    made = sampler.finished_batches(model, request, CPU, Silent(), batch_size=size)
    return [crystal for item in made for crystal in item.batch.crystals()]


@pytest.fixture
def olivine(tmp_path):
    """Eight sites: Li, Fe, P, O and four more O in a triclinic cell, as extended XYZ."""
    from ase import Atoms
    from ase.io import write

    rng = np.random.default_rng(0)
    cell = np.array([[4.7, 0.1, 0.0], [0.4, 5.9, 0.2], [-0.3, 0.5, 6.1]])
    atoms = Atoms("LiFePO5", scaled_positions=rng.random((8, 3)), cell=cell, pbc=True)
    write(tmp_path / "known.extxyz", atoms, format="extxyz")
    return tmp_path / "known.extxyz", atoms


@REMASKING
def test_chemical_system_required_elements_and_sizes_hold_together(model, solver) -> None:
    made = crystals(model, 150, "2-11", solver=solver, chemical_system="Li-Fe-O-Si", require=["O"], deny="Si")
    assert {len(z) for _, _, z in made} == {2, 4, 7, 11}
    for _, _, numbers in made:
        assert set(numbers.tolist()) <= {3, 8, 26}
        assert 8 in numbers
    for _, _, numbers in crystals(model, 100, solver=solver, chemical_system="Na-Mn-O", require_all=True):
        assert set(numbers.tolist()) == {8, 11, 25}


@REMASKING
def test_formulas_are_exact_and_units_take_turns(model, solver) -> None:
    made = crystals(model, 120, solver=solver, formula="Li2MnO3", formula_units="1-4")
    for i, (_, _, numbers) in enumerate(made):
        assert collections.Counter(numbers.tolist()) == {3: 2 * (i % 4 + 1), 25: i % 4 + 1, 8: 3 * (i % 4 + 1)}


def test_a_steered_crystal_does_not_depend_on_its_batch(model) -> None:
    wanted = {"chemical_system": "Li-Fe-O", "require_all": True}
    for (f, c, z), (g, d, y) in zip(
        crystals(model, 9, size=9, **wanted), crystals(model, 9, size=2, **wanted), strict=True
    ):
        assert z.tolist() == y.tolist()
        away = f - g
        assert np.abs(away - np.round(away)).max() < 1e-3
        assert np.abs(c - d).max() < 1e-2


@REMASKING
def test_kept_parts_come_out_as_they_went_in(model, olivine, solver) -> None:
    path, atoms = olivine
    made = crystals(
        model, 100, solver=solver, start_from=str(path), fix_sites="1-3", fix_cell=True, deny="Li", resample=2
    )
    for frac, cell, numbers in made:
        assert np.abs(cell - atoms.cell.array).max() < 1e-5
        away = frac[1:4] - atoms.get_scaled_positions()[1:4]
        assert np.abs(away - np.round(away)).max() < 1e-6
        assert numbers[1:4].tolist() == atoms.numbers[1:4].tolist()
        assert 3 not in numbers
    for _, _, numbers in crystals(model, 40, solver=solver, start_from=str(path), fix_elements=True, strength=0.5):
        assert numbers.tolist() == atoms.numbers.tolist()


@REMASKING
def test_atoms_can_be_added_to_a_kept_crystal(model, olivine, solver) -> None:
    path, atoms = olivine
    made = crystals(model, 30, 9, solver=solver, start_from=str(path), fix_sites="0-7", fix_cell=True, require="F")
    for _, _, numbers in made:
        assert numbers[:8].tolist() == atoms.numbers.tolist()
        assert numbers[8] == 9


def test_little_strength_changes_little(model, olivine) -> None:
    path, atoms = olivine
    (frac, cell, numbers), *_ = crystals(model, 1, start_from=str(path), strength=0.001, steps=1000)
    assert numbers.tolist() == atoms.numbers.tolist()
    lengths = np.linalg.norm(cell, axis=1)
    assert np.abs(lengths - np.linalg.norm(atoms.cell.array, axis=1)).max() < 0.2
    away = frac - atoms.get_scaled_positions()
    assert np.abs(away - np.round(away)).max() < 0.05


def test_relatives_of_a_crystal_keep_the_elements_that_a_remasking_model_would_forget(model, olivine) -> None:
    sampling = {"solver": "predictor_corrector", "steps": 20, "remask": 1.0}
    own = Model(model.network, model.process, dataclasses.replace(model.metadata, sampling=sampling))
    for strength, kept in ((None, False), (0.5, False), (1.0, True)):
        request = make_request(own, steering=Steering(start_from=str(olivine[0]), strength=strength))
        assert ("remask" in request.solver_settings) is kept
    asked = make_request(
        own, solver="predictor_corrector,remask=0.5", steering=Steering(start_from=str(olivine[0]), strength=0.5)
    )
    assert asked.solver_settings == {"remask": 0.5}


@pytest.mark.parametrize(
    ("num_atoms", "steering", "sentence"),
    [
        (4, {"require": "Li,Na,K,Rb,Cs"}, "5 elements are required"),
        (None, {"formula": "LiFePO4", "deny": "Fe"}, "Fe is ruled out"),
        (6, {"formula": "LiFePO4"}, "7 atoms per formula unit"),
        (None, {"formula": "LiFePO4", "require": "Na"}, "Na is not in the formula"),
        (None, {"formula": "Li0.5O"}, "not a formula of whole numbers"),
        (None, {"formula": "Nonsense"}, "not a formula"),
        (None, {"formula_units": "2"}, "give --formula too"),
        (None, {"formula": "LiO", "formula_units": "4-1"}, "number or range"),
        (None, {"chemical_system": "Li-Xx"}, "'Xx' is not a chemical symbol"),
        (None, {"chemical_system": "Li-O", "allow": "Na-Cl"}, "leave no element"),
        (None, {"require": "He"}, "He is not among the elements of the model"),
        (None, {"require_all": True}, "--chemical-system"),
        (None, {"fix_cell": True}, "--start-from"),
        (None, {"start_from": "nowhere.cif"}, "no file"),
    ],
)
def test_impossible_requests_are_refused_before_anything_runs(model, num_atoms, steering, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        make_request(model, num_atoms=num_atoms, steering=Steering(**steering))


def test_a_start_that_does_not_fit_is_refused(model, olivine) -> None:
    path = str(olivine[0])
    for steering, sentence in (
        ({"fix_sites": "8"}, "sites 0 to 7"),
        ({"fix_sites": "one"}, "list of site numbers"),
        ({"strength": 1.5}, "above 0 and up to 1"),
        ({"fix_sites": "1", "deny": "Fe"}, "at most 0"),
        ({"fix_sites": "0-7", "fix_cell": True, "require": "F"}, "too few free"),
        ({"formula": "LiFePO4"}, "do not make up"),
    ):
        with pytest.raises(InputError, match=sentence):
            make_request(model, steering=Steering(start_from=path, **steering))
    for num_atoms, steering in ((7, {}), (9, {"strength": 0.4})):
        with pytest.raises(InputError, match=r"[Aa]toms"):
            make_request(model, num_atoms=num_atoms, steering=Steering(start_from=path, **steering))


def test_a_request_survives_json(model, olivine) -> None:
    steering = Steering(start_from=str(olivine[0]), fix_sites="0,2", require=["O"], strength=0.7)
    request = make_request(model, steering=steering)
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))).to_dict() == request.to_dict()
    formula = make_request(model, steering=Steering(formula="LiO2"))
    assert Request.from_dict(json.loads(json.dumps(formula.to_dict()))) == formula


def test_large_crystals_are_warned_about(model) -> None:
    assert warnings_of(model, make_request(model, num_atoms=11)) == []
    assert "at most 11" in warnings_of(model, make_request(model, num_atoms=30))[0]


def test_formulas_are_read_as_written() -> None:
    assert parse_formula("Ca(OH)2") == {20: 1, 8: 2, 1: 2}
    assert parse_formula("Li2O2") == {3: 2, 8: 2}


def test_python_users_steer_with_the_same_words(untrained) -> None:
    made = load(untrained, device="cpu").generate(6, steps=3, formula="NaCl", formula_units=2)
    assert {s.composition.formula for s in made} == {"Na2 Cl2"}
    assert [row["formula_units"] for row in made.table] == [2] * 6
    with pytest.raises(TypeError, match="formla"):
        load(untrained, device="cpu").generate(6, formla="NaCl")
