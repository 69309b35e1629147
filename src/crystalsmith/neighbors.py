"""Periodic neighbours as an edge list sorted by target atom, with the table that pads it to atoms x neighbours.

An edge e = (source image -> target) carries the vector d from the target to the source image. Every edge has its
mirror (source and target exchanged, -d). Two rules choose the edges:

``mutual`` (ours): within the cut-off and among the ``max_neighbors`` nearest of both ends; a shell of equal distances
that would cross the limit is dropped whole. Neither the order of the atoms nor the choice of origin matters.

``published``: the candidates of the higher-numbered atom decide, their mirrors follow (MatterGen 1.0.3). The kept set
depends on the order of the atoms; an atom can have more than ``max_neighbors`` edges.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from crystalsmith.crystals import CrystalBatch, wrap

EdgeRule = Literal["mutual", "published"]

_SELF_DISTANCE2 = 1e-4  # square angstrom; nearer images are the atom itself
_SHELL_TOLERANCE = 1e-3  # angstrom; distances this close belong to one shell


@dataclass(frozen=True)
class EdgeTable:
    """E directed edges of a batch of N atoms, sorted by target.

    Attributes:
        source, target: ``(E,)`` atom indices.
        vector: ``(E, 3)``, from the target atom to the source image, angstrom.
        distance: ``(E,)``, angstrom.
        mirror: ``(E,)``, the index of each edge's mirror; an involution.
        image: ``(E, 3)``, lattice translation of the source image.
        first: ``(N,)``, index of the first edge of each target.
        slot: ``(E,)``, position ``target * width + rank`` of each edge in the padded table.
        mask: ``(N, width)``, which entries of the padded table hold an edge.
    """

    source: Tensor
    target: Tensor
    vector: Tensor
    distance: Tensor
    mirror: Tensor
    image: Tensor
    first: Tensor
    slot: Tensor
    mask: Tensor

    @property
    def num_edges(self) -> int:
        """E."""
        return self.source.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, width) of the padded table."""
        return self.mask.shape[0], self.mask.shape[1]

    def to(self, device: torch.device) -> EdgeTable:
        """The table on another device."""
        return EdgeTable(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def repeat(self, copies: int) -> EdgeTable:
        """The table of a batch in which the same crystals stand ``copies`` times (``CrystalBatch.repeat``)."""
        if copies == 1:
            return self
        (atoms, width), step = self.shape, torch.arange(copies, device=self.source.device).unsqueeze(-1)

        def shifted(index: Tensor, by: int) -> Tensor:
            return (index + by * step).view(-1)

        return EdgeTable(
            source=shifted(self.source, atoms),
            target=shifted(self.target, atoms),
            vector=self.vector.repeat(copies, 1),
            distance=self.distance.repeat(copies),
            mirror=shifted(self.mirror, self.num_edges),
            image=self.image.repeat(copies, 1),
            first=shifted(self.first, self.num_edges),
            slot=shifted(self.slot, atoms * width),
            mask=self.mask.repeat(copies, 1),
        )

    def pad(self, x: Tensor) -> Tensor:
        """Edge values ``(E, C)`` as a padded table ``(N, width, C)``, zero where there is no edge."""
        return _Pad.apply(x, self.slot, self.shape)

    def unpad(self, table: Tensor) -> Tensor:
        """A padded table ``(N, width, C)`` as edge values ``(E, C)``."""
        return _Unpad.apply(table, self.slot)

    def swap(self, x: Tensor) -> Tensor:
        """Values ``(E, C)`` of each edge's mirror."""
        return _Swap.apply(x, self.mirror)

    def sum_to_target(self, x: Tensor) -> Tensor:
        """Sum ``(E, C)`` over the edges of each target atom, ``(N, C)``."""
        return _SumToTarget.apply(x, self.target, self.first)

    def at_target(self, h: Tensor) -> Tensor:
        """Atom values ``(N, C)`` at each edge's target, ``(E, C)``."""
        return _AtTarget.apply(h, self.target, self.first)

    def at_source(self, h: Tensor) -> Tensor:
        """Atom values ``(N, C)`` at each edge's source, ``(E, C)``."""
        return _AtSource.apply(h, self.source, self.mirror, self.first)


def build_edges(
    batch: CrystalBatch,
    cutoff: float,
    max_neighbors: int,
    rule: EdgeRule = "mutual",
    max_images: int = 5,
) -> EdgeTable:
    """Neighbours of every atom of a batch.

    Args:
        batch: B crystals; coordinates may lie in any cell.
        cutoff: angstrom.
        max_neighbors: see the rules in the module's text.
        rule: ``mutual`` or ``published``.
        max_images: images searched per direction at most (published: 5).
    """
    with torch.autocast(batch.frac_coords.device.type, enabled=False):
        grid = _Candidates.of(batch, cutoff, max_images)
        key, distance2 = grid.search(cutoff)
        choose = _mutual if rule == "mutual" else _published
        return _tabulate(grid, choose(grid, key, distance2, cutoff, max_neighbors))


@dataclass(frozen=True)
class _Candidates:
    """All ordered pairs (target i, source j) of atoms of one crystal times all images; a key names one of them.

    key = pair * M + image. Pairs are sorted by target, images are symmetric, so that M - 1 - image is the opposite one.
    The grid of images reaches the cut-off only between atoms of one cell, so atoms are brought into [0, 1) first;
    ``home (N, 3)`` is the cell that each came from.
    """

    target: Tensor
    source: Tensor
    opposite: Tensor
    difference: Tensor
    translation: Tensor
    pair_crystal: Tensor
    images: Tensor
    home: Tensor
    cart: Tensor
    cell: Tensor

    @property
    def num_atoms_total(self) -> int:
        """N."""
        return self.cart.shape[0]

    @staticmethod
    def of(batch: CrystalBatch, cutoff: float, max_images: int) -> _Candidates:
        cell, n = batch.cell, batch.num_atoms
        images = _image_grid(cell, cutoff, max_images)
        per_atom = n[batch.batch_index]
        total, device = batch.frac_coords.shape[0], n.device
        atoms = torch.arange(total, device=device)
        target = torch.repeat_interleave(atoms, per_atom)
        first_pair = torch.cumsum(per_atom, 0) - per_atom
        first_atom = (torch.cumsum(n, 0) - n)[batch.batch_index]
        source = torch.arange(len(target), device=device) - first_pair[target] + first_atom[target]
        opposite = first_pair[source] + target - first_atom[source]
        inside = wrap(batch.frac_coords)
        cart = torch.einsum("ni,nij->nj", inside, cell[batch.batch_index])
        return _Candidates(
            target=target,
            source=source,
            opposite=opposite,
            difference=cart[source] - cart[target],
            translation=torch.einsum("mi,bij->bjm", images.to(cell.dtype), cell),
            pair_crystal=batch.batch_index[target],
            images=images,
            home=(batch.frac_coords - inside).round().long(),
            cart=cart,
            cell=cell,
        )

    def search(self, cutoff: float) -> tuple[Tensor, Tensor]:
        """Keys (ascending) and squared distances of all candidates within the cut-off.

        The grid of images is that of the flattest cells of the batch, a thousand of them and more. A pair of atoms
        looks only at translations that are no longer than the cut-off and its own difference together.
        """
        pair, place, shift, image = self._within_reach(cutoff)
        difference = self.difference.t().contiguous()
        distance2 = (shift[0][place] + difference[0][pair]).square_()
        for axis in (1, 2):
            component = shift[axis][place].add_(difference[axis][pair])
            distance2.addcmul_(component, component)
        near = ((distance2 <= cutoff * cutoff) & (distance2 > _SELF_DISTANCE2)).nonzero().view(-1)
        key, order = (pair[near] * len(self.images) + image[place[near]]).sort()
        return key, distance2[near[order]]

    def _within_reach(self, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which translation may bring which pair together.

        Returns:
            ``pair (C,)`` and ``place (C,)``, the combinations, and the translations that places count: their vectors
            ``(3, L)`` and images ``(L,)``.
        """
        reach = (self.difference.double().norm(dim=-1) + cutoff) * 1.0001  # with a margin over rounding
        reach = reach.nan_to_num(nan=0.0, posinf=0.0)  # a crystal that is not finite has no edges
        furthest = reach.new_zeros(len(self.cell)).scatter_reduce_(0, self.pair_crystal, reach, "amax")
        length = self.translation.double().norm(dim=1)
        crystal, image = (length <= furthest.unsqueeze(-1)).nonzero().unbind(-1)
        # Lengths of all crystals in one ascending list: those of each crystal lie in a range of their own.
        apart = 2.0 * furthest.max() if len(furthest) else 0.0
        ascending, order = (length[crystal, image] + crystal * apart).sort()
        crystal, image = crystal[order], image[order]
        in_crystal = _counts(crystal, len(self.cell))
        first = (torch.cumsum(in_crystal, 0) - in_crystal)[self.pair_crystal]
        count = torch.searchsorted(ascending, reach + self.pair_crystal * apart, right=True) - first
        pair = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        start = first - (torch.cumsum(count, 0) - count)
        place = torch.arange(len(pair), device=count.device).add_(start[pair])
        return pair, place, self.translation[crystal, :, image].t().contiguous(), image

    def split(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Pair and image of each key."""
        pair = torch.div(key, len(self.images), rounding_mode="floor")
        return pair, key - pair * len(self.images)

    def mirror(self, key: Tensor) -> Tensor:
        """The key of the mirrored edge."""
        pair, image = self.split(key)
        return self.opposite[pair] * len(self.images) + (len(self.images) - 1 - image)


def _image_grid(cell: Tensor, cutoff: float, max_images: int) -> Tensor:
    """``(M, 3)`` translations that reach the cut-off in every crystal, ceil(cutoff / height) a direction, in order."""
    heights = torch.linalg.det(cell).abs().unsqueeze(-1) / torch.linalg.cross(
        cell.roll(-1, 1), cell.roll(-2, 1), dim=-1
    ).norm(dim=-1)
    needed = torch.ceil(cutoff / heights).nan_to_num(nan=max_images).clamp(1, max_images).amax(0)
    bounds = [int(n) for n in needed.tolist()]
    axes = [torch.arange(-n, n + 1, device=cell.device) for n in bounds]
    return torch.cartesian_prod(*axes)


def _counts(index: Tensor, size: int) -> Tensor:
    """``(size,)``, how often each of 0 .. size - 1 occurs; unlike ``bincount``, without a wait for the device."""
    return torch.zeros(size, dtype=torch.int64, device=index.device).index_add_(0, index, torch.ones_like(index))


def _ranked(grid: _Candidates, key: Tensor, distance2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Target of each candidate, its rank within the target (order of keys), and the number of candidates per atom."""
    target = grid.target[grid.split(key)[0]]
    count = _counts(target, grid.num_atoms_total)
    first = torch.cumsum(count, 0) - count
    rank = torch.arange(len(key), device=key.device) - first[target]
    return target, rank, count


def _distance_table(
    target: Tensor, rank: Tensor, atoms: int, widest: int, distance2: Tensor, empty: float = float("inf")
) -> Tensor:
    """Squared distances ``(atoms, widest)``, ``empty`` where there is no candidate."""
    table = torch.full((atoms, widest), empty, dtype=distance2.dtype, device=distance2.device)
    table.view(-1)[target * widest + rank] = distance2
    return table


def _mutual(grid: _Candidates, key: Tensor, distance2: Tensor, cutoff: float, max_neighbors: int) -> Tensor:
    target, rank, count = _ranked(grid, key, distance2)
    if len(key) == 0 or (widest := int(count.max())) <= max_neighbors:
        return key
    table = _distance_table(target, rank, len(count), widest, distance2)
    first_left_out = table.topk(max_neighbors + 1, dim=1, largest=False, sorted=True).values[:, -1].sqrt()
    limit = torch.where(
        count > max_neighbors, first_left_out - _SHELL_TOLERANCE, torch.full_like(first_left_out, cutoff)
    )
    source = grid.source[grid.split(key)[0]]
    return key[distance2.sqrt() <= torch.minimum(limit[target], limit[source])]


def _published_distance2(grid: _Candidates, key: Tensor) -> Tensor:
    """Squared distances, rounded as in the published code: image added to the source before the target is taken off."""
    pair, image = grid.split(key)
    images = grid.images.to(grid.cart.dtype).t().expand(len(grid.cell), -1, -1)
    translation = torch.bmm(grid.cell.transpose(1, 2), images)
    source_image = grid.cart[grid.source[pair]] + translation[grid.pair_crystal[pair], :, image]
    return torch.sum((grid.cart[grid.target[pair]] - source_image) ** 2, dim=1)


def _published(grid: _Candidates, key: Tensor, distance2: Tensor, cutoff: float, max_neighbors: int) -> Tensor:
    target, rank, count = _ranked(grid, key, distance2)
    if len(key) and (widest := int(count.max())) > max_neighbors:
        # An atom is as far from its image +N as from -N, and the limit may fall between the two. The published code
        # then keeps what the rounding of its arithmetic and an unstable sort happen to put first; the same arithmetic
        # and the same sort decide the same way (on one machine, with one version of torch).
        rounded = _published_distance2(grid, key)
        table = _distance_table(target, rank, len(count), widest, rounded, cutoff * cutoff + 1)
        chosen = table.sort(dim=1).indices[:, :max_neighbors]
        nearest = torch.zeros(table.shape, dtype=torch.bool, device=key.device).scatter_(1, chosen, True)
        keep = nearest.view(-1)[target * table.shape[1] + rank]
        key, target = key[keep], target[keep]
    pair, image = grid.split(key)
    source = grid.source[pair]
    # The images stand in lexicographic order, so the "negative" ones are the first half.
    half = (source < target) | ((source == target) & (image < len(grid.images) // 2))
    key = key[half]
    return torch.cat([key, grid.mirror(key)]).sort().values


def _tabulate(grid: _Candidates, key: Tensor) -> EdgeTable:
    pair, image = grid.split(key)
    target, source = grid.target[pair], grid.source[pair]
    count = _counts(target, grid.num_atoms_total)
    first = torch.cumsum(count, 0) - count
    width = max(int(count.max()), 1) if len(count) else 1
    vector = grid.difference[pair] + grid.translation[grid.pair_crystal[pair], :, image]
    return EdgeTable(
        source=source,
        target=target,
        vector=vector,
        distance=vector.norm(dim=-1),
        mirror=torch.searchsorted(key, grid.mirror(key)),
        image=grid.images[image] + grid.home[target] - grid.home[source],
        first=first,
        slot=target * width + torch.arange(len(key), device=key.device) - first[target],
        mask=torch.arange(width, device=key.device) < count.unsqueeze(-1),
    )


# Gather and sum with backward passes that gather as well: an edge stands in the table once, and the edges that leave
# an atom are the mirrors of those that reach it. Scattering with duplicates never happens. Rows are taken by
# index_select, which copies them whole: on a CPU x[index] is ten times slower for the same rows.


def _segment_sum(x: Tensor, order: Tensor, first: Tensor) -> Tensor:
    """Sum of ``x[order]`` over consecutive segments that begin at ``first``."""
    if len(order) == 0:
        return x.new_zeros(len(first), x.shape[-1])
    return torch.embedding_bag(x.contiguous(), order, first, False, 0)[0]


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(slot)
        return x.new_zeros(shape[0] * shape[1], x.shape[-1]).index_copy_(0, slot, x).view(*shape, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].reshape(-1, grads[0].shape[-1]).index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.shape = table.shape
        return table.reshape(-1, table.shape[-1]).index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, width, channels = ctx.shape
        grad = grads[0].new_zeros(rows * width, channels)
        return grad.index_copy_(0, ctx.saved_tensors[0], grads[0]).view(ctx.shape), None


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mirror: Tensor) -> Tensor:
        ctx.save_for_backward(mirror)
        return x.index_select(0, mirror)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None


class _SumToTarget(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, first: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        return _segment_sum(x, torch.arange(len(target), device=x.device), first)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _AtTarget(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, target: Tensor, first: Tensor) -> Tensor:
        ctx.save_for_backward(first)
        return h.index_select(0, target)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        order = torch.arange(len(grads[0]), device=grads[0].device)
        return _segment_sum(grads[0], order, ctx.saved_tensors[0]), None, None


class _AtSource(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, source: Tensor, mirror: Tensor, first: Tensor) -> Tensor:
        ctx.save_for_backward(mirror, first)
        return h.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        mirror, first = ctx.saved_tensors
        return _segment_sum(grads[0], mirror, first), None, None, None
