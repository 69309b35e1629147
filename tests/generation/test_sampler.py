"""Laws of sampling: independence of the batch, no harm from one bad crystal, memory that runs out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.elements import MASK
from crystalsmith.errors import InputError
from crystalsmith.generation import sampler
from crystalsmith.generation.device import choose_batch_size, choose_device, choose_precision, is_out_of_memory
from crystalsmith.generation.making import make_request
from crystalsmith.generation.progress import Silent
from crystalsmith.generation.request import Request

CPU = torch.device("cpu")


class Wells:
    """A stand-in for a model: the exact scores of a Gaussian about fixed places, smooth and without a network.

    Attributes:
        poison: numbers of atoms for which the scores are NaN.
    """

    def __init__(self, like, poison: tuple[int, ...] = ()) -> None:
        self.process, self.metadata, self.network = like.process, like.metadata, like.network
        self.poison = poison

    def denoiser(self, batch: CrystalBatch, t: torch.Tensor, conditions=None) -> Scores:
        pull = -torch.sin(2 * torch.pi * batch.frac_coords) * (1 - t[batch.batch_index, None])
        logits = torch.cos(batch.frac_coords.sum(-1, keepdim=True) * torch.arange(101))
        for n in self.poison:
            pull[(batch.num_atoms == n)[batch.batch_index]] = torch.nan
        shared = self.process.cell.gaussian_output(batch.cell, t, batch.num_atoms)
        return Scores(pull, shared, logits)


@pytest.fixture(scope="module")
def model(untrained):
    return load_model(untrained)


def same(a: CrystalBatch, b: CrystalBatch, tolerance: float) -> bool:
    separation = a.frac_coords - b.frac_coords
    return (
        torch.equal(a.num_atoms, b.num_atoms)
        and torch.equal(a.atomic_numbers, b.atomic_numbers)
        and bool(((separation - separation.round()).abs() <= tolerance).all())
        and torch.allclose(a.cell, b.cell, rtol=0, atol=tolerance * 10)
    )


def in_batches(model, request: Request, size: int) -> CrystalBatch:
    made = sampler.finished_batches(model, request, CPU, Silent(), batch_size=size)
    return CrystalBatch.concatenate([item.batch for item in made])


@pytest.mark.parametrize("solver", ["predictor_corrector", "ancestral"])
def test_a_crystal_does_not_depend_on_its_batch(model, solver):
    request = make_request(model, num=40, seed=4, solver=solver, steps=12)
    whole = in_batches(Wells(model), request, 40)
    for size in (3, 32):
        assert same(whole, in_batches(Wells(model), request, size), 1e-4)


def test_noise_levels_do_not_depend_on_the_batch_to_the_bit(model):
    """Vectorised powers round differently at the end of a tensor; over many steps that made other crystals."""
    num_atoms, t = torch.randint(1, 21, (301,)), torch.rand(301)
    coordinates, cell = model.process.coordinates, model.process.cell
    for function in (coordinates.std, cell.std, lambda t, n: cell.limit_mean(n, torch.float32)):
        parts = [function(t[k : k + 7], num_atoms[k : k + 7]) for k in range(0, 301, 7)]
        assert torch.equal(function(t, num_atoms), torch.cat(parts))


def test_a_crystal_of_the_network_does_not_depend_on_its_batch(model):
    """Rounding grows with every step of a network that was never trained, hence few steps."""
    request = make_request(model, num=40, seed=4, solver="ancestral", steps=3)
    whole = in_batches(model, request, 40)
    for size in (1, 9):
        assert same(whole, in_batches(model, request, size), 2e-3)


def test_a_run_padded_to_one_size_makes_the_same_crystals(model):
    wanted = make_request(model, num=7, seed=4, solver="ancestral", steps=3)
    plain = [made.batch for made in sampler.finished_batches(model, wanted, CPU, Silent(), batch_size=3)]
    with torch.compiler.set_stance("force_eager"):  # the padding alone; compiling takes minutes
        padded = list(sampler.finished_batches(model, wanted, CPU, Silent(), batch_size=3, compiled=True))
    assert [len(made.batch) for made in padded] == [3, 3, 1]
    for a, b in zip(plain, padded, strict=True):
        assert same(a, b.batch, 2e-3)


def test_the_same_request_is_the_same_to_the_bit_and_another_seed_is_not(model):
    request = make_request(model, num=12, seed=4)
    first, second = in_batches(model, request, 5), in_batches(model, request, 5)
    assert torch.equal(first.frac_coords, second.frac_coords)
    assert torch.equal(first.cell, second.cell)
    other = in_batches(model, dataclasses.replace(request, seed=5), 5)
    assert not torch.equal(first.num_atoms, other.num_atoms)


def test_results_hold_allowed_elements_and_finite_numbers_only(model):
    """Hundreds of crystals of a network that knows nothing."""
    for precision in ("float32", "bf16"):
        batch = in_batches(model, make_request(model, num=300, seed=1, steps=4, precision=precision), 100)
        assert set(batch.atomic_numbers.tolist()) <= set(model.metadata.elements)
        assert not (batch.atomic_numbers == MASK).any()
        assert batch.frac_coords.isfinite().all()
        assert batch.cell.isfinite().all()
        assert ((batch.frac_coords >= 0) & (batch.frac_coords < 1)).all()
        assert (torch.linalg.det(batch.cell) > 0).all()


@pytest.mark.parametrize("solver", ["predictor_corrector", "ancestral"])
def test_a_crystal_that_fails_does_no_harm_to_the_others(model, solver):
    request = make_request(model, num=30, seed=2, steps=6, solver=solver)
    good, mixed = in_batches(Wells(model), request, 30), in_batches(Wells(model, poison=(4,)), request, 30)
    failed = (mixed.num_atoms == 4).nonzero().flatten().tolist()
    assert 0 < len(failed) < 30
    assert mixed.cell[failed].isnan().all()
    rest = [k for k in range(30) if k not in failed]
    assert same(good.select(rest), mixed.select(rest), 1e-5)


def test_left_handed_cells_come_out_right_handed_with_the_same_distances(make_batch):
    batch = make_batch([3, 5], dtype=torch.float32)
    mirrored = batch.replace(cell=-batch.cell)
    finished = sampler.finish(mirrored)
    assert (torch.linalg.det(finished.cell) > 0).all()
    metric = finished.cell @ finished.cell.transpose(1, 2)
    torch.testing.assert_close(metric, batch.cell @ batch.cell.transpose(1, 2))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(model, monkeypatch, error):
    request, sizes, real = make_request(model, num=20, seed=3, steps=2), [], sampler.sample_batch
    expected = in_batches(model, request, 4)

    def limited(model, sampling, plans, *rest):
        sizes.append(len(plans))
        if len(plans) > 4:
            raise error
        return real(model, sampling, plans, *rest)

    monkeypatch.setattr(sampler, "sample_batch", limited)
    made = list(sampler.finished_batches(model, request, CPU, Silent(), batch_size=16))
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    assert [item.batch_size for item in made] == [4] * 5
    assert same(CrystalBatch.concatenate([item.batch for item in made]), expected, 0.0)


def test_too_little_memory_for_one_crystal_is_said(model, monkeypatch):
    def never(*_, **__):
        raise MemoryError

    monkeypatch.setattr(sampler, "sample_batch", never)
    with pytest.raises(InputError, match=r"crystal 0, of \d+ atoms"):
        list(sampler.finished_batches(model, make_request(model, num=3), CPU, Silent(), batch_size=2))


def test_other_errors_are_not_taken_for_want_of_memory(model, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert not is_out_of_memory(ValueError("out of memory"))
    monkeypatch.setattr(sampler, "sample_batch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        list(sampler.finished_batches(model, make_request(model, num=3), CPU, Silent(), batch_size=2))


def test_the_automatic_batch_is_a_power_of_two_and_no_larger_than_needed(model):
    for num in (1, 3, 16, 1000):
        size = choose_batch_size(model, make_request(model, num=num), 2, CPU)
        assert size & (size - 1) == 0
        assert 1 <= size <= num
    slow = choose_batch_size(model, make_request(model, num=1000, steps=100_000), 2, CPU)
    assert slow < choose_batch_size(model, make_request(model, num=1000, steps=10), 2, CPU)


def test_the_automatic_batch_is_larger_where_products_are_faster():
    """A bundled model at its own number of steps, on one thread: a minute holds more crystals in bf16."""
    bundled, threads = load_model("mp20-small"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = {
            precision: choose_batch_size(bundled, make_request(bundled, num=256, precision=precision), 2, CPU)
            for precision in ("float32", "bf16")
        }
    finally:
        torch.set_num_threads(threads)
    assert sizes["bf16"] >= 2 * sizes["float32"] >= 16


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "mps"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device"):
        choose_device(name)


def test_precision_names():
    assert choose_precision("auto", CPU) in ("float32", "bf16")
    assert choose_precision("float32", CPU) == "float32"
    with pytest.raises(InputError, match="fp8"):
        choose_precision("fp8", CPU)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num": 0},
        {"steps": 0},
        {"seed": -1},
        {"solver": "magic"},
        {"solver": "multistep,snr_cell=1"},
        {"solver": "multistep,churn=2"},
        {"solver": "multistep,churn"},
        {"solver": "predictor_corrector,remask=nan"},
        {"num_atoms": "x"},
        {"num_atoms": {0: 1.0}},
        {"temperature": 0},
    ],
)
def test_requests_that_make_no_sense_are_refused(model, wrong):
    with pytest.raises(InputError):
        make_request(model, **wrong)


def test_settings_of_a_solver_are_added_to_those_of_the_model(model):
    sampling = {"solver": "multistep", "steps": 5, "churn": 1.0, "remask": 0.5}
    own = Model(model.network, model.process, dataclasses.replace(model.metadata, sampling=sampling))
    assert make_request(own).solver_settings == {"churn": 1.0, "remask": 0.5}
    assert make_request(own, solver="multistep").solver_settings == {"churn": 1.0, "remask": 0.5}
    assert make_request(own, solver="multistep,remask=1").solver_settings == {"churn": 1.0, "remask": 1.0}
    other = make_request(own, solver="predictor_corrector,corrector_every=2")
    assert (other.solver, other.steps, other.solver_settings) == ("predictor_corrector", 5, {"corrector_every": 2.0})


def test_a_request_survives_json(model):
    import json

    request = make_request(model, num=3, num_atoms="2-7", precision="bf16")
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request
