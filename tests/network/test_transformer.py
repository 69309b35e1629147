"""Laws of the transformer denoiser: symmetries, independence of the samples of a batch, gradients, configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.pairs import build_pairs, harmonics, traceless
from crystalsmith.network.registry import network_config, network_dict
from crystalsmith.network.transformer import (
    TRANSFORMER_PRESETS,
    TransformerConfig,
    TransformerDenoiser,
    TransformerDenoiserConfig,
)

Make = Callable[..., CrystalBatch]
DT = torch.float64
SMALL = TransformerConfig(
    width=16,
    num_blocks=2,
    pair_width=12,
    pair_hidden=10,
    message_width=8,
    num_heads=2,
    cutoff=5.0,
    num_radial=8,
    num_angular=5,
    num_moments=4,
    num_waves=2,
)
T = torch.tensor([0.2, 0.9, 0.5, 0.05], dtype=DT)


def build(config: TransformerConfig = SMALL, conditions: tuple[ConditionConfig, ...] = ()) -> TransformerDenoiser:
    """A network whose weights that start at zero are drawn as well, so that every path carries something."""
    torch.manual_seed(0)
    model = TransformerDenoiser(TransformerDenoiserConfig(config, conditions)).double().eval()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def model() -> TransformerDenoiser:
    return build()


@pytest.fixture
def batch(make_batch: Make) -> CrystalBatch:
    return make_batch([5, 1, 8, 3], seed=6)


def same(a: Scores, b: Scores, tolerance: float = 1e-9) -> None:
    for x, y in ((a.frac_coords, b.frac_coords), (a.cell, b.cell), (a.species_logits, b.species_logits)):
        assert y.abs().max() > 1e-6  # nothing is the same because it is nothing
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * float(y.detach().abs().max()))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["rotation", "reflection"])
def test_rotating_the_crystal_rotates_the_cell_output_only(
    model: TransformerDenoiser, batch: CrystalBatch, sign: float
) -> None:
    turn = sign * torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=DT)).Q
    plain, turned = model(batch, T), model(batch.replace(cell=batch.cell @ turn), T)
    same(turned, Scores(plain.frac_coords, turn.T @ plain.cell @ turn, plain.species_logits))
    torch.testing.assert_close(plain.cell, plain.cell.transpose(1, 2))


def test_the_origin_does_not_matter(model: TransformerDenoiser, batch: CrystalBatch) -> None:
    shift = torch.tensor([[0.31, 0.77, 0.05]], dtype=DT)
    same(model(batch.replace(frac_coords=torch.remainder(batch.frac_coords + shift, 1.0)), T), model(batch, T))


def test_periodic_copies_of_an_atom_are_the_same_atom(model: TransformerDenoiser, batch: CrystalBatch) -> None:
    jumps = torch.randint(-3, 4, batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    same(model(batch.replace(frac_coords=batch.frac_coords + jumps), T), model(batch, T))


def test_permuting_the_atoms_permutes_the_outputs(model: TransformerDenoiser, batch: CrystalBatch) -> None:
    generator = torch.Generator().manual_seed(2)
    order = torch.cat([torch.randperm(n, generator=generator) + o for n, o in ((5, 0), (1, 5), (8, 6), (3, 14))])
    shuffled = batch.replace(frac_coords=batch.frac_coords[order], atomic_numbers=batch.atomic_numbers[order])
    plain = model(batch, T)
    same(model(shuffled, T), Scores(plain.frac_coords[order], plain.cell, plain.species_logits[order]))


def test_without_waves_the_order_of_the_lattice_vectors_does_not_matter(batch: CrystalBatch) -> None:
    model, order = build(dataclasses.replace(SMALL, num_waves=0)), [2, 0, 1]
    plain = model(batch, T)
    turned = model(batch.replace(cell=batch.cell[:, order], frac_coords=batch.frac_coords[:, order]), T)
    same(turned, Scores(plain.frac_coords[:, order], plain.cell, plain.species_logits))


def test_a_crystal_alone_has_the_outputs_it_has_in_a_batch(model: TransformerDenoiser, make_batch: Make) -> None:
    batch = make_batch([5, 1, 40, 3], seed=6)
    together = model(batch, T)
    for crystal, atoms in enumerate((slice(0, 5), slice(5, 6), slice(6, 46), slice(46, 49))):
        alone = model(batch.select([crystal]), T[crystal : crystal + 1])
        expected = together.frac_coords[atoms], together.cell[crystal : crystal + 1], together.species_logits[atoms]
        for x, y in zip((alone.frac_coords, alone.cell, alone.species_logits), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def test_every_input_matters(model: TransformerDenoiser, batch: CrystalBatch) -> None:
    plain = model(batch, T)
    numbers, coords = batch.atomic_numbers.clone(), batch.frac_coords.clone()
    numbers[0] = numbers[0] % 90 + 1
    coords[0] += 0.01
    changed = [
        model(batch, T + 0.05),
        model(batch.replace(atomic_numbers=numbers), T),
        model(batch.replace(frac_coords=coords), T),
        model(batch.replace(cell=batch.cell * 1.01), T),
    ]
    for scores in changed:
        assert (scores.frac_coords[0] - plain.frac_coords[0]).abs().max() > 1e-6
        assert (scores.cell[0] - plain.cell[0]).abs().max() > 1e-7
        assert (scores.species_logits[0] - plain.species_logits[0]).abs().max() > 1e-6


def test_an_inversion_centre_feels_no_force(model: TransformerDenoiser) -> None:
    # CsCl: both atoms stand on sites of full cubic symmetry, at every multiple of one half where images tie.
    cubic = CrystalBatch.from_arrays([([[0, 0, 0], [0.5, 0.5, 0.5]], 4.1 * torch.eye(3), [55, 17])], DT)
    scores = model(cubic, T[:1])
    assert scores.frac_coords.abs().max() < 1e-10
    off = scores.cell[0] - scores.cell[0, 0, 0] * torch.eye(3, dtype=DT)
    assert off.abs().max() < 1e-10  # and an isotropic pull on the cell
    moved = cubic.replace(frac_coords=cubic.frac_coords + torch.tensor([[0.03, 0, 0], [0, 0, 0]], dtype=DT))
    assert model(moved, T[:1]).frac_coords.abs().max() > 1e-6


def test_features_are_smooth_where_images_change(batch: CrystalBatch) -> None:
    # Half a lattice vector apart the nearest copy changes sides; a step across must be as small as one beside it.
    def features(x: float) -> torch.Tensor:
        crystal = CrystalBatch.from_arrays([([[0, 0, 0], [x, 0.2, 0.4]], 3.0 * torch.eye(3), [8, 26])], DT)
        pairs = build_pairs(crystal, 5.0, 8, 5, 2)
        return torch.cat([pairs.scalars, pairs.vectors.flatten(1), pairs.tensors.flatten(1)], -1)

    step = 1e-6
    crossing = (features(0.5 + step) - features(0.5 - step)).abs().max()
    assert crossing < 1e-4
    assert (features(0.45) - features(0.55)).abs().max() > 1e-3


def test_harmonics_are_orthonormal_and_make_matrices() -> None:
    u = torch.nn.functional.normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=DT), dim=-1)
    y = harmonics(u)
    cosine = (u[0] * u[1]).sum()
    torch.testing.assert_close((y[0, :3] * y[1, :3]).sum(), cosine)
    torch.testing.assert_close((y[0, 3:] * y[1, 3:]).sum(), 1.5 * cosine**2 - 0.5)  # the Legendre polynomial P2
    outer = u.unsqueeze(-1) * u.unsqueeze(-2) - torch.eye(3, dtype=DT) / 3
    torch.testing.assert_close(traceless(y[:, 3:]), 1.5**0.5 * outer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fresh_network_is_finite_on_extreme_cells(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    coords = torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=DT)
    cells = {
        "tiny": 0.3 * torch.eye(3),
        "huge": 1e4 * torch.eye(3),
        "plate": torch.diag(torch.tensor([0.2, 30.0, 30.0])),
        "sheared": torch.tensor([[3.0, 0, 0], [30.0, 3, 0], [-40.0, 25, 3]]),
        "nearly flat": torch.tensor([[3.0, 0, 0], [0, 3, 0], [1.5, 1.5, 1e-4]]),
        "left-handed": -4 * torch.eye(3),
    }
    for name, cell in cells.items():
        crystal = CrystalBatch.from_arrays([(coords, cell, [8] * 6)], dtype)
        scores = model(crystal, torch.tensor([0.7], dtype=dtype))
        sum(x.square().sum() for x in (scores.frac_coords, scores.cell, scores.species_logits)).backward()
        for x in (scores.frac_coords, scores.cell, scores.species_logits):
            assert torch.isfinite(x).all(), name
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), name
        model.zero_grad()
    coincident = CrystalBatch.from_arrays([(coords[:1].expand(4, 3), 4 * torch.eye(3), [8] * 4)], dtype)
    assert torch.isfinite(model(coincident, torch.tensor([0.7], dtype=dtype)).frac_coords).all()


def test_bfloat16_is_close_to_full_precision(make_batch: Make) -> None:
    batch, t = make_batch([4, 9, 6], seed=8, dtype=torch.float32), torch.tensor([0.2, 0.5, 0.9])
    model = build(TransformerConfig()).float()
    with torch.no_grad():
        full = model(batch, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch, t)
    for name in ("frac_coords", "cell", "species_logits"):
        a, b = getattr(half, name), getattr(full, name)
        assert a.dtype == torch.float32
        error = float((a - b).norm() / b.norm())
        assert 0 < error < 0.05, name  # a mantissa of 8 bits: 0.4 % per operation


def test_gradient_reaches_every_parameter(make_batch: Make) -> None:
    conditions = (
        ConditionConfig("gap"),
        ConditionConfig("space_group", "category"),
        ConditionConfig("chemical_system", "elements", "base"),
    )
    model = build(conditions=conditions)
    system = torch.zeros(2, 101, dtype=DT)
    system[0, [3, 8]] = 1.0  # the second crystal uses the vector of the unlabelled
    given = {
        "gap": torch.tensor([1.0, 2.0], dtype=DT),
        "space_group": torch.tensor([225.0, 1.0], dtype=DT),
        "chemical_system": system,
    }
    scores = model(make_batch([5, 8], seed=1), torch.tensor([0.3, 0.6], dtype=DT), given)
    sum(x.square().sum() for x in (scores.frac_coords, scores.cell, scores.species_logits)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_new_adapters_change_nothing_and_unlabelled_crystals_stay_as_they_are(batch: CrystalBatch) -> None:
    base = build()
    torch.manual_seed(1)
    config = TransformerDenoiserConfig(SMALL, (ConditionConfig("gap"),))
    adapted = TransformerDenoiser(config).double().eval()
    adapted.load_state_dict(base.state_dict(), strict=False)
    labels = {"gap": torch.tensor([1.0, float("nan"), 2.0, 3.0], dtype=DT)}
    same(adapted(batch, T, labels), base(batch, T), 1e-12)
    for layers in adapted.adapters.values():
        for adapter in layers:  # type: ignore[attr-defined]
            torch.nn.init.normal_(adapter.mix.weight)
    changed, plain = adapted(batch, T, labels).species_logits, base(batch, T).species_logits
    assert (changed[:5] - plain[:5]).abs().max() > 1e-3
    torch.testing.assert_close(changed[5], plain[5])
    with pytest.raises(InputError, match="hardness"):
        adapted(batch, T, {"hardness": T})


def test_the_preset_has_its_size() -> None:
    with torch.device("meta"):
        model = TransformerDenoiser(TRANSFORMER_PRESETS["transformer-tiny"])
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 8e6


@pytest.mark.parametrize("conditions", [(), (ConditionConfig("a", "log"), ConditionConfig("b", "category", "base", 7))])
def test_configuration_round_trips_through_json(conditions: tuple[ConditionConfig, ...]) -> None:
    config = TransformerDenoiserConfig(SMALL, conditions)
    assert network_config(json.loads(json.dumps(network_dict(config)))) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "transfomer"}, "transfomer"),
        ({"kind": "transformer", "gemnet": {}}, "gemnet"),
        ({"kind": "transformer", "transformer": {"widht": 64}}, "widht"),
        ({"kind": "transformer", "transformer": {"width": 0}}, "width"),
        ({"kind": "transformer", "transformer": {"cutoff": float("nan")}}, "cutoff"),
        ({"kind": "transformer", "transformer": {"num_heads": 7}}, "num_heads"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network_config(data)


def test_activations_that_are_computed_again_give_the_same_gradients(batch: CrystalBatch) -> None:
    gradients = []
    for again in (False, True):
        model = build()
        model.checkpoint_activations = again
        scores = model(batch, T)
        sum(x.square().sum() for x in (scores.frac_coords, scores.cell, scores.species_logits)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
