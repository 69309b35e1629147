"""Laws of the random streams: known answers, independence, moments."""

from __future__ import annotations

import math

import pytest
import torch

from crystalsmith.diffusion.noise import CrystalNoise, GlobalNoise, crystal_uniform, philox, sample_by_uniform


def words(counter: list[int], key: tuple[int, int]) -> list[str]:
    c0, c1, c2, c3 = (torch.tensor([c]) for c in counter)
    return [f"{int(word):08x}" for word in philox((c0, c1, c2, c3), key)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        # Counter and key are digits of pi.
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: list[int], key: tuple[int, int], expected: str) -> None:
    assert words(counter, key) == expected.split()


def noise(indices: list[int], sizes: list[int], seed: int = 7) -> CrystalNoise:
    return CrystalNoise(seed, torch.tensor(indices), torch.tensor(sizes))


def test_a_crystal_has_the_same_stream_in_any_batch() -> None:
    together = noise([3, 9, 4], [5, 2, 7]).at(12, 1)
    alone = noise([4], [7]).at(12, 1)
    log_probs = torch.randn(14, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(together.atoms()[7:], alone.atoms())
    assert torch.equal(together.cell()[2:], alone.cell())
    assert torch.equal(together.categorical(log_probs)[7:], alone.categorical(log_probs[7:]))


def test_draws_do_not_depend_on_the_order_of_the_calls() -> None:
    draw = noise([0, 1], [2, 3]).at(5, 2)
    cell, atoms = draw.cell(), draw.atoms()
    again = noise([0, 1], [2, 3]).at(5, 2)
    assert torch.equal(again.atoms(), atoms)
    assert torch.equal(again.cell(), cell)


def test_every_part_of_the_address_changes_the_numbers() -> None:
    def flat(seed: int, index: int, step: int, stage: int) -> torch.Tensor:
        draw = noise([index], [4], seed).at(step, stage)
        return torch.cat([draw.atoms().view(-1), draw.cell().view(-1)])

    draws = [
        flat(*address)
        for address in [
            (7, 0, 0, 0),
            (8, 0, 0, 0),
            (7 + 2**32, 0, 0, 0),  # the upper half of the seed counts
            (-7, 0, 0, 0),
            (7, 1, 0, 0),
            (7, 0, 1, 0),
            (7, 0, 0, 1),
            (7, 0, 0, 2),
        ]
    ]
    numbers = torch.cat(draws)
    assert len(numbers.unique()) == len(numbers)


def test_normals_are_standard_and_uncorrelated() -> None:
    crystals, steps = 400, 5
    source = noise(list(range(crystals)), [4] * crystals)
    z = torch.stack(
        [
            torch.cat([source.at(s, 1).atoms().view(crystals, 12), source.at(s, 1).cell().view(crystals, 9)], 1)
            for s in range(steps)
        ]
    ).double()
    count = z.numel()
    assert abs(z.mean()) < 4 / math.sqrt(count)
    assert abs(z.square().mean() - 1) < 4 * math.sqrt(2 / count)
    assert abs(z.pow(4).mean() - 3) < 4 * math.sqrt(96 / count)
    pairs = {
        "neighbouring steps": (z[1:], z[:-1]),
        "neighbouring crystals": (z[:, 1:], z[:, :-1]),
        "neighbouring positions": (z[:, :, 1:], z[:, :, :-1]),
    }
    for name, (a, b) in pairs.items():
        assert abs((a * b).mean()) < 4 / math.sqrt(a.numel()), name
        assert abs((a.square() * b.square()).mean() - 1) < 4 * math.sqrt(8 / a.numel()), name


def test_neighbouring_seeds_are_uncorrelated() -> None:
    a, b = (noise(list(range(500)), [4] * 500, seed).at(1, 1).atoms() for seed in (0, 1))
    assert abs((a * b).mean()) < 4 / math.sqrt(a.numel())


@pytest.mark.parametrize("kind", ["crystal", "global"])
def test_categories_have_their_probabilities(kind: str) -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    sizes = torch.full((2000,), 5)
    source = (
        CrystalNoise(1, torch.arange(2000), sizes)
        if kind == "crystal"
        else GlobalNoise(torch.Generator().manual_seed(1), sizes)
    )
    drawn = source.at(3, 2).categorical(probs.log().expand(10_000, 4))
    found = torch.bincount(drawn, minlength=4) / 10_000
    assert found[1] == 0
    assert ((found - probs).abs() <= 4 * (probs * (1 - probs) / 10_000).sqrt()).all()


def test_inverting_the_distribution_never_chooses_an_impossible_class() -> None:
    ends = torch.tensor([0.0, 1 - 2.0**-33], dtype=torch.float64)  # torch.rand can give 0
    impossible = float("-inf")
    log_probs = torch.tensor([[impossible, 0.0, impossible, 1.0, impossible]]).expand(2, 5)
    assert sample_by_uniform(log_probs, ends).tolist() == [1, 3]


def test_adding_a_constant_to_log_probabilities_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    log_probs = torch.randn(500, 7, generator=generator, dtype=torch.float64)
    uniform = torch.rand(500, generator=generator, dtype=torch.float64)
    assert torch.equal(sample_by_uniform(log_probs, uniform), sample_by_uniform(log_probs + 30.0, uniform))


def test_crystal_uniform_is_uniform_and_one_number_per_field() -> None:
    u = crystal_uniform(0, torch.arange(20_000), 0)
    assert u.dtype == torch.float64
    assert 0 < u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    histogram = torch.histc(u, 20, 0, 1)
    chi2 = ((histogram - 1000).square() / 1000).sum()
    assert chi2 < 43.8  # 99.9 % of 19 degrees of freedom
    other = crystal_uniform(0, torch.arange(20_000), 1)
    assert abs(((u - 0.5) * (other - 0.5)).mean() * 12) < 4 / math.sqrt(20_000)
    assert torch.equal(crystal_uniform(0, torch.tensor([77]), 0), u[77:78])


def test_global_noise_follows_its_generator() -> None:
    def draws() -> tuple[torch.Tensor, torch.Tensor]:
        draw = GlobalNoise(torch.Generator().manual_seed(5), torch.tensor([2, 3]), torch.float64).at(0, 0)
        return draw.atoms(), draw.cell()

    (atoms, cell), (atoms2, cell2) = draws(), draws()
    assert atoms.shape == (5, 3)
    assert cell.shape == (2, 3, 3)
    assert atoms.dtype == torch.float64
    assert torch.equal(atoms, atoms2)
    assert torch.equal(cell, cell2)
