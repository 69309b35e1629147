"""Laws of whole runs: they learn, they resume bit for bit, and how a batch is cut does not matter."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

from crystalsmith.checkpoints.find import load_model
from crystalsmith.errors import InputError
from crystalsmith.training.config import Recipe, save_recipe
from crystalsmith.training.loop import Loop, Outcome
from crystalsmith.training.run import resume_recipe, train
from crystalsmith.training.state import FILE, load_state

Settings = dict[str, Any]
CLOCK = ("seconds", "crystals_per_second", "data_wait")


def merged(base: Settings, **sections: Any) -> Recipe:
    """The recipe with some sections' settings replaced."""
    changed = {
        name: {**base.get(name, {}), **value} if isinstance(value, dict) else value for name, value in sections.items()
    }
    return Recipe.from_dict({**base, **changed})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_state(run / FILE)[0]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process SIGTERM when the given step is done."""
    show = Loop._show

    def wrapped(self: Loop) -> None:
        show(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_show", wrapped)


def test_a_run_leaves_logs_models_card_and_recipe(dataset_folder: Path, small_recipe: Settings, tmp_path: Path) -> None:
    recipe = merged(small_recipe, ema={"decay": 0.9}, card={"notes": "Please cite the random numbers."})
    outcome = train(dataset_folder, tmp_path / "run", recipe, quiet=True)
    assert (outcome.interrupted, outcome.step, outcome.crystals) == (False, 6, 48)
    log = rows(tmp_path / "run" / "log.csv")
    assert [int(row["step"]) for row in log] == [2, 3, 4, 6]
    assert [bool(row["val_total"]) for row in log] == [False, True, False, True]
    bins = rows(tmp_path / "run" / "val_bins.csv")
    assert [int(row["step"]) for row in bins] == [3] * 5 + [6] * 5
    assert sum(int(row["crystals"]) for row in bins) == 12
    for name in ("best", "last"):
        model = load_model(tmp_path / "run" / name)
        assert model.metadata.elements == (3, 8, 14, 26)
        assert model.process.config.cell_variance is not None
    average = {k.removeprefix("ema.network."): v for k, v in weights(tmp_path / "run").items() if k.startswith("ema.")}
    saved = dict(load_model(tmp_path / "run" / "last").network.named_parameters())
    assert all(torch.equal(saved[name], value) for name, value in average.items())
    card = (tmp_path / "run" / "last" / "card.md").read_text()
    for fact in ("Please cite the random numbers.", "24 train", "48 crystals seen", "species_nll", "decay 0.9"):
        assert fact in card


def test_eight_crystals_are_learnt(make_dataset: Callable[..., Path], small_recipe: Settings, tmp_path: Path) -> None:
    """Cross-entropy of four elements falls below 0.8 nats per atom, where knowing their frequencies alone gives
    ln 4 = 1.39; the total, most of which is noise that nobody can predict in such small crystals, falls by a tenth."""
    recipe = merged(
        small_recipe,
        model={"width": 32},
        optimizer={"lr": 5e-3},
        schedule={"name": "cosine"},
        data={"batch_size": 8, "stratified_times": True},
        clipping={"by": "norm", "limit": 1.0},
        limits={"max_steps": 250},
        output={"log_every_steps": 25},
    )
    train(make_dataset(train=8, max_atoms=4), tmp_path / "run", recipe, quiet=True)
    log = rows(tmp_path / "run" / "log.csv")
    assert float(log[-1]["train_species_nll"]) < 0.8
    assert float(log[-1]["train_total"]) < 0.9 * float(log[0]["train_total"])


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    stop: int, dataset_folder: Path, small_recipe: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch and at its end (3 steps), just before a validation, with EMA and accumulation."""
    recipe = merged(
        small_recipe,
        data={"micro_batch_size": 3, "num_workers": 1, "bucket_batches": 2},
        optimizer={"name": "adamw", "lr": 1e-2, "weight_decay": 0.1},
        schedule={"name": "plateau", "patience": 0, "warmup_steps": 3},
        ema={"decay": 0.9},
        limits={"max_steps": 8},
    )
    train(dataset_folder, tmp_path / "whole", recipe, quiet=True)
    with monkeypatch.context() as patched:
        stop_after(patched, stop)
        outcome = train(dataset_folder, tmp_path / "parts", recipe, quiet=True)
    assert (outcome.interrupted, outcome.step) == (True, stop)
    again = train(dataset_folder, tmp_path / "parts", recipe, resume=True, quiet=True)
    assert (again.interrupted, again.step) == (False, 8)

    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("last", "best"):
        a, b = (load_model(tmp_path / run / name).network.state_dict() for run in ("whole", "parts"))
        assert_equal(a, b)
    whole, parts = (
        [{k: v for k, v in row.items() if k not in CLOCK} for row in rows(tmp_path / run / "log.csv")]
        for run in ("whole", "parts")
    )
    assert whole == parts
    assert rows(tmp_path / "whole" / "val_bins.csv") == rows(tmp_path / "parts" / "val_bins.csv")


def test_a_request_to_stop_within_a_step_discards_the_step(
    dataset_folder: Path, small_recipe: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = merged(small_recipe, data={"micro_batch_size": 2})
    train(dataset_folder, tmp_path / "whole", recipe, quiet=True)
    import crystalsmith.training.loop as loop

    calls, plain = [0], loop.pass_losses

    def counted(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4 * 4 + 2:  # the second of four passes of the fifth step, validation apart
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "pass_losses", counted)
        outcome = train(dataset_folder, tmp_path / "parts", recipe, quiet=True)
    assert (outcome.interrupted, outcome.step) == (True, 4)
    train(dataset_folder, tmp_path / "parts", recipe, resume=True, quiet=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("cut", [{"micro_batch_size": 2}, {"max_atoms_per_batch": 9}, {"on_device": True}])
def test_accumulation_equals_one_big_batch(
    cut: Settings, dataset_folder: Path, small_recipe: Settings, tmp_path: Path
) -> None:
    """Up to the order of float32 sums: gradients of three optimiser steps, seen through the weights."""
    base = merged(small_recipe, optimizer={"lr": 1e-3, "eps": 1e-3}, limits={"max_steps": 3})
    train(dataset_folder, tmp_path / "whole", base, quiet=True)
    cut_recipe = Recipe.from_dict({**base.to_dict(), "data": {**base.to_dict()["data"], **cut}})
    train(dataset_folder, tmp_path / "cut", cut_recipe, quiet=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=2e-6, msg=name)
    a, b = (float(rows(tmp_path / run / "log.csv")[0]["train_total"]) for run in ("whole", "cut"))
    assert a == pytest.approx(b, rel=1e-5)


def test_gradients_that_are_not_finite_are_skipped_and_then_stop_the_run(
    dataset_folder: Path, small_recipe: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import crystalsmith.training.loop as loop

    plain = loop.pass_losses
    bad = {1, 2}

    def poisoned(denoiser: Any, process: Any, one: Any, seed: int, step: int, *dropout: Any) -> Any:
        losses = plain(denoiser, process, one, seed, step)
        if step in bad:
            losses.total.mul_(float("nan"))
        return losses

    monkeypatch.setattr(loop, "pass_losses", poisoned)
    train(dataset_folder, tmp_path / "run", merged(small_recipe), quiet=True)
    assert rows(tmp_path / "run" / "log.csv")[-1]["skipped"] == "2"
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())
    bad.update(range(100))
    with pytest.raises(InputError, match="3 steps in a row"):
        train(dataset_folder, tmp_path / "bad", merged(small_recipe, clipping={"max_bad_steps": 3}), quiet=True)


def test_bfloat16_reaches_the_network_and_spares_the_geometry(
    dataset_folder: Path, small_recipe: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalsmith.network.denoiser import GemNetDenoiser

    seen: list[tuple[bool, torch.dtype, torch.dtype]] = []
    forward = GemNetDenoiser.forward

    def spy(self: Any, batch: Any, t: torch.Tensor, conditions: Any = None) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), batch.cell.dtype, t.dtype))
        return forward(self, batch, t, conditions)

    monkeypatch.setattr(GemNetDenoiser, "forward", spy)
    train(dataset_folder, tmp_path / "run", merged(small_recipe, hardware={"precision": "bf16-mixed"}), quiet=True)
    assert set(seen) == {(True, torch.float32, torch.float32)}
    assert all(v.dtype == torch.float32 for v in load_model(tmp_path / "run" / "last").network.parameters())


def test_what_cannot_work_is_said_before_anything_is_written(
    dataset_folder: Path, make_dataset: Callable[..., Path], small_recipe: Settings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="no training rows"):
        train(make_dataset(val=3), run, merged(small_recipe), quiet=True)
    with pytest.raises(InputError, match=r"model\.preset"):
        train(dataset_folder, run, merged(small_recipe, model={"preset": "huge"}), quiet=True)
    with pytest.raises(InputError, match="hardware"):
        train(dataset_folder, run, merged(small_recipe, hardware={"accelerator": "abacus"}), quiet=True)
    with pytest.raises(InputError, match="no run to resume"):
        train(dataset_folder, run, merged(small_recipe), resume=True, quiet=True)
    assert not run.exists()
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        train(dataset_folder, run, merged(small_recipe), quiet=True)
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]


def test_resuming_needs_the_same_data_and_recipe(
    dataset_folder: Path, make_dataset: Callable[..., Path], small_recipe: Settings, tmp_path: Path
) -> None:
    run, recipe = tmp_path / "run", merged(small_recipe, limits={"max_steps": 2})
    train(dataset_folder, run, recipe, quiet=True)
    with pytest.raises(InputError, match="not the one"):
        train(make_dataset(seed=5, train=24, val=6), run, recipe, resume=True, quiet=True)
    with pytest.raises(InputError, match=r"optimizer\.lr changed"):
        resume_recipe(run, None, ["optimizer.lr=1"])
    longer = resume_recipe(run, None, ["limits.max_steps=3"])
    assert train(dataset_folder, run, longer, resume=True, quiet=True).step == 3


def test_a_run_that_was_killed_before_its_first_save_starts_over(
    dataset_folder: Path, small_recipe: Settings, tmp_path: Path
) -> None:
    run, recipe = tmp_path / "run", merged(small_recipe)
    run.mkdir()
    save_recipe(recipe, run / "recipe.yaml")
    (run / "log.csv").write_text("torn")
    assert train(dataset_folder, run, resume_recipe(run, None, []), resume=True, quiet=True).step == 6


def test_training_without_validation_rows(
    make_dataset: Callable[..., Path], small_recipe: Settings, tmp_path: Path
) -> None:
    outcome: Outcome = train(make_dataset(train=9), tmp_path / "run", merged(small_recipe), quiet=True)
    assert outcome.best["total"] is None
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()


# ---- in processes of their own


def launch(data: Path, run: Path, recipe: Recipe, *flags: str, before: str = "") -> subprocess.Popen[str]:
    path = run.with_suffix(".yaml")
    save_recipe(recipe, path)
    command = ["-m", "crystalsmith"]
    if before:
        command = ["-c", f"{before}; import runpy; runpy.run_module('crystalsmith', run_name='__main__')"]
    source = str(Path(__file__).resolve().parents[2] / "src")
    return subprocess.Popen(
        [sys.executable, *command, "train", str(data), str(run), "--recipe", str(path), *flags],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_train_what_one_would(dataset_folder: Path, small_recipe: Settings, tmp_path: Path) -> None:
    """DDP over gloo, with shares cut into unequal numbers of passes and, in the last batch sizes, an odd crystal."""
    recipe = merged(
        small_recipe,
        data={"batch_size": 7, "micro_batch_size": 3},
        optimizer={"lr": 1e-3, "eps": 1e-3},
        ema={"decay": 0.9},
    )
    process = launch(dataset_folder, tmp_path / "two", recipe, "--devices", "2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("Training is complete. 6 steps") == 1
    train(dataset_folder, tmp_path / "one", recipe, quiet=True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=2e-6, msg=name)
    for a, b in zip(rows(tmp_path / "one" / "log.csv"), rows(tmp_path / "two" / "log.csv"), strict=True):
        assert a["crystals"] == b["crystals"]
        for column in ("train_total", "val_total", "val_species_nll"):
            assert (a[column] == b[column] == "") or float(a[column]) == pytest.approx(float(b[column]), rel=1e-4)


@pytest.mark.parametrize("devices", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_sigterm_saves_and_exits_143_and_resume_goes_on(
    devices: str, dataset_folder: Path, small_recipe: Settings, tmp_path: Path
) -> None:
    run, recipe = tmp_path / "run", merged(small_recipe, limits={"max_steps": 10**6})
    process = launch(dataset_folder, run, recipe, "--devices", devices)
    deadline = time.monotonic() + 90
    while not (run / "log.csv").is_file() or len((run / "log.csv").read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "continue with --resume" in out
    assert "Traceback" not in err
    step = load_state(run / FILE)[1]["step"]
    assert step >= 4
    resumed = resume_recipe(run, None, [f"limits.max_steps={step + 3}", "hardware.devices=1"])
    assert train(dataset_folder, run, resumed, resume=True, quiet=True).step == step + 3


def test_training_needs_neither_pymatgen_nor_ase(dataset_folder: Path, small_recipe: Settings, tmp_path: Path) -> None:
    blocked = ("pymatgen", "ase", "moyopy", "pyarrow", "spglib")
    before = "import sys; sys.modules.update({" + ", ".join(f"'{name}': None" for name in blocked) + "})"
    process = launch(dataset_folder, tmp_path / "run", merged(small_recipe), before=before)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert "Training is complete" in out


def test_a_missing_lightning_is_one_sentence(dataset_folder: Path, small_recipe: Settings, tmp_path: Path) -> None:
    before = "import sys; sys.modules.update({'lightning': None, 'lightning.fabric': None})"
    process = launch(dataset_folder, tmp_path / "run", merged(small_recipe), before=before)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 2
    assert err.strip().count("\n") == 0
    assert "crystalsmith[train]" in err


def test_crystals_noised_within_their_space_groups_train_and_resume(small_recipe, dataset_folder, tmp_path) -> None:
    from crystalsmith.data.dataset import CrystalDataset
    from crystalsmith.data.sites import find_sites

    recipe = merged(small_recipe, data={"symmetric_share": 0.5})
    with pytest.raises(InputError, match="data symmetry"):
        train(dataset_folder, tmp_path / "early", recipe, quiet=True)
    find_sites(CrystalDataset.open(dataset_folder), 1)
    whole, first = tmp_path / "whole", tmp_path / "first"
    train(dataset_folder, whole, recipe, quiet=True)
    short = merged(small_recipe, data={"symmetric_share": 0.5}, limits={"max_steps": 3})
    train(dataset_folder, first, short, quiet=True)
    train(dataset_folder, first, resume_recipe(first, None, ["limits.max_steps=6"]), resume=True, quiet=True)
    assert_equal(weights(whole), weights(first))
