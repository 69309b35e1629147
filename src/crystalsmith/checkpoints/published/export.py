"""Models of ours as checkpoints in the published layout, so that nobody is locked in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crystalsmith.checkpoints.model import Model
from crystalsmith.checkpoints.published.config import LOG_SCALED
from crystalsmith.checkpoints.published.layout import PublishedTensor, published_layout
from crystalsmith.checkpoints.published.mattergen import EXTRA, check_free, our_names
from crystalsmith.checkpoints.published.names import PREFIX
from crystalsmith.checkpoints.store import read_model
from crystalsmith.errors import InputError
from crystalsmith.files import replacing_folder
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

# Scale factors of the energy heads as the published code sets them; further heads have 1 (spec 4.9).
_SCALE_ENERGY = (1.6437848806381226, 1.1077653169631958, 0.9477927684783936, 0.9059251546859741)
_UNWRITTEN = {  # sizes that released files leave to the constructor of the published network
    "num_radial": "num_radial",
    "num_spherical": "num_spherical",
    "width_triplet": "emb_size_trip",
    "width_bilinear": "emb_size_bil_trip",
    "width_rbf": "emb_size_rbf",
    "width_cbf": "emb_size_cbf",
}


def export_model(folder: Path, out: str | Path) -> dict[str, Any]:
    """Write a model as ``config.yaml`` + ``checkpoints/last.ckpt``; ``out`` appears whole or not at all.

    The energy heads, which reach no output, come back as they were imported; a model that never had any gets zeros.

    Args:
        folder: of the model.
        out: folder to make; it must not exist, or be empty.

    Returns:
        What was written: folder, number of tensors, and whether the energy heads are the original ones.

    Raises:
        InputError: if the model does something that the published code cannot express, or ``out`` is taken.
    """
    out = Path(out)
    check_free(out)
    model = read_model(folder)
    _check_expressible(model)
    extra = _read_extra(folder)
    state = published_state(model, extra)
    config = published_config(model)
    training = model.metadata.training
    content = {
        "epoch": _count(training.get("epoch")),
        "global_step": _count(training.get("global_step")),
        "pytorch-lightning_version": "2.0.6",
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "config": config,
    }
    _write_folder(content, out)
    return {"folder": str(out), "tensors": len(state), "energy_heads": "original" if extra else "zero"}


def published_state(model: Model, extra: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published ``state_dict`` in the order of the released files, duplicated names included.

    Raises:
        InputError: if ``extra`` does not fit the model.
    """
    network = _gemnet(model)
    layout = published_layout(network.config)
    ours = network.state_dict()
    published = {theirs: ours[name] for name, theirs in our_names(network.config, network).items()}
    rest = [t for t in layout.values() if t.name not in published and t.copy_of is None]
    if extra and {t.name: t.shape for t in rest} != {name: tuple(x.shape) for name, x in extra.items()}:
        raise InputError(f"The {EXTRA} beside the model is of another model; remove it or import the model again.")
    for tensor in rest:
        published[tensor.name] = extra[tensor.name] if extra else _empty(tensor)
    state = {}
    for name, tensor in layout.items():
        # A second name of a parameter is the same tensor, as in the published files; a second buffer is its own.
        value = published[tensor.copy_of or name]
        state[PREFIX + name] = value.clone() if tensor.role == "buffer" else value
    return state


def _empty(tensor: PublishedTensor) -> Tensor:
    """An energy head that was never trained: zeros, but the scale factor that the published code gives it."""
    if tensor.role != "energy_scale":
        return torch.zeros(tensor.shape)
    index = int(tensor.name.split(".")[2])
    return torch.tensor(_SCALE_ENERGY[index] if index < len(_SCALE_ENERGY) else 1.0)


def _gemnet(model: Model) -> GemNetDenoiser:
    """The network of a model, which must be a GemNet."""
    if not isinstance(model.network, GemNetDenoiser):
        raise InputError(
            f"The model '{model.metadata.name}' is a transformer, which the published code lacks; only imported models "
            "and models trained with the published settings can be exported."
        )
    return model.network


def _check_expressible(model: Model) -> None:
    gemnet, process = _gemnet(model).config.gemnet, model.process.config
    reasons = {
        "its edges follow our rule, which the published code lacks": gemnet.edge_rule != "published",
        "atoms see the crystal as a whole": gemnet.crystal_context,
        "its force heads have another depth": gemnet.head_residuals != GemNetConfig.head_residuals,
        "its cell output is preconditioned": process.cell_variance is not None,
        "it predicts structures for given elements": process.task != "generate",
    }
    if found := [reason for reason, applies in reasons.items() if applies]:
        raise InputError(
            f"The model '{model.metadata.name}' has no equal in the published code ({'; '.join(found)}); only imported "
            "models and models trained with the published settings can be exported."
        )
    for condition in model.network.config.conditions:
        if (condition.kind == "log") != (condition.kind in ("scalar", "log") and condition.name in LOG_SCALED):
            raise InputError(
                f"The published code takes the logarithm of {' and '.join(sorted(LOG_SCALED))} only, and of those "
                f"always; the property '{condition.name}' cannot be exported."
            )
        if condition.kind == "category" and condition.num_categories != ConditionConfig.num_categories:
            raise InputError(
                f"The published code knows categories of space groups only; '{condition.name}' cannot be exported."
            )


def _read_extra(folder: Path) -> dict[str, Tensor]:
    path = folder / EXTRA
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); import the model again.") from None


def published_config(model: Model) -> dict[str, Any]:
    """The tree of a published ``config.yaml``: the part that loading needs."""
    network, process = _gemnet(model).config, model.process.config
    base = [c for c in network.conditions if c.place == "base"]
    adapters = [c for c in network.conditions if c.place == "adapter"]
    diffusion = {
        "_target_": "mattergen.diffusion.diffusion_module.DiffusionModule",
        "corruption": {
            "_target_": "mattergen.diffusion.corruption.multi_corruption.MultiCorruption",
            "discrete_corruptions": {"atomic_numbers": _species_tree()},
            "sdes": {
                "cell": {
                    "_target_": "mattergen.common.diffusion.corruption.LatticeVPSDE.from_vpsde_config",
                    "vpsde_config": {
                        "beta_max": process.beta_max,
                        "beta_min": process.beta_min,
                        "limit_density": process.limit_density,
                        "limit_var_scaling_constant": process.limit_variance,
                    },
                },
                "pos": {
                    "_target_": "mattergen.common.diffusion.corruption.NumAtomsVarianceAdjustedWrappedVESDE",
                    "limit_info_key": "num_atoms",
                    "sigma_max": process.sigma_max,
                    **({} if process.sigma_min == 0.01 else {"sigma_min": process.sigma_min}),
                    "wrapping_boundary": 1.0,
                },
            },
        },
        "loss_fn": {
            "_target_": "mattergen.common.loss.MaterialsLoss",
            "d3pm_hybrid_lambda": process.cross_entropy_weight,
            "include_atomic_numbers": True,
            "include_cell": True,
            "include_pos": True,
            "reduce": "sum",
            "weights": {
                "atomic_numbers": process.weight_species,
                "cell": process.weight_cell,
                "pos": process.weight_frac_coords,
            },
        },
        "model": _network_tree(network.gemnet, base, adapters),
        "pre_corruption_fn": {
            "_target_": "mattergen.property_embeddings.SetEmbeddingType",
            "dropout_fields_iid": False,
            "p_unconditional": 0.2,
        },
    }
    return {"lightning_module": {**_training_tree(bool(adapters)), "diffusion_module": diffusion}}


def _training_tree(adapted: bool) -> dict[str, Any]:
    return {
        "_target_": "mattergen.diffusion.lightning_module.DiffusionLightningModule",
        "optimizer_partial": {"_partial_": True, "_target_": "torch.optim.Adam", "lr": 5e-6 if adapted else 1e-4},
        "scheduler_partials": [
            {
                "frequency": 1,
                "interval": "epoch",
                "monitor": "loss_train",
                "scheduler": {
                    "_partial_": True,
                    "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                    "factor": 0.6,
                    "min_lr": 1e-6,
                    "patience": 100,
                },
                "strict": True,
            }
        ],
    }


def _network_tree(gemnet: GemNetConfig, base: list[ConditionConfig], adapters: list[ConditionConfig]) -> dict[str, Any]:
    width = gemnet.width
    defaults = GemNetConfig()
    extra = {
        theirs: getattr(gemnet, ours)
        for ours, theirs in _UNWRITTEN.items()
        if getattr(gemnet, ours) != getattr(defaults, ours)
    }
    suffix = "gemnet_ctrl.GemNetTCtrl" if adapters else "gemnet.GemNetT"
    return {
        "_target_": "mattergen.adapter.GemNetTAdapter" if adapters else "mattergen.denoiser.GemNetTDenoiser",
        "atom_type_diffusion": "mask",
        "denoise_atom_types": True,
        "gemnet": {
            "_target_": f"mattergen.common.gemnet.{suffix}",
            "atom_embedding": {
                "_target_": "mattergen.common.gemnet.layers.embedding_block.AtomEmbedding",
                "emb_size": width,
                "with_mask_type": True,
            },
            **({"condition_on_adapt": sorted(c.name for c in adapters)} if adapters else {}),
            "cutoff": gemnet.cutoff,
            "emb_size_atom": width,
            "emb_size_edge": width,
            "latent_dim": width * (1 + len(base)),
            "max_cell_images_per_dim": gemnet.max_images,
            "max_neighbors": gemnet.max_neighbors,
            "num_blocks": gemnet.num_blocks,
            "num_targets": 1,
            "otf_graph": True,
            "regress_stress": True,
            "scale_file": "unused",
            **extra,
        },
        "hidden_dim": width,
        "property_embeddings": {c.name: _property_tree(c, width) for c in base},
        "property_embeddings_adapt": {c.name: _property_tree(c, width) for c in adapters},
    }


def _property_tree(condition: ConditionConfig, width: int) -> dict[str, Any]:
    embeddings = {
        "category": {"_target_": "mattergen.property_embeddings.SpaceGroupEmbeddingVector", "hidden_dim": width},
        "elements": {"_target_": "mattergen.property_embeddings.ChemicalSystemMultiHotEmbedding", "hidden_dim": width},
    }
    number = {"_target_": "mattergen.diffusion.model_utils.NoiseLevelEncoding", "d_model": width}
    scaler = "mattergen.common.utils.data_utils.StandardScalerTorch"
    return {
        "_target_": "mattergen.property_embeddings.PropertyEmbedding",
        "conditional_embedding_module": embeddings.get(condition.kind, number),
        "name": condition.name,
        "scaler": {"_target_": scaler if condition.kind in ("scalar", "log") else "torch.nn.Identity"},
        "unconditional_embedding_module": {
            "_target_": "mattergen.property_embeddings.EmbeddingVector",
            "hidden_dim": width,
        },
    }


def _species_tree() -> dict[str, Any]:
    return {
        "_target_": "mattergen.diffusion.corruption.d3pm_corruption.D3PMCorruption",
        "d3pm": {
            "_target_": "mattergen.diffusion.d3pm.d3pm.MaskDiffusion",
            "dim": 101,
            "schedule": {
                "_target_": "mattergen.diffusion.d3pm.d3pm.create_discrete_diffusion_schedule",
                "kind": "standard",
                "num_steps": 1000,
            },
        },
        "offset": 1,
    }


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _write_folder(content: dict[str, Any], out: Path) -> None:
    import yaml

    with replacing_folder(out) as temporary:
        (temporary / "config.yaml").write_text(yaml.safe_dump(content["config"]), encoding="utf-8")
        (temporary / "checkpoints").mkdir()
        torch.save(content, temporary / "checkpoints" / "last.ckpt")
