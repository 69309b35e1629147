"""Every file of ours that is read again, mutated some hundred times: an answer or a sentence, no traceback, no hang."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalsmith.errors import InputError

MOST_SECONDS = 10.0
FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2, 300, 2.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), 2**40, 10**30, 10**5000),
    *("", "x", "x" * 5000, "1", "\ud800", "nan", [], {}, [[]], [1], [[[1]]], ["x"], {"a": 1}, {"1": 1}, {"-1": 2}),
]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def places(tree: Any, at: tuple = ()) -> Iterator[tuple]:
    """The paths of all values of plain data."""
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


def mutated(tree: Any, draw: Callable[[Any], Any]) -> Any:
    """Plain data with one or two values replaced or left out."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(list(places(tree))))
        value = copy.deepcopy(draw(st.sampled_from([*ODD, deep(60)])))  # a second mutation may change it
        if not at:
            if draw(st.booleans()):
                return value
            continue
        parent = tree
        for key in at[:-1]:
            parent = parent[key]
        if draw(st.integers(0, 3)) == 0:
            del parent[at[-1]]
        else:
            parent[at[-1]] = value
    return tree


def dumped(tree: Any) -> bytes:
    import sys

    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(tree).encode()
    finally:
        sys.set_int_max_str_digits(4300)


def damaged(content: bytes, draw: Callable[[Any], Any]) -> bytes:
    """Bytes cut short, or with some of them changed."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def told(read: Callable[[], Any]) -> str:
    """The sentence of a refusal, or nothing; anything else than an InputError comes through, and so does slowness."""
    began = time.monotonic()
    said = ""
    try:
        read()
    except InputError as error:
        said = str(error)
    assert time.monotonic() - began < MOST_SECONDS
    assert "Traceback" not in said
    assert len(said) < 4000
    return said


def fuzzed_json(file: Path, read: Callable[[], Any]) -> None:
    """Mutate a JSON file in all ways and read it; as it was, it must be readable."""
    original = file.read_bytes()
    assert told(read) == ""
    tree = json.loads(original)
    refused: list[bool] = []

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        if data.draw(st.integers(0, 4)) == 0:
            file.write_bytes(damaged(original, data.draw))
        else:
            file.write_bytes(dumped(mutated(tree, data.draw)))
        refused.append(bool(told(read)))

    try:
        attempt()
    finally:
        file.write_bytes(original)
    assert sum(refused) > 0.3 * len(refused)


def test_config_of_a_model(untrained, tmp_path) -> None:
    from crystalsmith.checkpoints.facts import model_facts
    from crystalsmith.checkpoints.store import read_model
    from crystalsmith.generation.making import make_request

    folder = shutil.copytree(untrained, tmp_path / "model")

    def read() -> None:
        make_request(read_model(folder), num=2)
        model_facts(folder)

    fuzzed_json(folder / "config.json", read)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Path:
    from crystalsmith.checkpoints.predictor import Predictor, PredictorFacts, save_predictor
    from crystalsmith.network.gemnet import GemNetConfig
    from crystalsmith.network.predictor import PropertyNetwork

    torch.manual_seed(0)
    sizes = GemNetConfig(
        width=16, num_blocks=1, cutoff=5.0, max_neighbors=8, num_radial=16, width_triplet=8, width_bilinear=8
    )
    facts = PredictorFacts("band_gap", "scalar", "eV", 1.0, 2.0, (11, 17), {"crystals": 3, "steps": 1})
    folder = tmp_path_factory.mktemp("predictor")
    save_predictor(Predictor(PropertyNetwork(sizes), facts), folder)
    return folder


def test_config_of_a_predictor(predictor) -> None:
    from crystalsmith.checkpoints.predictor import load_predictor

    crystal = (np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4.0 * np.eye(3), np.array([11, 17]))
    whole = load_predictor(predictor).network.config

    def read() -> None:
        found = load_predictor(predictor)
        assert len(found.note) < 100_000
        if found.network.config == whole:
            found([crystal])

    fuzzed_json(predictor / "config.json", read)


@pytest.mark.parametrize("kind", ["model", "predictor"])
def test_weights_of_another_type_are_refused(untrained, predictor, tmp_path, kind) -> None:
    from safetensors.torch import load_file, save_file

    from crystalsmith.checkpoints.predictor import load_predictor
    from crystalsmith.checkpoints.store import read_model

    source, load = (untrained, read_model) if kind == "model" else (predictor, load_predictor)
    folder = shutil.copytree(source, tmp_path / "copy")
    # Copies, as the file is written over and older safetensors leave what was loaded a window on it.
    state = {key: x.clone() for key, x in load_file(folder / "model.safetensors").items()}
    name = next(key for key, x in state.items() if x.is_floating_point() and x.numel() > 4)
    for dtype in (torch.int64, torch.int8, torch.bool):
        save_file({**state, name: torch.ones(state[name].shape, dtype=dtype)}, folder / "model.safetensors")
        with pytest.raises(InputError, match=r"holds numbers of type"):
            load(folder)
    save_file({**state, name: state[name].half()}, folder / "model.safetensors")
    load(folder)


@pytest.fixture(scope="module")
def run_folder(conditional, tmp_path_factory) -> Path:
    """A generation run with everything that its manifest can hold."""
    from crystalsmith.generation.run import Options, generate
    from crystalsmith.generation.steering import Steering

    out = tmp_path_factory.mktemp("run") / "out"
    wanted = Steering(properties=["band_gap=1..3", "chemical_system=Na-Cl"], formula="NaCl", space_group="any")
    generate(out, Options(model=str(conditional), num=2, steps=2, batch_size=2, device="cpu", steering=wanted))
    return out


def test_manifest_of_a_generation(run_folder, conditional) -> None:
    from crystalsmith.evaluation.structures import read_samples
    from crystalsmith.generation.folder import MEND, OutputFolder
    from crystalsmith.generation.request import Request

    kept = {file: file.read_bytes() for file in run_folder.iterdir() if file.is_file()}

    def read() -> None:
        try:
            folder = OutputFolder.open(run_folder)
            Request.read(folder.manifest["settings"], "manifest.json", MEND)
            folder.recover()
        finally:
            manifest = (run_folder / "manifest.json").read_bytes()
            for file, content in kept.items():
                file.write_bytes(content if file.name != "manifest.json" else manifest)

    fuzzed_json(run_folder / "manifest.json", read)
    fuzzed_json_of_samples(run_folder, read_samples)


def fuzzed_json_of_samples(folder: Path, read_samples) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for settings_ in (5, [], {"num": 10**9}, {"num": 2**70}, {"num": "x"}, {"num": None}, {"num": True}):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"settings": settings_}))
        told(lambda: read_samples(folder))
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    from tests.evaluation.conftest import write_cifs, write_hull

    from crystalsmith.evaluation.reference.build import build_reference

    place = tmp_path_factory.mktemp("reference")
    cifs, hull = write_cifs(place / "cifs", ["nacl", "mgo"]), write_hull(place / "hull.csv")
    build_reference([cifs], place / "ref", hull=hull, corrections="none")
    return place / "ref"


def use_reference(folder: Path) -> None:
    from crystalsmith.cli.reference import _sentences
    from crystalsmith.evaluation.reference.known import Reference

    found = Reference.open(folder)
    if found.num_entries:
        found.hull.distance({11: 1.0, 17: 1.0}, -1.0)
    list(found.same_formula(np.array([11, 17])))
    assert _sentences(found.manifest)


def test_manifest_of_a_reference(reference) -> None:
    fuzzed_json(reference / "manifest.json", lambda: use_reference(reference))


@pytest.mark.parametrize(
    "name", ["offsets", "cell", "frac_coords", "ids", "hull_offsets", "hull_elements", "hull_energies"]
)
def test_arrays_of_a_reference(reference, name) -> None:
    file = reference / f"{name}.npy"
    array = np.load(file)
    try:
        other = np.zeros(array.shape, dtype="c16")
        for bad in (array[:-1], array[:0], array.reshape(1, -1), other, np.zeros(3, dtype=bool)):
            np.save(file, bad)
            assert told(lambda: use_reference(reference))
    finally:
        np.save(file, array)


HEADERS = [
    "{'descr': '<f8', 'shape': (3,",
    "('" * 50,
    "{'descr': [(1, 2)], 'fortran_order': False, 'shape': (3,), }",
    "(" * 5000,
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_of_an_array_is_one_sentence(reference, dataset_folder, header) -> None:
    """NumPy parses it as Python text, which fails in more ways than a wrong value."""
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.data.sites import FILE, find_sites, open_sites

    text = header.encode() + b"\n"
    broken = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)
    file = reference / "cell.npy"
    whole = file.read_bytes()
    try:
        file.write_bytes(broken)
        assert told(lambda: use_reference(reference))
    finally:
        file.write_bytes(whole)
    dataset = CrystalDataset.open(dataset_folder)
    find_sites(dataset, jobs=1)
    with zipfile.ZipFile(dataset_folder / FILE) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(dataset_folder / FILE, "w") as archive:
        for name in parts:
            archive.writestr(name, broken)
    assert told(lambda: open_sites(dataset))
    (dataset_folder / "cell.npy").write_bytes(broken)
    assert told(lambda: CrystalDataset.open(dataset_folder).batch([0]))


def test_manifest_of_a_data_set(dataset_folder) -> None:
    from crystalsmith.cli.data import info
    from crystalsmith.data.dataset import CrystalDataset

    def read() -> None:
        CrystalDataset.open(dataset_folder).batch([0, 1])
        info(dataset_folder, verify=False, as_json=False)

    manifest = json.loads((dataset_folder / "manifest.json").read_text())
    counts = dict.fromkeys(
        ("atoms", "split_from_hash", "folded", "left_handed", "duplicate_ids", "duplicate_crystals"), 0
    )
    rules = {"elements": None, "max_atoms": 20, "max_energy_above_hull": None, "primitive": True, "niggli": True}
    manifest |= {"counts": manifest["counts"] | counts, "settings": rules, "statistics_over": "all"}
    reading = {"kind": "none", "numbers": 1, "odd": 2, "read": 0, "example": "x", "why": "left out"}
    manifest |= {"columns": {"gap": reading}, "columns_left_out": {"z": "no"}}
    (dataset_folder / "manifest.json").write_text(json.dumps(manifest))
    fuzzed_json(dataset_folder / "manifest.json", read)


def test_symmetry_of_a_data_set(dataset_folder) -> None:
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.data.sites import FILE, TEMPLATES, find_sites, open_sites
    from crystalsmith.symmetry.wyckoff import read_templates

    dataset = CrystalDataset.open(dataset_folder)
    find_sites(dataset, jobs=1)
    original = (dataset_folder / FILE).read_bytes()

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        (dataset_folder / FILE).write_bytes(damaged(original, data.draw))
        told(lambda: open_sites(dataset))

    attempt()
    (dataset_folder / FILE).write_bytes(original)
    with np.load(dataset_folder / FILE) as arrays:
        whole = dict(arrays)
    for name in whole:
        for bad in (whole[name][:-1], whole[name].astype("S4"), whole[name][:, None]):
            np.savez(dataset_folder / FILE, **{**whole, name: bad})
            assert told(lambda: open_sites(dataset))
    fuzzed_json(dataset_folder / TEMPLATES, lambda: read_templates(dataset_folder / TEMPLATES))


def test_relaxations(tmp_path) -> None:
    from crystalsmith.evaluation.potential.relaxation import recover
    from crystalsmith.evaluation.potential.relaxed import Relaxation, Relaxed

    file = tmp_path / "relaxed.jsonl"
    recover(file, Relaxation(), resume=False)
    good = Relaxed(
        "a", "k", "", "", -1.0, -0.9, [[0.0] * 3] * 2, np.eye(3).tolist(), [11, 17], [[0.0] * 3] * 2, [0.0] * 6
    )
    head, tree = file.read_bytes(), json.loads(json.dumps(dataclasses.asdict(good)))
    file.write_bytes(head + dumped(tree) + b"\n")
    assert recover(file, Relaxation(), resume=True)[0].arrays[0].shape == (2, 3)

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        first = dumped(mutated(json.loads(head), data.draw)) + b"\n" if data.draw(st.integers(0, 4)) == 0 else head
        file.write_bytes(first + dumped(mutated(tree, data.draw)) + b"\n")
        told(lambda: [r.arrays for r in recover(file, Relaxation(), resume=True) if not r.failure])

    attempt()


def test_metrics_in_a_report(reference, tmp_path) -> None:
    from tests.evaluation.conftest import write_cifs

    from crystalsmith.cli.report import report
    from crystalsmith.evaluation.run import Options, evaluate

    cifs = write_cifs(tmp_path / "cifs", ["nacl", "nacl-dense"])
    evaluate(cifs, tmp_path / "out", Options(reference))
    fuzzed_json(tmp_path / "out" / "metrics.json", lambda: report([tmp_path / "out"], tmp_path / "compare.html"))


def test_recipes(tmp_path) -> None:
    import yaml

    from crystalsmith.training.config import bundled_recipes, load_recipe

    original = next(iter(bundled_recipes().values())).read_bytes()
    tree, file = yaml.safe_load(original), tmp_path / "recipe.yaml"
    file.write_bytes(original)
    assert told(lambda: load_recipe(file)) == ""

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        way = data.draw(st.integers(0, 2))
        text = damaged(original, data.draw) if way == 0 else dumped(mutated(tree, data.draw))  # JSON is YAML
        file.write_bytes(data.draw(st.text()).encode("utf-8", "replace") if way == 1 else text)
        told(lambda: load_recipe(file))

    attempt()
    bomb = "a: &a [x, x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
    )
    for text in (bomb, "[" * 50_000, "{a: " * 50_000, "- " * 50_000, "a: !!python/object/apply:os.system [ls]"):
        file.write_text(text)
        assert told(lambda: load_recipe(file))


@pytest.mark.parametrize("reader", ["sizes", "compositions", "targets"])
def test_tables_of_a_request(tmp_path, reader) -> None:
    from crystalsmith.generation.compositions import make_compositions
    from crystalsmith.generation.num_atoms import read_histogram
    from crystalsmith.generation.targets import table_columns

    file = tmp_path / "table.csv"
    text, read = {
        "sizes": ("atoms,weight\n4,0.5\n8,0.25\n", lambda: read_histogram(file)),
        "compositions": (
            "id,formula,num_atoms\na,NaCl,2\nb,MgO,4\n",
            lambda: make_compositions(str(file), range(1, 101)),
        ),
        "targets": ("band_gap,space_group\n1.5,225\n2,\n", lambda: table_columns(file)),
    }[reader]
    file.write_text(text)
    assert told(read) == ""
    cells = ["9" * 5000, "1e999", "-1", "\0", '"', "NaCl" * 300, "Na1e99", "", "x" * 70_000, "=1+1", "1,5", "²"]

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            file.write_bytes(damaged(text.encode(), data.draw))
        else:
            rows = [line.split(",") for line in text.splitlines()]
            rows[data.draw(st.integers(0, 2))][data.draw(st.integers(0, 1))] = data.draw(st.sampled_from(cells))
            file.write_text("\n".join(",".join(row) for row in rows))
        told(read)

    attempt()


def test_learned_arrangements(tmp_path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from crystalsmith.checkpoints.arrangements import FILE, load_arrangements
    from crystalsmith.symmetry.wyckoff import TABLES

    source, file = TABLES / FILE, tmp_path / FILE
    with safe_open(source, framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    state = {name: x[:1].clone() if x.ndim else x for name, x in load_file(source).items()}

    @settings(FUZZ, max_examples=60)
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        text = dumped(mutated(about, data.draw)).decode("utf-8", "replace")
        save_file(state, file, metadata={"format": "crystalsmith-arrangements-1", "about": text})
        assert told(lambda: load_arrangements(file))

    attempt()


def test_a_run_of_discover(tmp_path) -> None:
    from crystalsmith.discovery.ledger import LEDGER, MANIFEST, Folder
    from crystalsmith.discovery.wish import Limits, Wish

    folder = Folder.create(tmp_path / "run", Wish(), Limits(want=3), {"model": {"source": "mp20-tiny"}})
    crystal = {"frac": [[0.0] * 3] * 2, "cell": np.eye(3).tolist(), "numbers": [11, 17]}
    plan = {"source": "templates", "seed": 0}
    for line in (
        {"stage": "proposed", "number": 0, "round": 0, "plan": plan, "at": 0.5, "seconds": 0.1, "crystal": crystal},
        {"stage": "screened", "number": 0, "at": 0.6, "values": {"novel": True}},
        {"stage": "estimated", "number": 0, "at": 0.7, "values": {"energy_above_hull": 0.01}},
        {"stage": "choice", "round": 0, "numbers": [0], "chances": {"0": 0.5}, "at": 0.7},
        {"stage": "relaxed", "number": 0, "at": 1.7, "seconds": 1.0, "crystal": crystal},
    ):
        folder.add(line)

    def manifest() -> None:
        again = Folder.open(tmp_path / "run")
        assert again.wish.tests is not None
        assert again.limits.raised(Limits()) is not None

    fuzzed_json(tmp_path / "run" / MANIFEST, manifest)
    ledger = tmp_path / "run" / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert Folder.open(tmp_path / "run").state().relaxations == 1
    refused: list[bool] = []

    @FUZZ
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(lines) - 1))
        changed = dumped(mutated(json.loads(lines[place]), data.draw)) + b"\n"
        ledger.write_bytes(b"".join([*lines[:place], changed, *lines[place + 1 :]]))
        refused.append(bool(told(lambda: Folder.open(tmp_path / "run").state())))

    attempt()
    assert sum(refused) > 0.2 * len(refused)


def test_shares_of_an_evaluation(tmp_path) -> None:
    from crystalsmith.evaluation.shares import RECORD, begin_share
    from crystalsmith.shards import Shard

    shard, lineage = Shard(0, 2), {"input": ["a", None], "way of relaxing": {"fmax": 0.05}}
    begin_share(tmp_path, shard, lineage, "crystalsmith evaluate x --shard 0/2")
    fuzzed_json(shard.folder(tmp_path) / RECORD, lambda: begin_share(tmp_path, shard, lineage, "c"))
