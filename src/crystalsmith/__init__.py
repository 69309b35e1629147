"""crystalsmith: generate inorganic crystals with a diffusion model.

>>> import crystalsmith
>>> crystals = crystalsmith.load("mp20-tiny").generate(16, seed=0)
>>> crystals[0].composition
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalsmith.api import evaluate, finetune, predict, prepare, reference, score, train
    from crystalsmith.crystals import CrystalBatch
    from crystalsmith.errors import InputError
    from crystalsmith.explore import discover, export, predict_structure
    from crystalsmith.generation.loaded import GeneratedCrystals, LoadedModel, load

__version__ = "0.1.0"

__all__ = [
    "CrystalBatch",
    "GeneratedCrystals",
    "InputError",
    "LoadedModel",
    "__version__",
    "discover",
    "evaluate",
    "export",
    "finetune",
    "load",
    "predict",
    "predict_structure",
    "prepare",
    "reference",
    "score",
    "train",
]

# Where each public name lives; it is imported when first asked for, so that importing the package stays instant.
_HOMES = {
    "CrystalBatch": "crystalsmith.crystals",
    "GeneratedCrystals": "crystalsmith.generation.loaded",
    "InputError": "crystalsmith.errors",
    "LoadedModel": "crystalsmith.generation.loaded",
    "load": "crystalsmith.generation.loaded",
    **dict.fromkeys(("evaluate", "finetune", "predict", "prepare", "reference", "score", "train"), "crystalsmith.api"),
    **dict.fromkeys(("discover", "export", "predict_structure"), "crystalsmith.explore"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
