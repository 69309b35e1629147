"""``config.yaml`` of a published checkpoint, read as data against a list of the keys that matter.

Nothing in the file is evaluated: plain YAML only (no tags, no interpolation), and a ``_target_`` is a name that is
compared with a list. A key that the list lacks is refused where it could change the function of the network.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalsmith.diffusion.process import ProcessConfig
from crystalsmith.errors import InputError
from crystalsmith.network.conditioning import ConditionConfig, Kind
from crystalsmith.network.denoiser import DenoiserConfig
from crystalsmith.network.gemnet import GemNetConfig
from crystalsmith.schema import read_yaml

LOG_SCALED = frozenset({"ml_bulk_modulus", "dft_bulk_modulus"})
"""Properties whose logarithm the published model takes first."""

_MODELS = {"mattergen.denoiser.GemNetTDenoiser": "base", "mattergen.adapter.GemNetTAdapter": "adapter"}
_GEMNETS = {
    "base": "mattergen.common.gemnet.gemnet.GemNetT",
    "adapter": "mattergen.common.gemnet.gemnet_ctrl.GemNetTCtrl",
}
_EMBEDDINGS: dict[str, Kind] = {
    "mattergen.diffusion.model_utils.NoiseLevelEncoding": "scalar",
    "mattergen.property_embeddings.SpaceGroupEmbeddingVector": "category",
    "mattergen.property_embeddings.ChemicalSystemMultiHotEmbedding": "elements",
}
_NAMED: dict[str, Kind] = {"space_group": "category", "chemical_system": "elements"}
_EMBEDDING_MODULE = "mattergen.property_embeddings."
_SCALERS = ("mattergen.common.utils.data_utils.StandardScalerTorch",)
_NO_SCALER = ("torch.nn.Identity", "torch.nn.modules.linear.Identity")
_SIZES = {  # constructor argument of the published network -> ours and its default; absent from the released files
    "num_radial": ("num_radial", 128),
    "num_spherical": ("num_spherical", 7),
    "emb_size_trip": ("width_triplet", 64),
    "emb_size_bil_trip": ("width_bilinear", 64),
    "emb_size_rbf": ("width_rbf", 16),
    "emb_size_cbf": ("width_cbf", 16),
}
_FIXED = {  # settings with one value that is understood
    "num_targets": 1,
    "regress_stress": True,
    "otf_graph": True,
    "num_before_skip": 1,
    "num_after_skip": 2,
    "num_concat": 1,
    "num_atom": 3,
}
_MAX_SIZE = {"num_blocks": 64, "num_spherical": 32}


@dataclass(frozen=True)
class PublishedConfig:
    """What a published ``config.yaml`` says that matters here.

    Attributes:
        network: sizes and conditions.
        process: constants of the corruption and of the loss.
        scaled: properties whose values are standardised by stored buffers.
    """

    network: DenoiserConfig
    process: ProcessConfig
    scaled: frozenset[str]


def read_published_config(path: Path) -> PublishedConfig:
    """Read a published ``config.yaml``.

    Raises:
        InputError: if it is not plain YAML, lacks a key, or holds something whose function is not known here.
    """
    return interpret(_load_yaml(path), str(path))


def interpret(data: Any, where: str) -> PublishedConfig:
    """The settings in the plain data of a ``config.yaml``; ``where`` names the file in errors."""
    diffusion = _Section(data, where).section("lightning_module").section("diffusion_module")
    model = diffusion.section("model")
    style = _MODELS[model.target(_MODELS)]
    model.only(
        "hidden_dim", "gemnet", "property_embeddings", "property_embeddings_adapt", "denoise_atom_types",
        "atom_type_diffusion", "element_mask_func",
    )  # fmt: skip
    if model.get("denoise_atom_types", True) is not True or model.get("atom_type_diffusion", "mask") != "mask":
        raise model.refuse("describes a model that does not denoise elements by masking; only those are understood")
    model.check_mask_function()
    conditions, scaled = _conditions(model)
    adapted = sorted(c.name for c in conditions if c.place == "adapter")
    if adapted and style == "base":
        raise model.refuse("has adapters but is not an adapter model; the file is inconsistent")
    gemnet = _gemnet(model, style, len(conditions) - len(adapted), adapted)
    return PublishedConfig(DenoiserConfig(gemnet, tuple(conditions)), _process(diffusion), scaled)


def _gemnet(model: _Section, style: str, num_base: int, adapted: list[str]) -> GemNetConfig:
    node = model.section("gemnet")
    node.target([_GEMNETS[style]])
    node.only(
        "atom_embedding", "latent_dim", "emb_size_atom", "emb_size_edge", "max_neighbors", "max_cell_images_per_dim",
        "cutoff", "num_blocks", "scale_file", "condition_on_adapt", *_SIZES, *_FIXED,
    )  # fmt: skip
    for key, value in _FIXED.items():
        if (given := node.get(key, value)) != value:
            raise node.refuse(f"has {key} = {_show(given)}; only {value!r} is understood")
    atoms = node.section("atom_embedding")
    atoms.target(["mattergen.common.gemnet.layers.embedding_block.AtomEmbedding"])
    if atoms.get("with_mask_type", False) is not True:
        raise atoms.refuse("has no embedding of the mask; only models that generate elements are understood")
    width = model.whole("hidden_dim", 512)
    for section, key in ((node, "emb_size_atom"), (node, "emb_size_edge"), (atoms, "emb_size")):
        if (given := section.whole(key)) != width:
            raise section.refuse(f"has {key} = {given}, but hidden_dim is {width}; only one width is understood")
    if width % 2:
        raise model.refuse(f"has hidden_dim = {width}; it must be even")
    if (latent := node.whole("latent_dim")) != width * (1 + num_base):
        raise node.refuse(f"has latent_dim = {latent}, but {num_base} base properties need {width * (1 + num_base)}")
    given_names = node.get("condition_on_adapt", [])
    if not isinstance(given_names, list) or sorted(map(str, given_names)) != adapted:
        raise node.refuse(f"lists {_show(given_names)} in condition_on_adapt, but the adapters are {adapted}")
    return GemNetConfig(
        width=width,
        num_blocks=node.whole("num_blocks"),
        cutoff=node.number("cutoff"),
        max_neighbors=node.whole("max_neighbors"),
        max_images=node.whole("max_cell_images_per_dim", 5),
        edge_rule="published",
        **{ours: node.whole(key, default) for key, (ours, default) in _SIZES.items()},  # type: ignore[arg-type]
    )


def _conditions(model: _Section) -> tuple[list[ConditionConfig], frozenset[str]]:
    conditions: list[ConditionConfig] = []
    scaled: set[str] = set()
    for group, place in (("property_embeddings", "base"), ("property_embeddings_adapt", "adapter")):
        parent = model.section(group, optional=True)
        for name in sorted(map(str, parent.data)):
            _check_name(name, parent, {c.name for c in conditions})
            node = parent.section(name)
            node.target(["mattergen.property_embeddings.PropertyEmbedding"])
            if (given := node.get("name", name)) != name:
                raise node.refuse(f"calls itself {_show(given)}; the file is inconsistent")
            kind = _kind(node.section("conditional_embedding_module"), name)
            if kind == "scalar" and name in LOG_SCALED:
                kind = "log"
            scaler = node.section("scaler", optional=True)
            if scaler.data and scaler.target([*_SCALERS, *_NO_SCALER]) in _SCALERS:
                scaled.add(name)
            conditions.append(ConditionConfig(name=name, kind=kind, place="base" if place == "base" else "adapter"))
    return conditions, frozenset(scaled)


def _kind(embedding: _Section, name: str) -> Kind:
    """How a property is embedded, by the name of the class.

    For the two properties that are no numbers any class of the published embedding module will do: the name of the
    property says which, and the tensors of the checkpoint must have the shapes that follow.
    """
    target = embedding.get("_target_")
    if name in _NAMED and isinstance(target, str) and target.startswith(_EMBEDDING_MODULE):
        return _NAMED[name]
    return _EMBEDDINGS[embedding.target(_EMBEDDINGS)]


def _check_name(name: str, parent: _Section, taken: set[str]) -> None:
    from torch import nn

    if not (name.isascii() and name.isidentifier()) or hasattr(nn.ModuleDict, name):
        raise parent.refuse(f"has a property named {_show(name)}; a name is made of letters, digits and underscores")
    if name in taken:
        raise parent.refuse(f"has the property {name!r} a second time; it is base or adapter, not both")


def _process(diffusion: _Section) -> ProcessConfig:
    corruption = diffusion.section("corruption")
    corruption.target(["mattergen.diffusion.corruption.multi_corruption.MultiCorruption"])
    corruption.only("sdes", "discrete_corruptions")
    sdes, discrete = corruption.section("sdes"), corruption.section("discrete_corruptions")
    sdes.only("pos", "cell")
    discrete.only("atomic_numbers")
    pos, cell, species = sdes.section("pos"), sdes.section("cell"), discrete.section("atomic_numbers")
    pos.target(["mattergen.common.diffusion.corruption.NumAtomsVarianceAdjustedWrappedVESDE"])
    pos.only("wrapping_boundary", "sigma_min", "sigma_max", "limit_info_key")
    if pos.get("wrapping_boundary", 1.0) != 1.0 or pos.get("limit_info_key", "num_atoms") != "num_atoms":
        raise pos.refuse("does not wrap at 1 with the number of atoms as its scale; only that is understood")
    cell.target(["mattergen.common.diffusion.corruption.LatticeVPSDE.from_vpsde_config"])
    cell.only("vpsde_config")
    vpsde = cell.section("vpsde_config")
    vpsde.only("beta_min", "beta_max", "limit_density", "limit_var_scaling_constant")
    _check_species(species)
    loss = diffusion.section("loss_fn", optional=True)
    weights = loss.section("weights", optional=True)
    published = ProcessConfig.published()
    return ProcessConfig(
        sigma_min=pos.number("sigma_min", published.sigma_min),
        sigma_max=pos.number("sigma_max", published.sigma_max),
        beta_min=vpsde.number("beta_min", published.beta_min),
        beta_max=vpsde.number("beta_max", published.beta_max),
        limit_density=vpsde.number("limit_density", published.limit_density),
        limit_variance=vpsde.number("limit_var_scaling_constant", published.limit_variance),
        species_levels=published.species_levels,
        weight_frac_coords=weights.number("pos", published.weight_frac_coords),
        weight_cell=weights.number("cell", published.weight_cell),
        weight_species=weights.number("atomic_numbers", published.weight_species),
        cross_entropy_weight=loss.number("d3pm_hybrid_lambda", published.cross_entropy_weight),
    )


def _check_species(species: _Section) -> None:
    species.target(["mattergen.diffusion.corruption.d3pm_corruption.D3PMCorruption"])
    species.only("d3pm", "offset")
    d3pm = species.section("d3pm")
    d3pm.target(["mattergen.diffusion.d3pm.d3pm.MaskDiffusion"])
    schedule = d3pm.section("schedule")
    schedule.target(["mattergen.diffusion.d3pm.d3pm.create_discrete_diffusion_schedule"])
    given = (species.get("offset", 1), d3pm.get("dim", 101), schedule.get("kind"), schedule.get("num_steps"))
    if given != (1, 101, "standard", 1000):
        raise species.refuse(
            f"has (offset, dim, kind, num_steps) = {_show(given)}; only (1, 101, 'standard', 1000) is known"
        )


class _Section:
    """A mapping of the file with the path to it, for errors that say where."""

    def __init__(self, data: Any, where: str, path: str = "") -> None:
        self.where, self.path = where, path
        if not isinstance(data, Mapping):
            raise InputError(f"{where}: {path or 'the file'} is not a mapping; it is no published configuration.")
        self.data = data

    def refuse(self, what: str) -> InputError:
        """The error whose sentence says that this section ``what``."""
        return InputError(f"{self.where}: {self.path} {what}.")

    def get(self, key: str, default: Any = None) -> Any:
        """A value that must be plain: no interpolation."""
        value = self.data.get(key, default)
        if isinstance(value, str) and "${" in value:
            raise self.refuse(f"has the interpolation {_show(value)} at {key}; write the resolved value")
        return value

    def section(self, key: str, optional: bool = False) -> _Section:
        """The mapping at ``key``; an empty one where it is missing and may be."""
        path = f"{self.path}.{key}" if self.path else key
        value = self.get(key)
        if value is None:
            if optional:
                return _Section({}, self.where, path)
            raise InputError(f"{self.where} lacks {path}; it is not the configuration of a published model.")
        return _Section(value, self.where, path)

    def target(self, known: Iterable[str]) -> str:
        """The class that the published code would build here; only a known name passes, and none is ever imported."""
        value = self.get("_target_")
        if value not in tuple(known):
            raise self.refuse(f"has the _target_ {_show(value)}, which is not known here")
        return str(value)

    def only(self, *keys: str) -> None:
        """Refuse any other key."""
        if unknown := sorted(map(str, set(self.data) - {"_target_", *keys})):
            raise self.refuse(f"has the setting {_show(unknown[0])}, which is not known here")

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZE.get(key, 65_536):
            raise self.refuse(f"has {key} = {_show(value)}; it must be a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number that is not negative."""
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise self.refuse(f"has {key} = {_show(value)}; it must be a number")
        return float(value)

    def check_mask_function(self) -> None:
        """The element mask of the sampler is the published one or absent; either way results keep to its elements."""
        value = self.get("element_mask_func")
        if value is None:
            return
        _Section(value, self.where, f"{self.path}.element_mask_func").target(
            ["mattergen.denoiser.mask_disallowed_elements"]
        )


def _show(value: Any) -> str:
    """A value of the file for a sentence: short, whatever it is."""
    return reprlib.repr(value)


def _load_yaml(path: Path) -> Any:
    return read_yaml(path, "give the folder of a published model, or copy it again")
