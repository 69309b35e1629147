"""Laws of requests with space groups: whatever the network, every crystal has the symmetry that was asked for."""

from __future__ import annotations

import collections
import csv
import dataclasses
import json

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.diffusion.process import Process
from crystalsmith.errors import InputError
from crystalsmith.generation import sampler
from crystalsmith.generation.making import make_request
from crystalsmith.generation.plans.plan import Arrangement, Plan
from crystalsmith.generation.plans.templates import (
    Limits,
    _number_of_ways,
    arranged,
    as_known,
    assign,
    follows,
    weights,
)
from crystalsmith.generation.progress import Silent
from crystalsmith.generation.request import Request
from crystalsmith.generation.run import Options, generate
from crystalsmith.generation.space_groups import make_space_groups
from crystalsmith.generation.steering import Steering
from crystalsmith.symmetry.groups import space_group
from crystalsmith.symmetry.wyckoff import bundled_templates

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(untrained):
    return load_model(untrained)


def crystals(model, num, num_atoms=None, solver="ancestral", **steering):
    request = make_request(model, num=num, steps=3, num_atoms=num_atoms, solver=solver, steering=Steering(**steering))
    made = list(sampler.finished_batches(model, request, CPU, Silent(), batch_size=16))
    return request, [crystal for item in made for crystal in item.batch.crystals()]


def arrangements(request, indices) -> list[Arrangement]:
    return [request.plan(i).arrangement for i in indices]


@pytest.mark.parametrize("solver", ["ancestral", "multistep,remask=1", "heun", "predictor_corrector,remask=1"])
def test_an_untrained_network_keeps_the_space_group(model, solver) -> None:
    request, made = crystals(model, 24, solver=solver, space_group="75-230")
    kept = collections.Counter()
    for one, (frac, cell, numbers) in zip(arrangements(request, range(24)), made, strict=True):
        assert len(numbers) == sum(one.sizes)
        orbits = {tuple(numbers[one.sites.first == k]) for k in set(one.sites.first.tolist())}
        assert all(len(set(orbit)) == 1 for orbit in orbits)
        # One element per orbit: neighbours that happen to be alike must not count as more symmetry.
        marked = np.unique(one.sites.first, return_inverse=True)[1] + 1
        kept[space_group(frac, cell, marked.astype(np.int64), 0.01) == one.template.number] += 1
    # Orbits that an untrained network puts on top of one another, or flat cells, defeat the search.
    assert kept[True] >= 20


def test_sizes_elements_and_space_groups_hold_together(model) -> None:
    request, made = crystals(model, 32, "4-8", space_group="cubic,62", chemical_system="Li-Fe-O", require_all=True)
    for one, (_, _, numbers) in zip(arrangements(request, range(32)), made, strict=True):
        assert one.template.number == 62 or one.template.number >= 195
        assert len(numbers) in {4, 7}  # the model's own numbers within the range
        assert set(numbers.tolist()) == {3, 8, 26}


def test_formulas_fall_on_whole_orbits(model) -> None:
    for task in ("generate", "csp"):
        process = Process(dataclasses.replace(model.process.config, task=task))
        _, made = crystals(Model(model.network, process, model.metadata), 12, formula="Li2O", space_group="any")
        for _, _, numbers in made:
            count = collections.Counter(numbers.tolist())
            assert count[3] == 2 * count[8] > 0


def test_every_way_of_placing_a_composition_is_equally_likely() -> None:
    orbits, counts = (1, 1, 2, 2), ((3, 3), (8, 3))
    assert _number_of_ways(orbits, counts) == 4
    seen = collections.Counter(assign(orbits, counts, (k + 0.5) / 400) for k in range(400))
    assert set(seen.values()) == {100}
    for elements in seen:
        assert sum(n for n, z in zip(orbits, elements, strict=True) if z == 3) == 3
    assert _number_of_ways((2, 2), ((3, 3), (8, 1))) == 0


def test_templates_are_drawn_as_often_as_they_were_seen() -> None:
    groups = make_space_groups("225", None)
    known = groups.templates
    found = weights(Limits(groups, None, 0, ()))
    drawn = collections.Counter(
        arranged(Plan(3, i), Limits(groups, None, 0, ())).arrangement.template for i in range(2000)
    )
    commonest = max(found, key=found.__getitem__)
    share = found[commonest] / sum(found.values())
    assert drawn[commonest] / 2000 == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)
    sized = weights(Limits(groups, ((4, 3.0), (10, 1.0)), 0, ()))
    totals = collections.Counter()
    for template, weight in sized.items():
        totals[known.size(template)] += weight
    assert dict(totals) == pytest.approx({4: 3.0, 10: 1.0})


def test_a_request_survives_json_and_a_crystal_depends_on_its_index_alone(model) -> None:
    import json

    request = make_request(model, num=9, steps=3, solver="ancestral", steering=Steering(space_group="cubic"))
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again.plan(5) == request.plan(5)
    alone = sampler.sample_batch(model, again.sampling, again.plans([5]), CPU)
    together = sampler.sample_batch(model, request.sampling, request.plans(range(9)), CPU).select([5])
    torch.testing.assert_close(alone.frac_coords, together.frac_coords, atol=1e-4, rtol=0)
    assert torch.equal(alone.atomic_numbers, together.atomic_numbers)


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ({"space_group": "0"}, "outside 1 to 230"),
        ({"space_group": "wrong"}, "crystal system"),
        ({"space_group": "225", "formula": "LiFePO4", "formula_units": 1}, "No known crystal"),
        ({"space_group": "free", "templates": "x.json"}, "leave one of them out"),
        ({"templates": "missing.cif"}, "There is no file"),
        ({"space_group": "any", "templates": "missing.json"}, "data symmetry"),
    ],
)
def test_impossible_requests_are_one_sentence(model, steering, message) -> None:
    with pytest.raises(InputError, match=message):
        make_request(model, num=4, steering=Steering(**steering))


def test_the_table_says_what_was_asked(untrained, tmp_path) -> None:
    options = Options(
        model=str(untrained), num=3, device="cpu", steps=2, solver="ancestral", steering=Steering(space_group="221")
    )
    generate(tmp_path / "out", options)
    with (tmp_path / "out" / "crystals.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["asked_space_group"] for row in table} == {"221"}
    assert all(row["wyckoff_letters"] for row in table)


def test_a_model_may_choose_for_itself(model) -> None:
    chosen = dataclasses.replace(model.metadata, sampling={**model.metadata.sampling, "space_group": "any"})
    own = Model(model.network, model.process, chosen)
    assert make_request(own, num=2).space_groups is not None
    assert make_request(own, num=2, solver="published").space_groups is None
    assert make_request(own, num=2, steering=Steering(space_group="free")).space_groups is None
    assert make_request(model, num=2).space_groups is None
    # Sizes that no template has are free.
    large = make_request(own, num=2, num_atoms="40", steering=Steering(space_group="any"))
    assert [one.template.letters for one in arrangements(large, [0])] == ["a" * 40]


def test_the_orbits_of_a_known_crystal(model, tmp_path) -> None:
    """A perovskite in a supercell: its five atoms, and oxygen on one of three orbits."""
    from pymatgen.core import Lattice, Structure

    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    crystal = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], places)
    (crystal * (2, 1, 1)).to(filename=str(tmp_path / "known.cif"))
    request, made = crystals(model, 6, templates=str(tmp_path / "known.cif"), require="O")
    for one, (_, _, numbers) in zip(arrangements(request, range(6)), made, strict=True):
        assert one.template.number == 221
        assert sorted(one.sizes) == [1, 1, 3]
        assert 8 in numbers


@pytest.mark.parametrize("solver", ["ancestral", "predictor_corrector,remask=1"])
def test_elements_in_place_of_those_of_a_template(model, tmp_path, solver) -> None:
    """Barium stands where strontium stood, half a face diagonal from oxygen; the other place is open."""
    from pymatgen.core import Lattice, Structure

    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    crystal = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.905), ["Sr", "Ti", "O"], places)
    crystal.to(filename=str(tmp_path / "known.cif"))
    asked = {"templates": str(tmp_path / "known.cif"), "template_elements": {"Sr": "Ba", "O": "O"}}
    request, made = crystals(model, 8, solver=solver, **asked)
    open_ones = set()
    for frac, _, numbers in made:
        assert sorted(numbers.tolist()).count(8) >= 3
        barium = frac[numbers == 56][0]
        offsets = np.abs((frac[numbers == 8] - barium + 0.25) % 1.0 - 0.25)
        assert (np.isclose(offsets, 0.5, atol=1e-3).sum(-1) == 2).sum() == 3
        rest = sorted(numbers.tolist())
        for z in (8, 8, 8, 56):
            rest.remove(z)
        open_ones.add(rest[0])
    assert len(open_ones) > 1
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again.plans(range(8)) == request.plans(range(8))
    assert Plan.from_dict(json.loads(json.dumps(request.plan(3).to_dict()))) == request.plan(3)
    written = make_request(model, num=1, steering=Steering(**asked | {"template_elements": "O=O, Sr=Ba"}))
    assert written.space_groups == request.space_groups


def test_elements_that_no_template_can_take_are_refused(model, tmp_path) -> None:
    from pymatgen.core import Lattice, Structure

    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(filename=str(tmp_path / "salt.cif"))
    known = {"templates": str(tmp_path / "salt.cif")}
    for wrong, sentence in (
        ({"template_elements": "Na=K"}, "give that crystal as --templates"),
        (known | {"template_elements": "O=S"}, "holds Na, Cl|holds Cl, Na"),
        (known | {"template_elements": "Na"}, "is not understood"),
        (known | {"template_elements": "Na=K,Na=Li"}, "each once"),
        (known | {"template_elements": "Na=Xx"}, "--template-elements"),
        (known | {"template_elements": "Na=K", "deny": "K"}, "ruled out"),
        (known | {"template_elements": "Na=K", "formula": "KCl"}, "leave --template-elements or --formula out"),
        (known | {"template_elements": "Na=K", "require": "F,Br"}, "2 further elements are required|No known crystal"),
    ):
        with pytest.raises(InputError, match=sentence):
            make_request(model, num=1, steering=Steering(**wrong))


def test_a_target_space_group_is_kept(conditional) -> None:
    """Each crystal has its own; one that no template has is only steered."""
    model = load_model(conditional)
    request = make_request(model, num=4, steering=Steering(properties=["space_group=225,62,230"]))
    numbers = [one.template.number for one in arrangements(request, range(4))]
    assert [numbers[0], numbers[1], numbers[3]] == [225, 62, 225]
    assert (230 in {t.number for t in request.space_groups.templates.counts}) == (numbers[2] == 230)
    free = make_request(model, num=4, steering=Steering(properties=["space_group=225"], space_group="free"))
    assert free.space_groups is None
    away = make_request(model, num=4, steering=Steering(properties=["space_group=225"], guidance="-1"))
    assert away.space_groups is None


def test_a_target_system_gets_an_orbit_for_each_element(conditional) -> None:
    steering = Steering(properties=["chemical_system=Ba-Ti-O,Li-O"], space_group="any")
    request = make_request(load_model(conditional), num=40, steering=steering)
    orbits = [len(one.sizes) for one in arrangements(request, range(40))]
    assert min(orbits[0::2]) >= 3
    assert min(orbits[1::2]) == 2


def test_a_composition_takes_its_likeliest_arrangements_in_turn(model, tmp_path) -> None:
    formula = {"formula": "SrTiO3", "formula_units": "1-2"}
    request = make_request(model, num=40, steps=3, solver="ancestral", steering=Steering(space_group="any", **formula))
    small, large = arrangements(request, range(0, 40, 2)), arrangements(request, range(1, 40, 2))
    assert {sum(one.sizes) for one in small} == {5}
    assert {sum(one.sizes) for one in large} == {10}
    assert small[0].template.number == 221
    for some in (small, large):
        assert len({(one.template, one.elements) for one in some}) > 10
        assert some[0].elements
        counted = [collections.Counter(one.numbers()) for one in some]
        assert all(c[8] == 3 * c[22] == 3 * c[38] for c in counted)
    (tmp_path / "salts.csv").write_text("formula,formula_units\nNaCl,1\nCsCl,1\n")
    steering = Steering(compositions=str(tmp_path / "salts.csv"), samples=200, space_group="any")
    again = make_request(model, num=400, steps=3, solver="ancestral", steering=steering)
    salts = [(one.template, one.elements) for one in arrangements(again, range(0, 400, 2))]
    assert [one.template.number for one in arrangements(again, (0, 1))] == [225, 221]
    turns = len(set(salts))
    assert 20 < turns < 200
    assert salts[turns:] == salts[: 200 - turns]  # from the first again


def test_without_learning_a_composition_is_placed_as_in_known_crystals_of_such_counts(tmp_path) -> None:
    """ABC3: both orders of A and B on each template, three atoms of the third element together."""
    alone = tmp_path / "templates.json"
    alone.write_text(bundled_templates().to_json(), encoding="utf-8")
    groups = make_space_groups("221", str(alone))
    counts = ((8, 3), (22, 1), (38, 1))
    found = weights(Limits(groups, None, 0, counts))
    assert found
    known = groups.templates
    assert all(follows(t, known.orbit_sizes(t), counts) for t in found)
    drawn = [arranged(Plan(0, i, counts=counts), Limits(groups, None, 0, counts)).arrangement for i in range(60)]
    assert all(sorted(collections.Counter(one.numbers()).items()) == sorted(counts) for one in drawn)
    perovskites = {one.template.letters: set() for one in drawn}
    for one in drawn:
        perovskites[one.template.letters].add(tuple(one.numbers()))
    assert max(len(seen) for seen in perovskites.values()) == 2
    assert {as_known("AB", ((3, 1), (8, 1)), u) for u in (0.2, 0.8)} == {(3, 8), (8, 3)}
    # Counts that no crystal of the group has are laid on any orbits that hold them.
    odd = ((3, 7), (8, 1))
    assert not any(follows(t, known.orbit_sizes(t), odd) for t in weights(Limits(groups, None, 0, odd)))


def test_symbols_name_all_space_groups_as_people_write_them() -> None:
    from crystalsmith.generation.space_groups import _numbers, group_symbols

    assert set(group_symbols().values()) == set(range(1, 231))  # no symbol is taken for another's
    for text, number in {
        "fm-3m": 225,
        "f m -3 m": 225,
        "p6_3/mmc": 194,
        "p63/mmc": 194,
        "pnma": 62,
        "p21/c": 14,
    }.items():
        assert _numbers(text) == {number}
    assert make_space_groups("Fm-3m,194", None).numbers == (194, 225)
    with pytest.raises(InputError, match="a symbol"):
        make_space_groups("Fm-3q", None)
