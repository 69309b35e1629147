"""Every tensor of a published checkpoint: names, shapes and kinds, in the order of the file.

Names stand without ``diffusion_module.model.``. The published network carries an energy head in each output block that
reaches no output, and files the layers of that head under two names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from crystalsmith.elements import NUM_CLASSES
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig
from crystalsmith.network.gemnet import GemNetConfig

Role = Literal["parameter", "scale", "buffer", "energy", "energy_scale", "duplicate"]


@dataclass(frozen=True)
class PublishedTensor:
    """One entry of a published ``state_dict``.

    Attributes:
        name: without the prefix of all names.
        shape: of the tensor.
        role: "parameter"; "scale" (frozen scalar parameter); "buffer"; "energy" and "energy_scale" (the same in an
            energy head); "duplicate" (a second name).
        copy_of: the name whose numbers a duplicate repeats.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "parameter"
    copy_of: str | None = None


def published_layout(config: DenoiserConfig) -> dict[str, PublishedTensor]:
    """The tensors by name that the published code writes for a network of these sizes and conditions."""
    return {tensor.name: tensor for tensor in _tensors(config)}


def count_parameters(layout: Iterable[PublishedTensor]) -> tuple[int, int]:
    """Parameters as the published code counts them, and those left without the weights of the energy heads."""
    sizes = {"all": 0, "energy": 0}
    for tensor in layout:
        if tensor.role not in ("buffer", "duplicate"):
            sizes["all"] += math.prod(tensor.shape)
        if tensor.role == "energy":
            sizes["energy"] += math.prod(tensor.shape)
    return sizes["all"], sizes["all"] - sizes["energy"]


def _tensors(config: DenoiserConfig) -> Iterator[PublishedTensor]:
    gemnet, width = config.gemnet, config.gemnet.width
    base = sorted((c for c in config.conditions if c.place == "base"), key=lambda c: c.name)
    adapters = sorted((c for c in config.conditions if c.place == "adapter"), key=lambda c: c.name)
    yield from _shared(gemnet, len(base))
    for block in range(gemnet.num_blocks + 1):
        yield from _out_block(gemnet, f"gemnet.out_blocks.{block}")
    for block in range(gemnet.num_blocks):
        yield from _interaction_block(gemnet, f"gemnet.int_blocks.{block}")
    yield from _adapters(gemnet, [c.name for c in adapters])
    yield PublishedTensor("noise_level_encoding.div_term", (width // 2,), "buffer")
    yield PublishedTensor("fc_atom.weight", (NUM_CLASSES, width))
    yield PublishedTensor("fc_atom.bias", (NUM_CLASSES,))
    for group, conditions in (("property_embeddings", base), ("property_embeddings_adapt", adapters)):
        for condition in conditions:
            yield from _property(condition, f"{group}.{condition.name}", width)


def _shared(c: GemNetConfig, num_base: int) -> Iterator[PublishedTensor]:
    width = c.width
    yield PublishedTensor("gemnet.angle_edge_emb.0.weight", (width, width + 3))
    yield PublishedTensor("gemnet.angle_edge_emb.0.bias", (width,))
    yield PublishedTensor("gemnet.angle_edge_emb.2.weight", (width, width))
    yield PublishedTensor("gemnet.angle_edge_emb.2.bias", (width,))
    offset = "gemnet.radial_basis.rbf.offset"
    yield PublishedTensor(offset, (c.num_radial,), "buffer")
    yield PublishedTensor("gemnet.cbf_basis3.radial_basis.rbf.offset", (c.num_radial,), "buffer", copy_of=offset)
    for block in range(c.num_blocks + 1):
        head = f"gemnet.lattice_out_blocks.{block}"
        yield PublishedTensor(f"{head}.mlp.0.linear.weight", (width, width))
        yield PublishedTensor(f"{head}.mlp.1.linear.weight", (width, width))
        yield PublishedTensor(f"{head}.dense_rbf_F.linear.weight", (width, c.width_rbf))
        yield PublishedTensor(f"{head}.out_forces.linear.weight", (1, width))
    yield PublishedTensor("gemnet.mlp_rbf_lattice.linear.weight", (c.width_rbf, c.num_radial))
    yield PublishedTensor("gemnet.mlp_rbf3.linear.weight", (c.width_rbf, c.num_radial))
    yield PublishedTensor("gemnet.mlp_cbf3.weight", (c.num_spherical, c.num_radial, c.width_cbf))
    yield PublishedTensor("gemnet.mlp_rbf_h.linear.weight", (c.width_rbf, c.num_radial))
    yield PublishedTensor("gemnet.mlp_rbf_out.linear.weight", (c.width_rbf, c.num_radial))
    yield PublishedTensor("gemnet.atom_emb.embeddings.weight", (NUM_CLASSES, width))
    yield PublishedTensor("gemnet.atom_latent_emb.weight", (width, width * (2 + num_base)))
    yield PublishedTensor("gemnet.atom_latent_emb.bias", (width,))
    yield PublishedTensor("gemnet.edge_emb.dense.linear.weight", (width, 2 * width + c.num_radial))


def _out_block(c: GemNetConfig, block: str) -> Iterator[PublishedTensor]:
    width = c.width
    yield PublishedTensor(f"{block}.dense_rbf.linear.weight", (width, c.width_rbf), "energy")
    yield PublishedTensor(f"{block}.scale_sum.scale_factor", (), "energy_scale")
    stack = ["0.linear.weight"]
    stack += [f"{i + 1}.dense_mlp.{j}.linear.weight" for i in range(c.head_residuals) for j in (0, 1)]
    for name in stack:
        yield PublishedTensor(f"{block}.layers.{name}", (width, width), "energy")
    for name in stack:
        yield PublishedTensor(f"{block}.seq_energy.{name}", (width, width), "duplicate", f"{block}.layers.{name}")
    yield PublishedTensor(f"{block}.out_energy.linear.weight", (1, width), "energy")
    yield PublishedTensor(f"{block}.scale_rbf_F.scale_factor", (), "scale")
    for name in stack:
        yield PublishedTensor(f"{block}.seq_forces.{name}", (width, width))
    yield PublishedTensor(f"{block}.out_forces.linear.weight", (1, width))
    yield PublishedTensor(f"{block}.dense_rbf_F.linear.weight", (width, c.width_rbf))


def _interaction_block(c: GemNetConfig, block: str) -> Iterator[PublishedTensor]:
    width, triplets = c.width, f"{block}.trip_interaction"
    yield PublishedTensor(f"{block}.dense_ca.linear.weight", (width, width))
    yield PublishedTensor(f"{triplets}.dense_ba.linear.weight", (width, width))
    yield PublishedTensor(f"{triplets}.mlp_rbf.linear.weight", (width, c.width_rbf))
    yield PublishedTensor(f"{triplets}.scale_rbf.scale_factor", (), "scale")
    yield PublishedTensor(f"{triplets}.mlp_cbf.weight", (c.width_triplet, c.width_cbf, c.width_bilinear))
    yield PublishedTensor(f"{triplets}.scale_cbf_sum.scale_factor", (), "scale")
    yield PublishedTensor(f"{triplets}.down_projection.linear.weight", (c.width_triplet, width))
    yield PublishedTensor(f"{triplets}.up_projection_ca.linear.weight", (width, c.width_bilinear))
    yield PublishedTensor(f"{triplets}.up_projection_ac.linear.weight", (width, c.width_bilinear))
    yield from _residuals(f"{block}.layers_before_skip", range(1), width)
    yield from _residuals(f"{block}.layers_after_skip", range(2), width)
    yield PublishedTensor(f"{block}.atom_update.dense_rbf.linear.weight", (width, c.width_rbf))
    yield PublishedTensor(f"{block}.atom_update.scale_sum.scale_factor", (), "scale")
    yield PublishedTensor(f"{block}.atom_update.layers.0.linear.weight", (width, width))
    yield from _residuals(f"{block}.atom_update.layers", range(1, 4), width)
    yield PublishedTensor(f"{block}.concat_layer.dense.linear.weight", (width, 3 * width))
    yield from _residuals(f"{block}.residual_m", range(1), width)


def _residuals(name: str, indices: Iterable[int], width: int) -> Iterator[PublishedTensor]:
    for i in indices:
        for j in (0, 1):
            yield PublishedTensor(f"{name}.{i}.dense_mlp.{j}.linear.weight", (width, width))


def _adapters(c: GemNetConfig, names: list[str]) -> Iterator[PublishedTensor]:
    width = c.width
    for name in names:
        for block in range(c.num_blocks):
            head = f"gemnet.cond_adapt_layers.{name}.{block}"
            yield PublishedTensor(f"{head}.0.weight", (width, 2 * width))
            yield PublishedTensor(f"{head}.0.bias", (width,))
            yield PublishedTensor(f"{head}.2.weight", (width, width))
            yield PublishedTensor(f"{head}.2.bias", (width,))
    for name in names:
        for block in range(c.num_blocks):
            yield PublishedTensor(f"gemnet.cond_mixin_layers.{name}.{block}.weight", (width, width))


def _property(condition: ConditionConfig, head: str, width: int) -> Iterator[PublishedTensor]:
    embedding = f"{head}.conditional_embedding_module"
    if condition.kind in ("scalar", "log"):
        yield PublishedTensor(f"{embedding}.div_term", (width // 2,), "buffer")
    elif condition.kind == "category":
        yield PublishedTensor(f"{embedding}.embedding.weight", (condition.num_categories, width))
    else:
        yield PublishedTensor(f"{embedding}.embedding.weight", (width, NUM_CLASSES))
        yield PublishedTensor(f"{embedding}.embedding.bias", (width,))
    if condition.place == "base":
        yield PublishedTensor(f"{head}.unconditional_embedding_module.embedding.weight", (1, width))
    if condition.kind in ("scalar", "log"):
        yield PublishedTensor(f"{head}.scaler.means", (1,), "buffer")
        yield PublishedTensor(f"{head}.scaler.stds", (1,), "buffer")
