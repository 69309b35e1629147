"""Options that exclude one another are refused before anything runs; all others hold together in every plan."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from crystalsmith.checkpoints.find import load_model
from crystalsmith.data.computed import hhi_of_elements
from crystalsmith.elements import DENY_LISTS, NUMBERS, parse_chemical_system
from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.build import build_reference
from crystalsmith.generation.making import make_request, warnings_of
from crystalsmith.generation.num_atoms import MAX_ATOMS
from crystalsmith.generation.rules import parse_formula
from crystalsmith.generation.steering import Steering


@pytest.fixture(scope="module")
def model(conditional):
    return load_model(conditional)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Crystals to start from, a table of compositions, and templates of rock salt."""
    from crystalsmith.formats import cif_text

    place = tmp_path_factory.mktemp("files")
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    fcc = 2.1 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    for name, numbers in (("nacl", [11, 17]), ("mgo", [12, 8])):
        (place / f"{name}.cif").write_text(cif_text(name, corners, fcc, np.array(numbers)))
    build_reference([place / "nacl.cif"], place / "known")
    (place / "list.csv").write_text("Formula;num_atoms\nNaCl;2.0\nMgO;4\n")
    return place


# Option -> fragments; each a dictionary of options with one choice made.
CHOICES = {
    "target": ["Li-O", "Na-Cl", "Mg-O", "Na-Cl,Mg-O"],
    "chemical_system": ["Li-O", "Na-Cl"],
    "allow": ["Na,Cl", "Li,O,Na"],
    "deny": ["Li,O", "O", "Fe"],
    "require": ["Fe", "O", "Li,O"],
    "formula": ["NaCl", "Li2O", "MgO"],
    "compositions": ["list.csv"],
    "start_from": ["nacl.cif", "mgo.cif"],
    "space_group": ["225", "any", "free", "1"],
    "templates": ["nacl.cif"],
    "num_atoms": ["1", "2", "4-7"],
    "deny_list": ["radioactive", "scarce"],
    "max_hhi": ["1500"],
    "prefer": ["Li=3,O=0.5"],
    "redecorate": ["nacl.cif"],
    "template_elements": ["Na=K"],
    "novel_to": ["known"],
    "selector": ["own"],
}
FRAGMENTS = [{name: value} for name, values in CHOICES.items() for value in values]
PAIRS = [a | b for a, b in combinations(FRAGMENTS, 2) if set(a) != set(b)]


def options(fragment: dict, files) -> dict:
    """The fragment as options: files by their paths, targets as properties, a start with its elements kept."""
    found = dict(fragment)
    for name in ("compositions", "start_from", "templates"):
        if name in found:
            found[name] = str(files / found[name])
    if "start_from" in found:
        found["fix_elements"] = True
    if "redecorate" in found:
        found |= {"start_from": str(files / found["redecorate"]), "redecorate": True}
    if "template_elements" in found:
        found |= {"templates": str(files / "nacl.cif")}
    if "max_hhi" in found:
        found["max_hhi"] = float(found["max_hhi"])
    if "novel_to" in found:
        found["novel_to"] = str(files / "known")
    if "selector" in found:
        found["select"] = 2
    if "target" in found:
        found["properties"] = {"chemical_system": found.pop("target").split(",")}
    return found


def request_of(model, fragment, files, num: int = 6):
    asked = options(fragment, files)
    sizes = asked.pop("num_atoms", None)
    return make_request(model, num=num, num_atoms=sizes, steering=Steering(**asked))


def holds(fragment: dict, plan, model) -> list[str]:
    """What of the fragment a plan breaks, worked out from the words of the options alone."""
    broken = []
    certain = {z for z, _ in plan.counts} | set(plan.required)
    if plan.start is not None and plan.start.fix_elements:
        certain |= set(plan.start.numbers)
    if plan.arrangement is not None:
        certain |= set(plan.arrangement.held) - {0}
    possible = {z for z, _ in plan.counts} or set(plan.allowed) or set(model.metadata.elements)
    if "target" in fragment:
        system = set(parse_chemical_system(str(dict(plan.targets)["chemical_system"])))
        possible &= system
        broken += ["target"] * (not certain <= system)
    for name in ("chemical_system", "allow"):
        if name in fragment:
            some = set(parse_chemical_system(fragment[name]))
            broken += [name] * (not certain <= some or not possible & some)
            possible &= some
    if "deny" in fragment:
        some = set(parse_chemical_system(fragment["deny"]))
        broken += ["deny"] * bool(certain & some)
        possible -= some
    if "deny_list" in fragment:
        some = DENY_LISTS[fragment["deny_list"]]
        broken += ["deny_list"] * bool(certain & some)
        possible -= some
    if "max_hhi" in fragment:
        supply = (hhi_of_elements(0) + hhi_of_elements(1)) / 2
        some = {z for z in range(1, 101) if not supply[z - 1] <= float(fragment["max_hhi"])}
        broken += ["max_hhi"] * bool(certain & some)
        possible -= some
    if "redecorate" in fragment:
        broken += ["redecorate"] * (plan.start is None or not plan.start.redecorate)
    if "template_elements" in fragment:
        broken += ["template_elements"] * (plan.arrangement is None or 19 not in plan.arrangement.held)
    if "require" in fragment:
        broken += ["require"] * (not set(parse_chemical_system(fragment["require"])) <= possible | certain)
    broken += ["nothing is possible"] * (not possible)
    if "formula" in fragment and plan.counts:
        counts = parse_formula(fragment["formula"])
        broken += ["formula"] * ({z for z, _ in plan.counts} != set(counts))
    if "num_atoms" in fragment:
        low, _, high = fragment["num_atoms"].partition("-")
        broken += ["num_atoms"] * (not int(low) <= plan.num_atoms <= int(high or low))
    if plan.arrangement is not None and fragment.get("space_group", "").isdigit():
        broken += ["space_group"] * (plan.arrangement.template.number != int(fragment["space_group"]))
    return broken


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: " ".join(f"{k}={v}" for k, v in p.items()))
def test_pairs_of_options_hold_together_or_are_refused(model, files, pair) -> None:
    try:
        request = request_of(model, pair, files)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most pairs are not refused
        return
    for index in range(6):
        assert holds(pair, request.plan(index), model) == []


def test_enough_pairs_are_accepted_and_enough_are_refused(model, files) -> None:
    """The test above would pass if everything were refused."""
    refused = 0
    for pair in PAIRS[::3]:
        try:
            request_of(model, pair, files, num=1)
        except InputError:
            refused += 1
    assert 0.2 < refused / len(PAIRS[::3]) < 0.8


@pytest.mark.parametrize(
    ("steering", "words"),
    [
        ({"deny": "Li,O"}, ("chemical_system=Li-O", "--deny Li,O")),
        ({"allow": "Na,Cl"}, ("chemical_system=Li-O", "--allow Na,Cl")),
        ({"require": "Fe"}, ("chemical_system=Li-O", "Fe", "--require Fe")),
        ({"formula": "NaCl"}, ("chemical_system=Li-O", "Na", "--formula NaCl")),
        ({"chemical_system": "Na-Cl"}, ("chemical_system=Li-O", "--chemical-system Na-Cl")),
        ({"compositions": ["NaCl"]}, ("chemical_system=Li-O", "Na", "NaCl")),
    ],
)
def test_target_against_rules(model, steering, words) -> None:
    with pytest.raises(InputError) as error:
        make_request(model, num=3, steering=Steering(properties=["chemical_system=Li-O"], **steering))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("system", ["Li-Xe", "Xe"])
def test_targets_that_the_model_does_not_know(model, system) -> None:
    assert NUMBERS["Xe"] not in model.metadata.elements
    with pytest.raises(InputError, match="does not know Xe"):
        make_request(model, num=3, steering=Steering(properties=[f"chemical_system={system}"]))


def test_a_crystal_further_on_contradicts_too(model) -> None:
    systems = ["Na-Cl"] * 5 + ["Li-O"]
    wanted = Steering(properties={"chemical_system": systems}, formula="NaCl")
    with pytest.raises(InputError, match="Li-O"):
        make_request(model, num=6, steering=wanted)
    make_request(model, num=5, steering=wanted)


def test_a_target_that_is_not_followed_contradicts_nothing(model) -> None:
    wanted = Steering(properties=["chemical_system=Li-O"], guidance="chemical_system=0", formula="NaCl")
    make_request(model, num=1, steering=wanted)


def test_part_of_a_target_is_told(model) -> None:
    request = make_request(model, num=1, steering=Steering(properties=["chemical_system=Li-O"], deny="O"))
    assert any("exclude O" in sentence for sentence in warnings_of(model, request))


def test_space_group_target_beside_another_group(model) -> None:
    with pytest.raises(InputError, match=r"space_group=225 lies outside --space-group 62"):
        make_request(model, num=1, steering=Steering(properties=["space_group=225"], space_group="62"))


def test_sizes_that_are_not_made_are_told(model) -> None:
    request = make_request(model, num=1, num_atoms="4-9")
    assert any("only 4, 7 are made" in s for s in warnings_of(model, request, "4-9"))
    assert not any("are made" in s for s in warnings_of(model, make_request(model, num=1, num_atoms="7"), "7"))


def test_templates_of_a_crystal_are_not_left_for_another_size(model, files) -> None:
    wanted = Steering(templates=str(files / "nacl.cif"))
    request = make_request(model, num=4, num_atoms="1-4", steering=wanted)
    assert {plan.num_atoms for plan in request.plans(range(4))} == {2}
    assert any("only 2 are made" in s for s in warnings_of(model, request, "1-4"))
    for further in ({"num_atoms": 4}, {"steering": Steering(templates=str(files / "nacl.cif"), formula="MgF2")}):
        with pytest.raises(InputError, match=r"No template of .*nacl.cif"):
            make_request(model, num=1, **{"steering": wanted} | further)


@pytest.mark.parametrize("asked", ["1000000000", "1-1000000000", str(MAX_ATOMS + 1), "9" * 5000])
def test_requests_without_bounds(model, asked) -> None:
    with pytest.raises(InputError, match=r"10,000|neither a number"):
        make_request(model, num=1, num_atoms=asked)


@pytest.mark.parametrize("formula", ["H100000000", "H" * 5000, "H99999" * 30, "Li1e9", "(" * 100 + "H" + ")" * 100])
def test_formulas_without_bounds(model, formula) -> None:
    with pytest.raises(InputError):
        make_request(model, num=1, steering=Steering(formula=formula))
    with pytest.raises(InputError):
        make_request(model, num=1, steering=Steering(compositions=[formula]))


def test_num_atoms_as_spreadsheets_write_it(model, tmp_path) -> None:
    assert set(make_request(model, num=1, num_atoms="10.0").num_atoms) == {10}
    (tmp_path / "a.csv").write_text("Material_ID,Formula,nsites\nx,NaCl,4.0\n")
    request = make_request(model, num=1, steering=Steering(compositions=str(tmp_path / "a.csv")))
    assert request.plan(0).num_atoms == 4
    assert dict(request.plan(0).labels)["target"] == "x"


def test_open_formula_units_are_those_of_known_crystals(model) -> None:
    """Titania has three atoms in no known crystal of its kind of symmetry; silicon is no cell of one atom."""
    import dataclasses

    sizes = {n: 1.0 for n in range(1, 21)}
    wide = type(model)(model.network, model.process, dataclasses.replace(model.metadata, num_atoms_histogram=sizes))
    request = make_request(wide, num=8, steering=Steering(compositions=["Si", "TiO2"], space_group="any"))
    silicon, titania = request.compositions.units
    assert set(silicon) <= set(range(1, 21))
    assert all(3 * unit <= 20 for unit in titania)
    assert {2, 4} <= set(titania)
    for index in range(8):
        assert request.plan(index).arrangement is not None
    lone = make_request(model, num=1, steering=Steering(compositions=["H50"]))
    assert lone.compositions.units == ((1,),)
