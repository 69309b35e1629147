"""Lessons: what is shown to the model, when, and that a run which is cut off anywhere ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.discovery.test_loop import told

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.store import save_model
from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.data.prepare import prepare
from crystalsmith.discovery import learning, lessons
from crystalsmith.discovery.candidate import Candidate, Lesson, State
from crystalsmith.discovery.learning import (
    Own,
    Teacher,
    distinct,
    element_shares,
    found_by,
    guarded,
    learnable,
    sensible,
)
from crystalsmith.discovery.ledger import LEDGER, Folder
from crystalsmith.discovery.run import discover, sentence
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.elements import NUMBERS, SYMBOLS
from crystalsmith.errors import InputError
from crystalsmith.formats import extxyz_frame
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import GemNetDenoiser
from crystalsmith.training.state import FILE, load_state, save_state

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
ALLOWED = [NUMBERS[m] for m in METALS]


def alloy(a: str, b: str, edge: float = 4.0):
    frac = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    return frac, np.diag([edge / 2**0.5, edge / 2**0.5, edge]), np.array([NUMBERS[a], NUMBERS[b]])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty alloys with made-up energies, thirty of them to train on."""
    rng, place = np.random.default_rng(0), tmp_path_factory.mktemp("real")
    frames = []
    for k in range(40):
        a, b = rng.choice(METALS, 2, replace=False)
        info = {"id": f"r{k}", "split": "train" if k < 30 else "val", "energy_above_hull": float(0.01 * (k % 7))}
        frames.append(extxyz_frame(*alloy(a, b, 3.7 + 0.01 * k), info))
    (place / "real.extxyz").write_text("".join(frames))
    prepare(place / "real.extxyz", place / "data", progress=False, jobs=1)
    return place / "data"


@pytest.fixture(scope="module")
def pupil(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, which knows the energy above the hull."""
    base = load_model(untrained)
    torch.manual_seed(1)
    conditions = (ConditionConfig("energy_above_hull"),)
    network = GemNetDenoiser(dataclasses.replace(base.network.config, conditions=conditions))
    network.load_state_dict(base.network.state_dict(), strict=False)
    facts = {"energy_above_hull": {"kind": "scalar", "unit": "eV/atom", "min": 0.0, "max": 0.6}}
    folder = tmp_path_factory.mktemp("models") / "pupil"
    metadata = dataclasses.replace(base.metadata, name="pupil", properties=facts)
    save_model(Model(network, base.process, metadata), folder, "# For tests\n")
    return folder


@pytest.fixture
def taught(wish: Wish, pupil: Path, real: Path) -> Wish:
    """A lesson of four updates after each three relaxations."""
    return replace(wish, model=str(pupil), learn=str(real), learn_every=3, learn_updates=4)


@pytest.fixture
def finished(tmp_path: Path, taught: Wish, limits: Limits) -> Path:
    said: list[str] = []
    discover(tmp_path / "run", taught, limits, tell=said.append)
    assert sum(text.startswith("lesson") for text in said) == 2
    return tmp_path / "run"


def test_lessons_come_after_so_many_relaxations_and_the_taught_model_proposes(finished: Path, pupil: Path) -> None:
    state = Folder.open(finished).state()
    assert [lesson.relaxations for lesson in state.lessons] == [3, 6]
    for candidate in state.candidates.values():
        assert candidate.lesson == sum(lesson.round <= candidate.round for lesson in state.lessons)
    for number in (1, 2):
        model, before = load_model(finished / "models" / f"{number:03d}" / "last"), load_model(pupil)
        assert any(
            not torch.equal(a, b) for a, b in zip(model.network.parameters(), before.network.parameters(), strict=True)
        )
    assert not list((finished / "models").glob("*data*"))  # what it was taught with is in the ledger
    assert "Lessons" in (finished / "discover.html").read_text()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_off_anywhere_it_ends_as_an_undisturbed_run(finished: Path, tmp_path: Path, share: float) -> None:
    whole = (finished / LEDGER).read_bytes()
    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    (cut / LEDGER).write_bytes(whole[: int(share * len(whole))])
    if share < 0.9:  # models of the future, as if killed between a lesson and its line
        shutil.rmtree(cut / "models" / "002")
    discover(cut, None, Limits())
    assert told(cut) == told(finished)


def test_a_signal_in_a_lesson_ends_the_run_and_the_lesson_goes_on(
    tmp_path: Path, taught: Wish, limits: Limits, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from crystalsmith.training import run as training

    trained = training.train

    def struck(*args, **kwargs):
        monkeypatch.setattr(training, "train", trained)
        recipe = replace(args[2], limits=replace(args[2].limits, max_steps=4))
        kept = training.stop_on_signals

        class Struck:
            def __enter__(self):
                self.block = kept()
                asked = self.block.__enter__()
                os.kill(os.getpid(), signal.SIGTERM)
                return asked

            def __exit__(self, *error):
                return self.block.__exit__(*error)

        with monkeypatch.context() as patch:
            patch.setattr(training, "stop_on_signals", Struck)
            return trained(args[0], args[1], recipe, **kwargs)

    monkeypatch.setattr(training, "train", struck)
    summary = discover(tmp_path / "struck", taught, limits)
    assert (summary.status, summary.exit_code) == ("stopped", 143)
    assert not Folder.open(tmp_path / "struck").state().lessons
    discover(tmp_path / "struck", None, Limits())
    assert told(tmp_path / "struck") == told(finished)


def test_real_crystals_are_half_at_least_of_what_a_lesson_shows(
    tmp_path: Path, taught: Wish, finished: Path, pupil: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    opened = SimpleNamespace(rmtree=lambda path, **_: seen.append(CrystalDataset.open(path)))
    monkeypatch.setattr(learning, "shutil", opened)
    state = Folder.open(finished).state()
    state.lessons.clear()
    teacher = Teacher(tmp_path / "again", taught, str(pupil), load_model(pupil), None, ALLOWED, torch.device("cpu"))
    facts = teacher.teach(state)
    assert facts is not None
    names = [name.decode() for name in seen[0].ids[seen[0].rows("train")].tolist()]
    assert sum(name.startswith("real") for name in names) == facts["real"] >= len(names) / 2
    assert len(names) - facts["real"] >= facts["own"] > 0


def test_the_guards() -> None:
    def own(a: str, b: str, energy: float, edge: float = 4.0, new: bool = True) -> Own:
        return Own(f"{a}{b}{edge}", alloy(a, b, edge), energy, new)

    assert [sensible(e, f) for e, f in ((0.0, 1.0), (-0.2, 1.0), (1.6, 1.0), (0.0, 20.0))] == [
        True,
        False,
        False,
        False,
    ]
    same = [own("Al", "Ni", 0.3, 4 + 0.1 * k) for k in range(5)]
    assert len(guarded(same, None)) == 3  # of a composition
    assert not guarded([own("Al", "Xe", 0.0), own("Tc", "Ni", 0.0)], None)
    assert not guarded([own("Al", "Ni", 0.01, new=False)], None)
    assert guarded([own("Al", "Ni", 0.2, new=False)], None)
    share = np.zeros(119)
    share[[NUMBERS[m] for m in METALS]] = 0.1
    pairs = [("Al", b) for b in METALS[1:]] * 3 + [("Pd", b) for b in METALS[:3]]
    near = [own(a, b, 0.06, 4 + 0.01 * k) for k, (a, b) in enumerate(pairs)]
    kept = guarded(near, share)
    most = 1.4 * 0.75 * 0.1 * len(near) + 5
    assert len(kept) < len(guarded(near, None))
    assert sum(NUMBERS["Al"] in one.elements for one in kept) <= most + 1
    assert own("Al", "Ni", 0.01).weight == 2


def test_shares_of_elements_are_of_crystals_that_the_run_could_make(real: Path, monkeypatch) -> None:
    data = CrystalDataset.open(real)
    assert element_shares(data, ALLOWED) is None  # thirty are too few
    monkeypatch.setattr(learning, "FEW", 5)
    shares = element_shares(data, ALLOWED)
    assert shares is not None
    assert shares.sum() == pytest.approx(2.0)  # each holds two
    assert element_shares(data, [NUMBERS["Al"]]) is None


def test_what_is_known_broken_or_a_copy_is_not_shown(finished: Path) -> None:
    state = Folder.open(finished).state()
    names = {one.name.removesuffix("-relaxed") for one in found_by(state, None)}
    assert names
    for candidate in state.candidates.values():
        if candidate.dropped in ("known", "duplicate", "exploded", "not_matched"):
            assert candidate.name not in names


def test_near_copies_teach_nothing_twice(real: Path) -> None:
    data = CrystalDataset.open(real)
    row = int(data.rows("val")[0])
    a, b = (SYMBOLS[z - 1] for z in next(iter(data.batch([row]).crystals()))[2])
    copy = Own("copy", alloy(a, b, 3.9), 0.3, True)  # of a validation crystal: the matcher scales
    one, near, far = (Own(f"n{k}", alloy("Fe", "Co", 4.0 + k / 10), e, True) for k, e in enumerate((0.1, 0.11, 0.2)))
    assert [x.name for x in distinct([far, near, one, copy], data)] == ["n0", "n2"]


def test_what_the_run_denies_and_the_model_does_not_make_is_not_shown(taught: Wish, pupil: Path) -> None:
    model = load_model(pupil)
    wish = replace(taught, steering={"deny": "Pd", "deny_list": "radioactive", "allow": "Al,Ni,Pd"})
    shown = learnable(wish, model)
    assert NUMBERS["Pd"] not in shown
    assert NUMBERS["Pm"] not in shown
    assert {NUMBERS["Al"], NUMBERS["O"]} <= shown <= set(model.metadata.elements)
    assert learnable(replace(taught, steering={}), model) == set(model.metadata.elements)


def test_denied_elements_are_in_no_crystal_of_a_lesson(
    tmp_path: Path, taught: Wish, finished: Path, pupil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(learning, "shutil", SimpleNamespace(rmtree=lambda path, **_: seen.append(path)))
    state = Folder.open(finished).state()
    state.lessons.clear()
    wish = replace(taught, steering={"allow": ",".join(METALS), "deny": "Al,Au"})
    allowed = [z for z in ALLOWED if z not in (NUMBERS["Al"], NUMBERS["Au"])]
    for candidate in state.candidates.values():  # as a run with this wish would have found them
        if candidate.raw is not None and not set(candidate.raw[2].tolist()) <= set(allowed):
            candidate.dropped = "duplicate"
    teacher = Teacher(tmp_path / "again", wish, str(pupil), load_model(pupil), None, allowed, torch.device("cpu"))
    facts = teacher.teach(state)
    assert facts is not None
    data = CrystalDataset.open(seen[0])
    assert not set(data.atomic_numbers.tolist()) & {NUMBERS["Al"], NUMBERS["Au"]}
    assert load_model(teacher.model(1)).metadata.elements == load_model(pupil).metadata.elements


class Killed(BaseException):
    """Nothing catches it, and nothing is saved after it."""


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something once, after a step of the next training."""
    from crystalsmith.training.loop import Loop

    after = Loop._after_step

    def then(self: Loop) -> None:
        after(self)
        if self.step == step:
            monkeypatch.setattr(Loop, "_after_step", after)
            act()

    monkeypatch.setattr(Loop, "_after_step", then)


def kill() -> None:
    raise Killed


def test_a_kill_in_the_middle_of_a_lesson_changes_nothing(
    tmp_path: Path, taught: Wish, limits: Limits, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    after_step(monkeypatch, 2, kill)
    with pytest.raises(Killed):
        discover(out, taught, limits)
    assert (out / "models" / "001" / "recipe.yaml").is_file()
    assert not Folder.open(out).state().lessons
    after_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert discover(out, None, Limits()).exit_code == 143
    assert load_state(out / "models" / "001" / FILE)[1]["step"] == 3
    discover(out, None, Limits())
    assert told(out) == told(finished)


def test_what_another_lesson_left_is_not_taken_for_this_one(
    tmp_path: Path, taught: Wish, limits: Limits, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power the ledger may be older than the models; the lesson is then begun anew."""
    out = tmp_path / "struck"
    after_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    discover(out, taught, limits)
    state = out / "models" / "001" / FILE
    tensors, numbers = load_state(state)
    save_state(state, tensors, numbers | {"data": "0" * 64})
    discover(out, None, Limits())
    assert told(out) == told(finished)


def test_a_run_goes_on_with_its_own_models_and_data(finished: Path, tmp_path: Path, real: Path) -> None:
    place = finished / "models" / "002" / "last" / "model.safetensors"
    weights = place.read_bytes()
    place.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is not the model that lesson 2 gave"):
        discover(finished, None, Limits(relaxations=20))
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["learn"]["data"] = "0" * 64
    (finished / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="begun with other data than"):
        discover(finished, None, Limits(relaxations=20))


def test_the_yield_before_and_after_is_of_equally_many_relaxations() -> None:
    state = State(lessons=[Lesson(1, 5, {"own": 4, "real": 12})])
    for lesson, verdicts in enumerate(("10100", "110")):
        state.chosen[lesson] = []
        for won in verdicts:
            number = len(state.candidates)
            one = Candidate(number, lesson, {"source": "free"}, stage="accepted" if won == "1" else "judged")
            one.lesson, one.values["estimated_above_hull"] = lesson, 0.05 if won == "1" else 0.4
            one.history = [(stage, float(number), 1.0) for stage in ("proposed", "estimated", "relaxed")]
            state.candidates[number] = one
            state.chosen[lesson].append(number)
    state.candidates[99] = Candidate(99, 1, {"source": "known:0"}, stage="accepted", lesson=1)
    first, second = lessons.taught(state, 0.1)
    assert (first.relaxed, first.accepted, first.promising, first.budget) == (5, 2, 2, 0)
    assert (second.relaxed, second.accepted, second.budget, second.before, second.after) == (3, 2, 3, 1, 2)
    told = "lesson 1: 2 of the first 3 relaxations after it accepted, 1 of the last 3 before"
    assert lessons.changed([first, second]) == told
    assert lessons.taught(State(), 0.1) == []
    assert lessons.changed([]) == ""


def test_a_run_says_what_its_lessons_changed(finished: Path) -> None:
    summary = discover(finished, None, Limits())
    state = Folder.open(finished).state()
    assert [one.lesson for one in summary.taught] == [0, 1, 2]
    made = [c for c in state.candidates.values() if c.plan["source"] != "known:0"]
    assert sum(one.proposed for one in summary.taught) == len(made)
    assert lessons.changed(summary.taught) in sentence(summary)
    assert asdict(summary)["taught"][1]["lesson"] == 1


def test_lessons_that_cannot_be_given_are_refused(tmp_path: Path, taught: Wish, untrained: Path, real: Path) -> None:
    limits = Limits(relaxations=3)
    for wish, match in (
        (replace(taught, model=str(untrained)), "does not; take taught-tiny"),
        (replace(taught, plain=True), "without learning"),
        (replace(taught, learn_every=0), "--learn-every is 0"),
        (replace(taught, learn=str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(InputError, match=match):
            discover(tmp_path / "run", wish, limits)
        assert not (tmp_path / "run").exists()  # so that the mended command can be given
    bare = tmp_path / "bare"
    (tmp_path / "bare.extxyz").write_text(extxyz_frame(*alloy("Al", "Ni"), {"id": "a", "split": "train"}))
    prepare(tmp_path / "bare.extxyz", bare, progress=False, jobs=1)
    with pytest.raises(InputError, match="has no label energy_above_hull"):
        discover(tmp_path / "run", replace(taught, learn=str(bare)), limits)
