"""The small parts of the loop: learning rates, averaged weights, the state file, logs, clipping."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from crystalsmith.errors import InputError
from crystalsmith.training.config import LimitSettings, OptimizerSettings, ScheduleSettings
from crystalsmith.training.ema import WeightAverage
from crystalsmith.training.log import CsvLog, duration
from crystalsmith.training.optimizer import clip, make_optimizer, optimizer_tensors, restore_optimizer
from crystalsmith.training.schedule import LearningRate, Limits
from crystalsmith.training.state import load_state, save_state, split


def test_limits_are_reached_by_whichever_comes_first() -> None:
    limits = Limits.of(LimitSettings(max_epochs=10, max_steps=200, max_time="1m"), steps_per_epoch=7)
    assert limits == Limits(70, 60.0)
    assert not limits.reached(69, 59.0)
    assert limits.reached(70, 0.0)
    assert limits.reached(0, 60.0)


def test_cosine_goes_from_the_base_rate_to_its_fraction() -> None:
    rate = LearningRate(ScheduleSettings("cosine", final_fraction=0.1), 2.0, Limits(100, None))
    assert rate.at(0, 0.0) == 2.0
    assert rate.at(50, 0.0) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rate.at(100, 0.0) == pytest.approx(0.2)
    assert rate.at(500, 0.0) == pytest.approx(0.2)


def test_cosine_over_time_follows_the_clock() -> None:
    rate = LearningRate(ScheduleSettings("cosine", over="time", final_fraction=0.0), 1.0, Limits(10, 100.0))
    assert rate.at(9, 0.0) == 1.0
    assert rate.at(0, 50.0) == pytest.approx(0.5)


def test_warm_up_rises_linearly_to_the_base_rate() -> None:
    rate = LearningRate(ScheduleSettings("constant", warmup_steps=9), 1.0, Limits(None, None))
    assert [round(rate.at(k, 0.0), 6) for k in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]


def test_plateau_agrees_with_torch() -> None:
    settings = ScheduleSettings("plateau", patience=3, min_lr=0.2)
    ours = LearningRate(settings, 1.0, Limits(None, None))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.6, patience=3, min_lr=0.2)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for epoch in range(60):
        loss = 1.0 / (1 + epoch // 10) + float(torch.rand(1, generator=generator)) * 0.01
        ours.epoch_done(loss)
        theirs.step(loss)
        seen.add(ours.at(epoch, 0.0))
        assert ours.at(epoch, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"])
        ours.restore(ours.state())
    assert len(seen) > 2


def test_average_is_the_exponential_sum_and_swaps_in_and_out() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = WeightAverage(module, 0.9, warmup=False)
    for value in (1.0, 2.0):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update()
    expected = 0.9 * (0.1 * 1.0) + 0.1 * 2.0
    assert average.average[0].item() == pytest.approx(expected)
    with average.in_place():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 2.0


def test_a_warm_average_forgets_the_start() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1000.0)
    average = WeightAverage(module, 0.999)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for _ in range(100):
        average.update()
    assert average.average[0].item() == pytest.approx(1.0, abs=0.1)


def numbers_of(**values: float) -> dict[str, object]:
    """The numbers that every state holds."""
    rate = {"best": None, "bad_epochs": 0, "reduced": 1.0}
    own = {"step": 0, "crystals": 0, "seconds": 0.1 + 0.2, "meter": [0.0], "epoch_meter": [0.0], "rate": rate}
    return own | {"ema_updates": 0, "data": "abc"} | values


def test_state_round_trip_is_exact_and_continues_the_optimiser(tmp_path: Path) -> None:
    def network() -> tuple[nn.Module, torch.optim.Optimizer, dict[torch.Tensor, str]]:
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        optimizer = make_optimizer(list(module.parameters()), OptimizerSettings("adamw", lr=0.1, weight_decay=0.1))
        return module, optimizer, {p: name for name, p in module.named_parameters()}

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> None:
        optimizer.zero_grad()
        module(torch.full((4, 3), float(k))).square().sum().backward()
        optimizer.step()

    module, optimizer, names = network()
    step(module, optimizer, 1)
    tensors = {f"n.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"o.{k}": v for k, v in optimizer_tensors(optimizer, names).items()}
    save_state(tmp_path / "s.safetensors", tensors, numbers_of(step=1))
    step(module, optimizer, 2)

    other, optimizer2, names2 = network()
    loaded, numbers = load_state(tmp_path / "s.safetensors")
    assert numbers == numbers_of(step=1)
    other.load_state_dict(split(loaded, "n."))
    restore_optimizer(optimizer2, names2, split(loaded, "o."))
    step(other, optimizer2, 2)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_a_damaged_or_missing_state_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="no training state"):
        load_state(path)
    save_state(path, {"x": torch.ones(100)}, {"step": 1})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4], b"", b"\x80\x04" + whole):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            load_state(path)


def test_a_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_state(path, {"x": torch.ones(2)}, numbers_of(step=1))
    with pytest.raises(TypeError):
        save_state(path, {"x": torch.zeros(2)}, {"step": object()})
    assert load_state(path)[1] == numbers_of(step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_log_drops_what_will_be_done_again_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, ["step", "loss"])
    for step in (10, 20, 30):
        log.write({"step": step, "loss": step / 3})
    with path.open("a") as file:
        file.write("40,1")  # torn
    CsvLog(path, ["step", "loss"], last_step=25).write({"step": 30})
    assert path.read_text() == "step,loss\n10,3.333333\n20,6.666667\n30,\n"
    with pytest.raises(ValueError, match="no column"):
        log.write({"step": 1, "other": 2})


def test_clipping_by_value_and_by_norm() -> None:
    parameter = nn.Parameter(torch.zeros(2))

    def clipped(by: str, limit: float) -> list[float]:
        parameter.grad = torch.tensor([3.0, -4.0])
        clip([parameter], by, limit, torch.tensor(5.0))
        assert parameter.grad is not None
        return parameter.grad.tolist()

    assert clipped("value", 0.5) == [0.5, -0.5]
    assert clipped("norm", 1.0) == pytest.approx([0.6, -0.8], rel=1e-5)
    assert clipped("norm", 10.0) == [3.0, -4.0]
    assert clipped("none", 0.1) == [3.0, -4.0]


def test_weight_decay_spares_vectors() -> None:
    module = nn.Linear(3, 2)
    groups = make_optimizer(list(module.parameters()), OptimizerSettings("adamw", weight_decay=0.1)).param_groups
    decay = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {2: 0.1, 1: 0.0}


def test_durations_for_people() -> None:
    assert [duration(s) for s in (41.6, 725, 11220, math.pi)] == ["42s", "12m05s", "3h07m", "3s"]
