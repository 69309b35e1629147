"""Names of the published tensors and ours, one for one.

The published energy heads and the duplicated names have no counterpart here; ``published_name`` maps every tensor of a
:class:`crystalsmith.network.denoiser.GemNetDenoiser` to the tensor of a MatterGen checkpoint that holds the same
numbers in the same shape.
"""

from __future__ import annotations

import re

PREFIX = "diffusion_module.model."

_RULES: tuple[tuple[str, str], ...] = (
    (r"time\.frequency", "noise_level_encoding.div_term"),
    (r"species_head\.(weight|bias)", r"fc_atom.\1"),
    (r"species\.weight", "gemnet.atom_emb.embeddings.weight"),
    (r"latent\.(weight|bias)", r"gemnet.atom_latent_emb.\1"),
    (r"edges\.dense\.weight", "gemnet.edge_emb.dense.linear.weight"),
    (r"lattice\.linear1\.(weight|bias)", r"gemnet.angle_edge_emb.0.\1"),
    (r"lattice\.linear2\.(weight|bias)", r"gemnet.angle_edge_emb.2.\1"),
    (r"basis\.radial\.offset", "gemnet.radial_basis.rbf.offset"),
    (r"basis\.triplet\.weight", "gemnet.mlp_rbf3.linear.weight"),
    (r"basis\.atom\.weight", "gemnet.mlp_rbf_h.linear.weight"),
    (r"basis\.output\.weight", "gemnet.mlp_rbf_out.linear.weight"),
    (r"basis\.lattice\.weight", "gemnet.mlp_rbf_lattice.linear.weight"),
    (r"basis\.circular", "gemnet.mlp_cbf3.weight"),
    (r"blocks\.(\d+)\.dense\.weight", r"gemnet.int_blocks.\1.dense_ca.linear.weight"),
    (r"blocks\.(\d+)\.triplets\.dense\.weight", r"gemnet.int_blocks.\1.trip_interaction.dense_ba.linear.weight"),
    (r"blocks\.(\d+)\.triplets\.radial\.weight", r"gemnet.int_blocks.\1.trip_interaction.mlp_rbf.linear.weight"),
    (r"blocks\.(\d+)\.triplets\.down\.weight", r"gemnet.int_blocks.\1.trip_interaction.down_projection.linear.weight"),
    (r"blocks\.(\d+)\.triplets\.bilinear", r"gemnet.int_blocks.\1.trip_interaction.mlp_cbf.weight"),
    (r"blocks\.(\d+)\.triplets\.up\.weight", r"gemnet.int_blocks.\1.trip_interaction.up_projection_ca.linear.weight"),
    (
        r"blocks\.(\d+)\.triplets\.up_mirror\.weight",
        r"gemnet.int_blocks.\1.trip_interaction.up_projection_ac.linear.weight",
    ),
    (r"blocks\.(\d+)\.triplets\.scale_rbf", r"gemnet.int_blocks.\1.trip_interaction.scale_rbf.scale_factor"),
    (r"blocks\.(\d+)\.triplets\.scale_cbf", r"gemnet.int_blocks.\1.trip_interaction.scale_cbf_sum.scale_factor"),
    (
        r"blocks\.(\d+)\.before_skip\.(\d+)\.dense1\.weight",
        r"gemnet.int_blocks.\1.layers_before_skip.\2.dense_mlp.0.linear.weight",
    ),
    (
        r"blocks\.(\d+)\.before_skip\.(\d+)\.dense2\.weight",
        r"gemnet.int_blocks.\1.layers_before_skip.\2.dense_mlp.1.linear.weight",
    ),
    (
        r"blocks\.(\d+)\.after_skip\.(\d+)\.dense1\.weight",
        r"gemnet.int_blocks.\1.layers_after_skip.\2.dense_mlp.0.linear.weight",
    ),
    (
        r"blocks\.(\d+)\.after_skip\.(\d+)\.dense2\.weight",
        r"gemnet.int_blocks.\1.layers_after_skip.\2.dense_mlp.1.linear.weight",
    ),
    (r"blocks\.(\d+)\.atom_update\.radial\.weight", r"gemnet.int_blocks.\1.atom_update.dense_rbf.linear.weight"),
    (r"blocks\.(\d+)\.atom_update\.scale", r"gemnet.int_blocks.\1.atom_update.scale_sum.scale_factor"),
    (r"blocks\.(\d+)\.atom_update\.dense\.weight", r"gemnet.int_blocks.\1.atom_update.layers.0.linear.weight"),
    (r"blocks\.(\d+)\.concat\.dense\.weight", r"gemnet.int_blocks.\1.concat_layer.dense.linear.weight"),
    (r"blocks\.(\d+)\.after_concat\.dense1\.weight", r"gemnet.int_blocks.\1.residual_m.0.dense_mlp.0.linear.weight"),
    (r"blocks\.(\d+)\.after_concat\.dense2\.weight", r"gemnet.int_blocks.\1.residual_m.0.dense_mlp.1.linear.weight"),
    (r"force_heads\.(\d+)\.dense\.weight", r"gemnet.out_blocks.\1.seq_forces.0.linear.weight"),
    (r"force_heads\.(\d+)\.radial\.weight", r"gemnet.out_blocks.\1.dense_rbf_F.linear.weight"),
    (r"force_heads\.(\d+)\.out\.weight", r"gemnet.out_blocks.\1.out_forces.linear.weight"),
    (r"force_heads\.(\d+)\.scale", r"gemnet.out_blocks.\1.scale_rbf_F.scale_factor"),
    (r"lattice_heads\.(\d+)\.dense1\.weight", r"gemnet.lattice_out_blocks.\1.mlp.0.linear.weight"),
    (r"lattice_heads\.(\d+)\.dense2\.weight", r"gemnet.lattice_out_blocks.\1.mlp.1.linear.weight"),
    (r"lattice_heads\.(\d+)\.radial\.weight", r"gemnet.lattice_out_blocks.\1.dense_rbf_F.linear.weight"),
    (r"lattice_heads\.(\d+)\.out\.weight", r"gemnet.lattice_out_blocks.\1.out_forces.linear.weight"),
    (r"adapters\.(\w+)\.(\d+)\.mlp\.(\d)\.(weight|bias)", r"gemnet.cond_adapt_layers.\1.\2.\3.\4"),
    (r"adapters\.(\w+)\.(\d+)\.mix\.weight", r"gemnet.cond_mixin_layers.\1.\2.weight"),
)

# Residual layers whose published index starts at 1, because layer 0 of the list is the dense layer before them.
_SHIFTED: tuple[tuple[str, str], ...] = (
    (r"blocks\.(\d+)\.atom_update\.residuals\.(\d+)\.dense(\d)\.weight", "gemnet.int_blocks.{0}.atom_update.layers"),
    (r"force_heads\.(\d+)\.residuals\.(\d+)\.dense(\d)\.weight", "gemnet.out_blocks.{0}.seq_forces"),
)

_PROPERTY: tuple[tuple[str, str], ...] = (
    (r"encoding\.frequency", "conditional_embedding_module.div_term"),
    (r"mean", "scaler.means"),
    (r"std", "scaler.stds"),
    (r"table\.weight", "conditional_embedding_module.embedding.weight"),
    (r"linear\.(weight|bias)", r"conditional_embedding_module.embedding.\1"),
    (r"unlabelled\.weight", "unconditional_embedding_module.embedding.weight"),
)


def published_name(name: str, base_properties: frozenset[str] = frozenset()) -> str | None:
    """The published name of one of our tensors (without :data:`PREFIX`), or ``None`` where there is none.

    Args:
        name: key of our ``state_dict``.
        base_properties: properties that the base model was trained with, as opposed to adapters.
    """
    for pattern, replacement in _RULES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    for pattern, head in _SHIFTED:
        if found := re.fullmatch(pattern, name):
            outer, inner, dense = found.groups()
            return f"{head.format(outer)}.{int(inner) + 1}.dense_mlp.{int(dense) - 1}.linear.weight"
    if found := re.fullmatch(r"properties\.(\w+?)\.(.+)", name):
        group = "property_embeddings" if found[1] in base_properties else "property_embeddings_adapt"
        for pattern, replacement in _PROPERTY:
            if re.fullmatch(pattern, found[2]):
                return f"{group}.{found[1]}.{re.sub(pattern, replacement, found[2])}"
    return None
