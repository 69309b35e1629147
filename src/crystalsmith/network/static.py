"""The network on batches of one padded size, compiled once for all of them.

A compiled graph holds for one set of shapes. Neighbours are found as ever, then atoms, crystals and edges are padded
with crystals of their own that touch nothing else: an edge from their last atom to itself fills every free place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.neighbors import EdgeTable, build_edges
from crystalsmith.network.denoiser import GemNetDenoiser

_PAD_CELL = 10.0  # angstrom


class StaticDenoiser:
    """A denoiser that runs a network compiled by ``torch.compile`` at one size; larger batches are refused.

    Compiling takes a minute or more on a CPU; on CUDA the graph is captured as well. For inference only.

    Args:
        network: to be compiled.
        num_atoms: atoms of a padded batch, at least those of the batch and one for each crystal that is padded.
        num_crystals: crystals of a padded batch, one more than the largest batch holds.
        backend: of ``torch.compile``.
    """

    def __init__(self, network: GemNetDenoiser, num_atoms: int, num_crystals: int, backend: str = "inductor") -> None:
        self.network = network
        self.num_atoms, self.num_crystals = num_atoms, num_crystals
        on_gpu = next(network.parameters()).device.type == "cuda"
        mode = "reduce-overhead" if on_gpu and backend == "inductor" else None  # CUDA graphs
        self._score = torch.compile(self._plain, backend=backend, mode=mode, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def __call__(self, batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
        one, copies = batch.one, batch.copies
        gemnet = self.network.config.gemnet
        edges = build_edges(one, gemnet.cutoff, gemnet.max_neighbors, gemnet.edge_rule, gemnet.max_images)
        crystals, atoms = self.num_crystals - len(one), self.num_atoms - len(one.frac_coords)
        if crystals < 1 or atoms < crystals:
            raise ValueError(
                f"A batch of {len(one)} crystals and {len(one.frac_coords)} atoms does not fit into "
                f"{self.num_crystals} crystals and {self.num_atoms} atoms with one at least to spare."
            )
        padded = _pad_batch(one, crystals, atoms)
        # The rule "mutual" keeps to max_neighbors; "published" may exceed it, in steps of eight.
        width = max(gemnet.max_neighbors, -(-edges.shape[1] // 8) * 8 if edges.shape[1] > gemnet.max_neighbors else 0)
        table = _pad_edges(edges, self.num_atoms, width)
        given = {name: _pad_rows(value, copies, crystals) for name, value in (conditions or {}).items()}
        frac, cell, logits = self._score(
            padded.frac_coords,
            padded.cell,
            padded.atomic_numbers,
            padded.num_atoms,
            _pad_rows(t, copies, crystals, 0.5),
            *(getattr(table, name) for name in _EDGE_FIELDS),
            given,
            copies,
        )

        def own(x: Tensor, count: int) -> Tensor:
            """The rows of the true batch, out of the buffers that a captured graph writes again next time."""
            return x.unflatten(0, (copies, -1))[:, :count].flatten(0, 1).clone()

        return Scores(own(frac, len(one.frac_coords)), own(cell, len(one)), own(logits, len(one.frac_coords)))

    def _plain(
        self,
        frac_coords: Tensor,
        cell: Tensor,
        atomic_numbers: Tensor,
        num_atoms: Tensor,
        t: Tensor,
        *edges_and_more: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        *edge_fields, conditions, copies = edges_and_more
        one = CrystalBatch(frac_coords, cell, atomic_numbers, num_atoms)
        batch = one.repeat(copies) if copies > 1 else one
        scores = self.network.score(batch, t, EdgeTable(*edge_fields), conditions)
        return scores.frac_coords, scores.cell, scores.species_logits


_EDGE_FIELDS = ("source", "target", "vector", "distance", "mirror", "image", "first", "slot", "mask")


def _pad_batch(batch: CrystalBatch, crystals: int, atoms: int) -> CrystalBatch:
    """The batch followed by ``crystals`` cubes with ``atoms`` hydrogen atoms in all, one in each but the last."""
    sizes = batch.num_atoms.new_ones(crystals)
    sizes[-1] = atoms - crystals + 1
    cube = _PAD_CELL * torch.eye(3, dtype=batch.cell.dtype, device=batch.cell.device)
    return CrystalBatch(
        torch.cat([batch.frac_coords, batch.frac_coords.new_zeros(atoms, 3)]),
        torch.cat([batch.cell, cube.expand(crystals, 3, 3)]),
        torch.cat([batch.atomic_numbers, batch.atomic_numbers.new_ones(atoms)]),
        torch.cat([batch.num_atoms, sizes]),
    )


def _pad_edges(edges: EdgeTable, atoms: int, width: int) -> EdgeTable:
    """The same edges in a table of ``atoms`` rows and ``width`` columns, as long as that table is large.

    A padded edge is its own mirror, leaves and reaches the last atom, and stands in the table's last place, which the
    mask calls empty.
    """
    own, old_width = edges.shape
    free = atoms * width - edges.num_edges
    row = torch.div(edges.slot, old_width, rounding_mode="floor")

    def fill(x: Tensor, value: int) -> Tensor:
        return torch.cat([x, x.new_full((free, *x.shape[1:]), value)])

    numbers = torch.arange(edges.num_edges, atoms * width, device=edges.slot.device)
    mask = edges.mask.new_zeros(atoms, width)
    mask[:own, : min(width, old_width)] = edges.mask[:, :width]
    vector = fill(edges.vector, 0)
    vector[edges.num_edges :, 0] = 1.0
    return EdgeTable(
        source=fill(edges.source, atoms - 1),
        target=fill(edges.target, atoms - 1),
        vector=vector,
        distance=fill(edges.distance, 1),
        mirror=torch.cat([edges.mirror, numbers]),
        image=fill(edges.image, 0),
        first=torch.cat([edges.first, edges.first.new_full((atoms - own,), edges.num_edges)]),
        slot=fill(row * width + edges.slot - row * old_width, atoms * width - 1),
        mask=mask,
    )


def _pad_rows(values: Tensor, copies: int, rows: int, value: float | None = None) -> Tensor:
    """``rows`` more after each of the ``copies``; conditions of padded crystals are unlabelled."""
    if value is None:
        value = float("nan") if values.dim() == 1 else 0.0
    parts = values.unflatten(0, (copies, -1))
    return torch.cat([parts, parts.new_full((copies, rows, *values.shape[1:]), value)], 1).flatten(0, 1)
