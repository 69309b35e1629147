"""Laws of the network: symmetries, independence of the batch, limits, precision, configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from crystalsmith.contracts import Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.errors import InputError
from crystalsmith.neighbors import build_edges
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import PRESETS, DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

Make = Callable[..., CrystalBatch]
DT = torch.float64
OURS = GemNetConfig(
    width=24,
    num_blocks=2,
    cutoff=5.5,
    max_neighbors=12,
    num_radial=16,
    num_spherical=4,
    width_triplet=8,
    width_bilinear=7,
    width_rbf=6,
    width_cbf=5,
    head_residuals=1,
    crystal_context=True,
)


def build(config: GemNetConfig = OURS, dtype: torch.dtype = DT, seed: int = 0) -> GemNetDenoiser:
    """A network whose weights that start at zero are drawn as well, so that every path carries something."""
    torch.manual_seed(seed)
    model = GemNetDenoiser(DenoiserConfig(config)).to(dtype).eval()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def model() -> GemNetDenoiser:
    return build()


@pytest.fixture
def batch(make_batch: Make) -> CrystalBatch:
    return make_batch([5, 1, 8, 3], seed=6)


T = torch.tensor([0.2, 0.9, 0.5, 0.05], dtype=DT)


def same(a: Scores, b: Scores, tolerance: float = 1e-9) -> None:
    for x, y in (
        (a.frac_coords, b.frac_coords),
        (a.cell, b.cell),
        (a.species_logits, b.species_logits),
    ):
        assert y.abs().max() > 1e-6  # nothing is the same because it is nothing
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * float(y.detach().abs().max()))


def rotation(seed: int, proper: bool = True) -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=DT)).Q
    return q if (torch.linalg.det(q) > 0) == proper else -q


@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_rotating_the_crystal_rotates_the_cell_output_only(
    model: GemNetDenoiser, batch: CrystalBatch, proper: bool
) -> None:
    turn = rotation(1, proper)
    plain, turned = model(batch, T), model(batch.replace(cell=batch.cell @ turn), T)
    same(turned, Scores(plain.frac_coords, turn.T @ plain.cell @ turn, plain.species_logits))
    torch.testing.assert_close(plain.cell, plain.cell.transpose(1, 2))


def test_the_origin_does_not_matter(model: GemNetDenoiser, batch: CrystalBatch) -> None:
    shift = torch.tensor([[0.31, 0.77, 0.05]], dtype=DT)
    same(model(batch.replace(frac_coords=torch.remainder(batch.frac_coords + shift, 1.0)), T), model(batch, T))


def test_periodic_copies_of_an_atom_are_the_same_atom(model: GemNetDenoiser, batch: CrystalBatch) -> None:
    jumps = torch.randint(-3, 4, batch.frac_coords.shape, generator=torch.Generator().manual_seed(0))
    same(model(batch.replace(frac_coords=batch.frac_coords + jumps), T), model(batch, T))


def test_permuting_the_atoms_permutes_the_outputs(model: GemNetDenoiser, batch: CrystalBatch) -> None:
    generator = torch.Generator().manual_seed(2)
    order = torch.cat([torch.randperm(n, generator=generator) + o for n, o in ((5, 0), (1, 5), (8, 6), (3, 14))])
    shuffled = batch.replace(frac_coords=batch.frac_coords[order], atomic_numbers=batch.atomic_numbers[order])
    plain = model(batch, T)
    expected = Scores(plain.frac_coords[order], plain.cell, plain.species_logits[order])
    same(model(shuffled, T), expected)


@pytest.mark.parametrize("rule", ["mutual", "published"])
def test_a_crystal_alone_has_the_outputs_it_has_in_a_batch(batch: CrystalBatch, rule: str) -> None:
    model = build(replace(OURS, edge_rule=rule))  # type: ignore[arg-type]
    together = model(batch, T)
    for crystal, atoms in enumerate((slice(0, 5), slice(5, 6), slice(6, 14), slice(14, 17))):
        alone = model(batch.select([crystal]), T[crystal : crystal + 1])
        scale = together.frac_coords.detach().abs().max().item()
        torch.testing.assert_close(alone.frac_coords, together.frac_coords[atoms], rtol=0, atol=1e-9 * scale)
        torch.testing.assert_close(alone.cell[0], together.cell[crystal], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.species_logits, together.species_logits[atoms], rtol=0, atol=1e-9)


def test_every_input_matters(model: GemNetDenoiser, batch: CrystalBatch) -> None:
    plain = model(batch, T)
    numbers = batch.atomic_numbers.clone()
    numbers[0] = numbers[0] % 90 + 1
    coords = batch.frac_coords.clone()
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


def pair(distance: float) -> CrystalBatch:
    """Two triangles of atoms; only one atom of each is near the cut-off from one of the other."""
    x = [[0.0, 0, 0], [2.1, 0.4, 0], [1.8, 2.0, 0.3], [2.1 + distance, 0.4, 0], [4.0 + distance, 1.9, 0.2]]
    cell = 40 * torch.eye(3, dtype=DT)
    return CrystalBatch.from_arrays([(torch.tensor(x, dtype=DT) / 40, cell, [8, 26, 13, 8, 3])], DT)


def test_outputs_pass_smoothly_through_the_cutoff() -> None:
    # An edge that appears carries nothing yet. The cell output is a mean over the crystal's edges (spec 4.7), whose
    # number jumps, so what passes smoothly is the sum; the context head is part of neither.
    model = build(replace(OURS, crystal_context=False))
    t = torch.tensor([0.4], dtype=DT)
    step = 1e-5
    inside, outside = pair(OURS.cutoff - step), pair(OURS.cutoff + step)
    far = pair(OURS.cutoff + 3 * step)
    edges = [build_edges(b, OURS.cutoff, OURS.max_neighbors).num_edges for b in (inside, outside, far)]
    assert edges[0] > edges[1] == edges[2]
    a, b, c = (model(x, t) for x in (inside, outside, far))
    for name in ("frac_coords", "species_logits", "cell"):
        x, y, z = (getattr(s, name) * (n if name == "cell" else 1) for s, n in zip((a, b, c), edges, strict=True))
        crossing, beyond = (x - y).abs().max(), (y - z).abs().max()
        assert y.abs().max() > 1e-3
        # The same distance travelled without crossing, and the size of what the edge carries well inside.
        assert crossing <= beyond + 1e-9
    well_inside = model(pair(OURS.cutoff - 1.0), t)
    assert (well_inside.species_logits - b.species_logits).abs().max() > 1e-4


@pytest.mark.parametrize("rule", ["mutual", "published"])
@pytest.mark.parametrize("context", [False, True])
def test_a_batch_without_edges_gives_finite_outputs_and_gradients(rule: str, context: bool) -> None:
    model = build(replace(OURS, edge_rule=rule, crystal_context=context))  # type: ignore[arg-type]
    coords = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=DT)
    empty = CrystalBatch.from_arrays([(coords, 60 * torch.eye(3), [8, 26]), (coords[:1], 9 * torch.eye(3), [3])], DT)
    scores = model(empty, torch.tensor([0.5, 1.0], dtype=DT))
    assert not scores.frac_coords.any()
    assert torch.isfinite(scores.species_logits).all()
    # Only the context head can say something about a cell that has lost every edge.
    assert bool(scores.cell.any()) == context
    (scores.cell.sum() + scores.species_logits.sum() + scores.frac_coords.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_an_edgeless_crystal_does_not_touch_its_neighbours(model: GemNetDenoiser, batch: CrystalBatch) -> None:
    lonely = CrystalBatch.from_arrays([([[0.1, 0.2, 0.3]], 50 * torch.eye(3), [11])], DT)
    mixed = model(CrystalBatch.concatenate([lonely, batch]), torch.cat([T[:1], T]))
    plain = model(batch, T)
    same(Scores(mixed.frac_coords[1:], mixed.cell[1:], mixed.species_logits[1:]), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fresh_network_is_finite_on_extreme_cells(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = GemNetDenoiser(DenoiserConfig(OURS)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    coords = torch.rand(6, 3, generator=generator, dtype=DT)
    cells = {
        "tiny": 0.3 * torch.eye(3),
        "huge": 1e4 * torch.eye(3),
        "plate": torch.diag(torch.tensor([0.2, 30.0, 30.0])),
        "needle": torch.diag(torch.tensor([0.5, 0.5, 200.0])),
        "sheared": torch.tensor([[3.0, 0, 0], [30.0, 3, 0], [-40.0, 25, 3]]),
        "nearly flat": torch.tensor([[3.0, 0, 0], [0, 3, 0], [1.5, 1.5, 1e-4]]),
        "left-handed": -4 * torch.eye(3),
    }
    for name, cell in cells.items():
        crystal = CrystalBatch.from_arrays([(coords, cell, [8] * 6)], dtype)
        scores = model(crystal, torch.tensor([0.7], dtype=dtype))
        for x in (scores.frac_coords, scores.cell, scores.species_logits):
            assert torch.isfinite(x).all(), name
    coincident = CrystalBatch.from_arrays([(coords[:1].expand(4, 3), 4 * torch.eye(3), [8] * 4)], dtype)
    assert torch.isfinite(model(coincident, torch.tensor([0.7], dtype=dtype)).frac_coords).all()


def test_bfloat16_is_close_to_full_precision(make_batch: Make) -> None:
    batch = make_batch([4, 9, 6], seed=8, dtype=torch.float32)
    t = torch.tensor([0.2, 0.5, 0.9])
    model = build(PRESETS["tiny"].gemnet, torch.float32)
    with torch.no_grad():
        full = model(batch, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch, t)
    for name in ("frac_coords", "cell", "species_logits"):
        a, b = getattr(half, name), getattr(full, name)
        assert a.dtype == torch.float32
        error = float((a - b).norm() / b.norm())
        assert 0 < error < 0.03, name  # a mantissa of 8 bits: 0.4 % per operation


def test_float32_is_close_to_float64(batch: CrystalBatch) -> None:
    single = build(dtype=torch.float32)
    double = build(dtype=torch.float32).double()
    a, b = single(batch.to(dtype=torch.float32), T.float()), double(batch.to(dtype=torch.float32).to(dtype=DT), T)
    same(Scores(a.frac_coords.double(), a.cell.double(), a.species_logits.double()), b, 5e-5)


def test_gradient_reaches_every_parameter(make_batch: Make) -> None:
    conditions = (
        ConditionConfig("gap"),
        ConditionConfig("space_group", "category"),
        ConditionConfig("chemical_system", "elements", "base"),
    )
    torch.manual_seed(0)
    model = GemNetDenoiser(DenoiserConfig(OURS, conditions)).double()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    batch = make_batch([5, 8], seed=1)
    system = torch.zeros(2, 101, dtype=DT)
    system[0, [3, 8]] = 1.0  # the second crystal uses the vector of the unlabelled
    given = {
        "gap": torch.tensor([1.0, 2.0], dtype=DT),
        "space_group": torch.tensor([225.0, 1.0], dtype=DT),
        "chemical_system": system,
    }
    scores = model(batch, torch.tensor([0.3, 0.6], dtype=DT), given)
    sum(x.square().sum() for x in (scores.frac_coords, scores.cell, scores.species_logits)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_gradient_is_the_slope_of_the_output() -> None:
    # The hand-written backward passes of the table, end to end: finite differences along a random direction.
    model = build(replace(OURS, width=12, num_blocks=1))
    crystal = CrystalBatch.from_arrays([([[0, 0, 0], [0.4, 0.5, 0.6]], 4.2 * torch.eye(3), [8, 26])], DT)
    t = torch.tensor([0.4], dtype=DT)
    parameters = list(model.parameters())

    def value() -> torch.Tensor:
        scores = model(crystal, t)
        return scores.frac_coords.square().sum() + scores.cell.square().sum() + scores.species_logits.square().sum()

    gradients = torch.autograd.grad(value(), parameters)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, generator=generator, dtype=DT) * p.detach().abs().mean() for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-5
    with torch.no_grad():
        for sign in (step, -2 * step):
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=sign)
            values.append(float(value()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.5e6, 2e6), ("small", 4e6, 12e6), ("base", 34e6, 36e6)])
def test_presets_have_their_sizes(name: str, low: float, high: float) -> None:
    with torch.device("meta"):
        model = GemNetDenoiser(PRESETS[name])
    assert low < sum(p.numel() for p in model.parameters()) < high


def test_base_is_the_published_network_without_its_energy_heads() -> None:
    # 44,562,021 trainable parameters, of which 9,218,560 never reach an output (spec 4).
    with torch.device("meta"):
        model = GemNetDenoiser(PRESETS["base"])
    assert sum(p.numel() for p in model.parameters()) == 44_562_021 - 9_218_560


def test_the_smallest_preset_runs_as_it_is(make_batch: Make) -> None:
    torch.manual_seed(0)
    model = GemNetDenoiser(PRESETS["tiny"])
    scores = model(make_batch([4, 2], dtype=torch.float32), torch.tensor([0.5, 0.7]))
    assert torch.isfinite(scores.frac_coords).all()
    assert scores.species_logits.shape == (6, 101)


CONFIGS = {
    **PRESETS,
    "conditioned": DenoiserConfig(OURS, (ConditionConfig("a", "log"), ConditionConfig("b", "category", "base", 7))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_round_trips_through_json(name: str) -> None:
    assert DenoiserConfig.from_dict(json.loads(json.dumps(CONFIGS[name].to_dict()))) == CONFIGS[name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"gemnett": {}}, "gemnett"),
        ({"gemnet": {"widht": 64}}, "widht"),
        ({"conditions": [{"name": "a", "knd": "log"}]}, "knd"),
        ({"gemnet": {"edge_rule": "mutuall"}}, "mutuall"),
        ({"gemnet": {"width": 0}}, "width"),
        ({"gemnet": {"cutoff": float("nan")}}, "cutoff"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DenoiserConfig.from_dict(data)
