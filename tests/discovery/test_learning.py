"""Lessons: what is shown to the model, when, and that a run which is cut off anywhere ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
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
from crystalsmith.discovery import learning
from crystalsmith.discovery.learning import Own, Teacher, element_shares, found_by, guarded, sensible
from crystalsmith.discovery.ledger import LEDGER, Folder
from crystalsmith.discovery.run import discover
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.elements import NUMBERS
from crystalsmith.errors import InputError
from crystalsmith.formats import extxyz_frame
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import GemNetDenoiser

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


def test_lessons_that_cannot_be_given_are_refused(tmp_path: Path, taught: Wish, untrained: Path, real: Path) -> None:
    limits = Limits(relaxations=3)
    for wish, sentence in (
        (replace(taught, model=str(untrained)), "does not; take taught-tiny"),
        (replace(taught, plain=True), "without learning"),
        (replace(taught, learn_every=0), "--learn-every is 0"),
        (replace(taught, learn=str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(InputError, match=sentence):
            discover(tmp_path / "run", wish, limits)
        assert not (tmp_path / "run").exists()  # so that the mended command can be given
    bare = tmp_path / "bare"
    (tmp_path / "bare.extxyz").write_text(extxyz_frame(*alloy("Al", "Ni"), {"id": "a", "split": "train"}))
    prepare(tmp_path / "bare.extxyz", bare, progress=False, jobs=1)
    with pytest.raises(InputError, match="has no label energy_above_hull"):
        discover(tmp_path / "run", replace(taught, learn=str(bare)), limits)
