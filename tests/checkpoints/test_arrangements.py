"""Laws of learned arrangements: known crystals, probabilities, files."""

from __future__ import annotations

import collections
import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from crystalsmith.checkpoints.arrangements import (
    FILE,
    Arrangements,
    key_of,
    load_arrangements,
    number_of_orders,
    orders,
    save_arrangements,
)
from crystalsmith.checkpoints.find import BUNDLED
from crystalsmith.checkpoints.store import WEIGHTS
from crystalsmith.elements import symbol
from crystalsmith.errors import InputError
from crystalsmith.network.arrangements import ArrangementNetwork
from crystalsmith.symmetry.wyckoff import TABLES, Template, bundled_templates


@pytest.fixture(scope="module")
def learned() -> Arrangements:
    return load_arrangements(TABLES / FILE)


def ranked(learned: Arrangements, counts: dict[int, int]):
    templates = bundled_templates()
    wanted = tuple(sorted(counts.values()))
    size = sum(wanted)
    some = [t for t in templates.counts if templates.size(t) == size and templates.totals(t) == wanted]
    return some, learned.ranked(templates, some, counts)


@pytest.mark.parametrize(
    ("counts", "group", "sets"),
    [
        ({11: 1, 17: 1}, 225, [(1, "Na"), (1, "Cl")]),  # rock salt
        ({55: 1, 17: 1}, 221, [(1, "Cs"), (1, "Cl")]),
        ({22: 2, 8: 4}, 136, [(2, "Ti"), (4, "O")]),  # rutile
        ({20: 1, 9: 2}, 225, [(1, "Ca"), (2, "F")]),  # fluorite
        ({3: 1, 27: 1, 8: 2}, 166, [(1, "Li"), (1, "Co"), (2, "O")]),  # layered
        ({12: 2, 13: 4, 8: 8}, 227, [(2, "Mg"), (4, "Al"), (8, "O")]),  # normal spinel
        ({41: 6, 50: 2}, 223, [(6, "Nb"), (2, "Sn")]),  # A15
    ],
)
def test_known_crystals_are_the_likeliest(learned, counts, group, sets) -> None:
    _, choices = ranked(learned, counts)
    best = choices[0]
    assert best.template.number == group
    sizes = bundled_templates().orbit_sizes(best.template)
    assert sorted((n, symbol(z)) for n, z in zip(sizes, best.elements, strict=True)) == sorted(sets)


def test_every_order_on_every_template_is_compared_and_keeps_the_counts(learned) -> None:
    counts = {38: 1, 22: 1, 8: 3}
    some, choices = ranked(learned, counts)
    assert len(choices) == 2 * len(some) > 20
    assert len({(c.template, c.elements) for c in choices}) == len(choices)
    assert sum(c.probability for c in choices) == pytest.approx(1.0, abs=1e-4)
    assert [c.probability for c in choices] == sorted((c.probability for c in choices), reverse=True)
    for choice in choices:
        atoms: collections.Counter[int] = collections.Counter()
        for z, n in zip(choice.elements, bundled_templates().orbit_sizes(choice.template), strict=True):
            atoms[z] += n
        assert atoms == counts
    again = ranked(learned, dict(reversed(counts.items())))[1]
    assert again == choices


def test_orders_exchange_elements_of_equal_counts_only() -> None:
    counts = (1, 1, 2, 3, 3, 3)
    found = orders(counts)
    assert found[0] == tuple(range(6))
    assert len(set(found)) == len(found) == number_of_orders(counts) == 12
    assert all(tuple(counts[k] for k in order) == counts for order in found)
    everything = {p for p in itertools.permutations(range(6)) if tuple(counts[k] for k in p) == counts}
    assert set(found) == everything


def test_what_was_never_seen_is_judged_by_the_rest(learned) -> None:
    templates = bundled_templates()
    known = next(t for t in templates.counts if t.number == 225 and t.letters == "ab" and t.pattern == "AB")
    other = Template(225, "ab", (7, 0, 0, 0, 1, 0, 0, 0, 1), "AB")
    grown = type(templates)({**templates.counts, other: 1}, templates.points)
    choices = learned.ranked(grown, [known, other], {11: 1, 17: 1})
    assert {c.template for c in choices} == {known, other}
    assert all(0 < c.probability < 1 for c in choices)
    assert learned.ranked(grown, [], {11: 1}) == []
    assert learned.ranked(grown, [known], dict.fromkeys(range(1, 9), 1)) == []  # 40,320 orders


def test_a_file_keeps_the_choices_and_damage_is_named(learned, tmp_path) -> None:
    path = tmp_path / FILE
    save_arrangements(learned, path)
    again = load_arrangements(path)
    assert again.training == learned.training
    assert ranked(again, {55: 1, 17: 1})[1] == ranked(learned, {55: 1, 17: 1})[1]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="train --task arrangements"):
        load_arrangements(path)
    with pytest.raises(InputError, match="another kind"):
        load_arrangements(BUNDLED / "mp20-tiny" / WEIGHTS)


def test_a_remembered_crystal_raises_its_own_arrangement(learned) -> None:
    counts = {19: 1, 9: 1}
    some, _ = ranked(learned, counts)
    place = next(t for t in some if t.number == 186 or t.number not in (221, 225))
    of = {(c.template, c.elements): c.probability for c in ranked(learned, counts)[1]}
    told = dict(learned.memory)
    told[key_of(place)] = torch.cat([told[key_of(place)], torch.tensor([[9, 19]] * 20)])
    after = ranked(replace(learned, memory=told), counts)[1]
    elements = next(c.elements for c in after if c.template == place)
    raised = {(c.template, c.elements): c.probability for c in after}
    assert raised[place, elements] > 2.0 * of[place, elements]
    assert sum(raised.values()) == pytest.approx(1.0, abs=1e-4)


def test_training_leaves_a_crystal_s_own_entry_out(learned) -> None:
    some, _ = ranked(learned, {11: 1, 17: 1})
    candidates = learned.candidates(bundled_templates(), some)
    own = len(candidates.rows) // 2
    elements = candidates.remembered[own][None]
    with_it, without = (learned.network(elements, candidates, x) for x in (None, torch.tensor([own])))
    row = int(candidates.rows[own])
    assert without[0, row, 0] < with_it[0, row, 0]
    others = torch.arange(len(some)) != row
    assert torch.equal(without[0, others], with_it[0, others])
    fewer = forgotten(candidates, own)
    assert torch.allclose(learned.network(elements, fewer), without, atol=1e-5)


def forgotten(candidates, own: int):
    kept = torch.arange(len(candidates.rows)) != own
    return replace(candidates, remembered=candidates.remembered[kept], rows=candidates.rows[kept])


def test_a_file_without_a_memory_is_read_as_before(learned, tmp_path) -> None:
    sizes = replace(learned.network.sizes, kernel=0)
    old = Arrangements(ArrangementNetwork(sizes).eval(), learned.positions, learned.bases)
    path = tmp_path / FILE
    save_arrangements(old, path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["about"])
    about["sizes"] = about["sizes"][:3]
    save_file(state, path, {"format": "crystalsmith-arrangements-1", "about": json.dumps(about)})
    again = load_arrangements(path)
    assert again.network.memory is None
    assert len(ranked(again, {11: 1, 17: 1})[1]) > 5


@pytest.mark.parametrize("name", ["remembered.shapes", "remembered.elements", "remembered.templates"])
def test_a_damaged_memory_is_named(learned, tmp_path, name) -> None:
    path = tmp_path / FILE
    save_arrangements(learned, path)
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(state | {name: state[name][:-1].contiguous()}, path, metadata)
    with pytest.raises(InputError, match="what it remembers"):
        load_arrangements(path)
