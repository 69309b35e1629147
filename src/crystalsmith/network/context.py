"""What an atom knows of its crystal as a whole, beyond the reach of edges.

Messages along edges learn geometry from few examples, but the composition and the size of the cell are properties of
the whole crystal: sums over all its atoms say them at once. Every output layer starts at zero, so that a fresh network
is the same function with and without this context.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalsmith.crystals import CrystalBatch


class CrystalContext(nn.Module):
    """Crystal-level features in, means over atoms between blocks, and a cell output that the mean atom drives."""

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__()
        self.embedding = _mlp(2, width, width)
        self.pools = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.SiLU()) for _ in range(num_blocks))
        self.mixes = nn.ModuleList(_zero(nn.Linear(width, width)) for _ in range(num_blocks))
        self.head = _mlp(width, width, 3)

    def embed(self, batch: CrystalBatch) -> Tensor:
        """``(B, width)`` from log volume per atom and log number of atoms."""
        n = batch.num_atoms.to(batch.cell.dtype)
        volume = (batch.volume / n).clamp(1e-2, 1e6).log() - 3.0
        return self.embedding(torch.stack([volume, n.log() - 2.0], -1))

    def share(self, block: int, batch: CrystalBatch, h: Tensor) -> Tensor:
        """``(N, width)``, the same for all atoms of a crystal: W mean(silu(V h)) before the given block (deep sets)."""
        return self.mixes[block](_mean(batch, self.pools[block](h)))[batch.batch_index]

    def read(self, batch: CrystalBatch, h: Tensor) -> Tensor:
        """``(B, 3, 3)`` = c0 I + c1 G + c2 G^2, c from the mean atom, G = 3 L^T L / tr(L^T L)."""
        coefficients = _in_double(self.head, _mean(batch, h)).view(-1, 3, 1, 1)
        gram = batch.cell.transpose(1, 2) @ batch.cell
        gram = 3.0 * gram / gram.diagonal(dim1=1, dim2=2).sum(-1).view(-1, 1, 1)
        eye = torch.eye(3, dtype=gram.dtype, device=gram.device)
        return coefficients[:, 0] * eye + coefficients[:, 1] * gram + coefficients[:, 2] * (gram @ gram)


def _mean(batch: CrystalBatch, h: Tensor) -> Tensor:
    """Mean ``(N, C)`` over the atoms of each crystal, ``(B, C)``, summed in float32 at least."""
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    sums = torch.zeros(batch.num_crystals, h.shape[-1], dtype=wide.dtype, device=h.device)
    return sums.index_add(0, batch.batch_index, wide) / batch.num_atoms.to(wide.dtype).unsqueeze(-1)


def _in_double(mlp: nn.Sequential, x: Tensor) -> Tensor:
    """An MLP evaluated in float64 and rounded once.

    float32 products round differently with the number of rows, and with bf16 elsewhere this was the one place where a
    crystal felt the size of its batch; the last bit of the cell grew into other crystals.
    """
    first, activation, last = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    # Apple's device has no float64: these few rows go to the host and back.
    there = torch.device("cpu") if x.device.type == "mps" else x.device
    values, w1, b1, w2, b2 = (y.to(there).double() for y in (x, first.weight, first.bias, last.weight, last.bias))
    return F.linear(activation(F.linear(values, w1, b1)), w2, b2).to(x.dtype).to(x.device)


def _mlp(fan_in: int, width: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(fan_in, width), nn.SiLU(), _zero(nn.Linear(width, fan_out)))


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
