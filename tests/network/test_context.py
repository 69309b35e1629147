"""Laws of the crystal context: what a crystal adds to its own cell does not depend on its neighbours in the batch."""

from __future__ import annotations

import torch
from torch import nn

from crystalsmith.network.context import CrystalContext


def test_the_cell_output_of_a_crystal_is_the_same_to_the_bit_in_any_batch(make_batch) -> None:
    torch.manual_seed(0)
    context = CrystalContext(128, 1)
    last = context.head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight)  # zero at first, which would agree with anything
    batch = make_batch([4, 7, 1, 12, 9, 3] * 4, dtype=torch.float32)
    h = torch.randn(len(batch.frac_coords), 128)
    together = context.read(batch, h)
    assert together.abs().max() > 0.01
    for count in (1, 2, 6, 11):
        part = batch.select(list(range(count)))
        alone = context.read(part, h[: len(part.frac_coords)])
        assert torch.equal(alone, together[:count])
