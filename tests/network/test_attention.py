"""Laws of the attention among atoms: nothing at first, crystals apart, atoms alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from crystalsmith.crystals import CrystalBatch
from crystalsmith.network.attention import CrystalAttention, all_pairs
from crystalsmith.network.denoiser import PRESETS, GemNetDenoiser

Make = Callable[..., CrystalBatch]


def layer(width: int = 16) -> CrystalAttention:
    torch.manual_seed(0)
    made = CrystalAttention(width, 4).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


def test_a_network_that_gains_attention_is_the_same_function(make_batch: Make) -> None:
    batch, t = make_batch([3, 5], dtype=torch.float32), torch.tensor([0.2, 0.9])
    config = PRESETS["tiny"]
    plain = GemNetDenoiser(config)
    more = GemNetDenoiser(dataclasses.replace(config, gemnet=dataclasses.replace(config.gemnet, attention_heads=4)))
    more.load_state_dict(plain.state_dict(), strict=False)
    for one, other in zip(vars(plain(batch, t)).values(), vars(more(batch, t)).values(), strict=True):
        assert torch.equal(one, other)


def test_crystals_do_not_see_one_another_and_copies_are_equal(make_batch: Make) -> None:
    attention, batch = layer(), make_batch([2, 7, 1])
    h = torch.randn(10, 16, dtype=torch.float64)
    together = attention(h, all_pairs(batch))
    alone = attention(h[2:9], all_pairs(make_batch([7])))
    assert torch.allclose(together[2:9], alone, atol=1e-13)
    twice = attention(h.repeat(2, 1), all_pairs(batch, copies=2))
    assert torch.allclose(twice, together.repeat(2, 1), atol=1e-13)


def test_the_order_of_atoms_does_not_matter(make_batch: Make) -> None:
    attention, batch = layer(), make_batch([6])
    h = torch.randn(6, 16, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    pairs = all_pairs(batch)
    assert torch.allclose(attention(h[order], pairs), attention(h, pairs)[order])


def test_it_is_softmax_attention_for_small_logits(make_batch: Make) -> None:
    attention, batch = layer(), make_batch([4])
    h = 0.1 * torch.randn(4, 16, dtype=torch.float64)
    with torch.no_grad():
        attention.project.weight.mul_(0.1)
    x = attention.norm(h)
    q, k, v = (y.unflatten(-1, (4, -1)).transpose(0, 1) for y in attention.project(x).chunk(3, -1))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
    middle = h + attention.out(mixed)
    expected = middle + attention.feed(attention.feed_norm(middle))
    assert torch.allclose(attention(h, all_pairs(batch)), expected, atol=1e-3)
