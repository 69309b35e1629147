"""The labels that a model is conditioned on in training: read or computed, checked, excluded by rule, described."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalsmith.crystals import CrystalBatch
from crystalsmith.data.computed import COMPUTED, compute
from crystalsmith.data.labels import sentence
from crystalsmith.errors import InputError
from crystalsmith.properties import PROPERTIES, Kind, canonical_name, likely_unit
from crystalsmith.training.config import Dropout, Recipe

HULL, FORMATION = "energy_above_hull", "formation_energy_per_atom"

FEW_LABELS = 2000
"""Below this many labelled training crystals a user is warned."""

OUTLIER_WIDTHS = 50.0
"""A number farther from the median than this many times the distance of the 1st and 99th percentile is excluded."""


@dataclass(frozen=True)
class Coverage:
    """What the labels of one property are.

    Attributes:
        name, kind, unit: of the property.
        source: ``column`` or ``computed``.
        rows: training crystals.
        count: training crystals with a label that is used.
        excluded: training and validation labels taken out by the rules.
        mean, std: of what the network standardises (log10 for ``log``), population; None without numbers. The spread
            of a constant label, which has none, is its own size.
        min, max, q01, q50, q99: of the labels as they are; None for element sets.
        classes: the words behind the numbers of a category, from 1; empty where it was numbers.
        hint: what the excluded labels seem to be, for people.
    """

    name: str
    kind: Kind
    unit: str
    source: str
    rows: int
    count: int
    excluded: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    q01: float | None = None
    q50: float | None = None
    q99: float | None = None
    classes: tuple[str, ...] = ()
    hint: str = ""

    @property
    def constant(self) -> bool:
        """Whether there is only one value, from which nothing can be learned."""
        return self.count > 1 and self.min is not None and self.min == self.max

    def constant_sentence(self) -> str:
        """What a user should know of a constant label."""
        return f"every training crystal has {self.name} = {self.q50:g}, so a model learns nothing about it."

    def facts(self) -> dict[str, Any]:
        """What a model remembers of it (``ModelMetadata.properties``)."""
        facts: dict[str, Any] = {"kind": self.kind, "unit": self.unit, "source": self.source, "count": self.count}
        numbers = {k: getattr(self, k) for k in ("mean", "std", "min", "max", "q01", "q50", "q99")}
        facts |= {name: value for name, value in numbers.items() if value is not None}
        return facts | ({"classes": list(self.classes)} if self.classes else {})

    def sentence(self) -> str:
        """The line that a user reads before training."""
        share = f"{self.count:,} of {self.rows:,} training crystals ({100 * self.count / max(self.rows, 1):.0f} %)"
        text = f"{self.name} ({self.kind}, {self.source}): {share}"
        if self.min is not None and self.max is not None and self.q50 is not None:
            text += f", {self.min:.4g} to {self.max:.4g} {self.unit}".rstrip() + f", median {self.q50:.4g}"
        if self.excluded:
            text += f"; {self.excluded:,} labels excluded as impossible or far out{self.hint}"
        return text


KINDS = ("scalar", "log", "category", "elements")
"""How ``NAME:KIND`` can say a property is meant."""


def split_kind(text: str, labels: Collection[str] = ()) -> tuple[str, str]:
    """Our name of a property and the kind after its last colon, as in ``hardness:log``; labels may hold colons."""
    name, colon, kind = text.rpartition(":")
    if not colon or text in labels:
        return canonical_name(text), ""
    return canonical_name(name), kind.strip()


def kind_of(name: str, asked: str = "", manifest: Mapping[str, Any] | None = None) -> Kind:
    """The kind of a property: as asked, or as the registry says, or category for a column of words, or scalar.

    Raises:
        InputError: if there is no such kind.
    """
    if asked:
        if asked not in KINDS:
            raise InputError(f"--property {name}:{asked}: the kind must be scalar, log, category or elements.")
        return asked  # type: ignore[return-value]
    known = PROPERTIES.get(canonical_name(name))
    if known is not None:
        return known.kind
    facts = (manifest or {}).get("labels", {}).get(name, {})
    return "category" if isinstance(facts, Mapping) and facts.get("kind") == "category" else "scalar"


def label_facts(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the manifest of a data set says of a label."""
    facts = manifest.get("labels", {}).get(name, {})
    return facts if isinstance(facts, Mapping) else {}


def check_labels(dataset: Any, wanted: Mapping[str, str], reference: str | None = None) -> None:
    """Make sure that there is something to learn, without computing anything.

    Raises:
        InputError: if a property is no label and cannot be computed, or no training crystal has a usable one.
    """
    if reference is not None:
        from crystalsmith.evaluation.reference.known import Reference

        if HULL not in wanted:
            raise InputError(f"--reference is what {HULL} is computed from; give --property {HULL} too.")
        _ = Reference.open(reference).hull
        wanted = {name: kind for name, kind in wanted.items() if name != HULL} | {FORMATION: "scalar"}
    for name, kind in wanted.items():
        if name in dataset.manifest["labels"] or kind == "elements" or name not in COMPUTED:
            Labelled(dataset, {name: kind}).require_labels()


class Labelled:
    """A prepared data set with the labels that training needs.

    Args:
        dataset: a ``data.dataset.CrystalDataset``.
        wanted: property name -> kind.
        reference: folder of a reference set whose hull ``energy_above_hull`` is computed from, by the formation
            energies of the data; without one it is a label like others.

    Attributes:
        coverage: what there is of each property.
    """

    def __init__(self, dataset: Any, wanted: Mapping[str, str], reference: str | None = None) -> None:
        self.dataset, self.reference = dataset, reference
        self.manifest: Mapping[str, Any] = dataset.manifest
        self.num_atoms: NDArray = dataset.num_atoms
        self.kinds: dict[str, Kind] = {name: kind_of(name, kind, dataset.manifest) for name, kind in wanted.items()}
        self.values: dict[str, NDArray[np.float32]] = {}
        self.coverage: dict[str, Coverage] = {}
        for name, kind in self.kinds.items():
            self._add(name, kind)

    def _add(self, name: str, kind: Kind) -> None:
        train = self.dataset.rows("train")
        known = PROPERTIES.get(name)
        told = label_facts(self.manifest, name)
        unit = known.unit if known is not None else str(told.get("unit", ""))
        if kind == "elements":
            if name != "chemical_system":
                raise InputError(f"The property {name} is a set of elements; the only one there is is chemical_system.")
            self.coverage[name] = Coverage(name, kind, unit, "computed", len(train), len(train), 0)
            return
        found, source = self._read(name)
        classes = tuple(str(word) for word in told.get("classes", ())) if source == "column" else ()
        if kind == "category" and classes and told.get("first") == 0:
            found = found + 1.0  # false and true are stored as 0 and 1; classes count from 1
        values, excluded = exclude(found, name, kind)
        self.values[name] = values
        seen = _describe(name, kind, unit, source, values[train], excluded)
        self.coverage[name] = replace(
            seen, classes=classes if kind == "category" else (), hint=_hint(found[np.isnan(values)], name, kind)
        )

    def _read(self, name: str) -> tuple[NDArray[np.float64], str]:
        """All rows, NaN where there is no label; rows of the test split are not computed."""
        everything = np.arange(len(self.num_atoms), dtype=np.int64)
        if name == HULL and self.reference is not None:
            return self._above_hull(self.reference), "computed"
        if name in self.dataset.manifest["labels"]:
            return self.dataset.labels(everything, [name])[name].double().numpy(), "column"
        if name not in COMPUTED:
            columns = ", ".join(sorted(self.dataset.manifest["labels"])) or "none"
            computed = ", ".join(sorted({*COMPUTED, "chemical_system"}))
            told = (self.dataset.manifest.get("columns") or {}).get(name)
            if isinstance(told, Mapping):
                raise InputError(f"The data set has no label from the column {sentence(name, told)}.")
            raise InputError(
                f"The data set has no label '{name}'; it has: {columns}; and these are computed: {computed}."
            )
        rows, values = self._seen_rows(), np.full(len(everything), np.nan)
        values[rows] = compute(name, self.dataset.batch(rows))
        return values, "computed"

    def _seen_rows(self) -> NDArray[np.int64]:
        return np.sort(np.concatenate([self.dataset.rows("train"), self.dataset.rows("val")]))

    def _above_hull(self, reference: str) -> NDArray[np.float64]:
        from crystalsmith.evaluation.reference.labels import energies_above_hull

        rows, values = self._seen_rows(), np.full(len(self.num_atoms), np.nan)
        batch, energies = self.dataset.batch(rows), self.dataset.labels(rows, [FORMATION])[FORMATION]
        numbers, sizes = batch.atomic_numbers.numpy(), batch.num_atoms.numpy()
        values[rows] = energies_above_hull(reference, numbers, sizes, energies.double().numpy())
        return values

    def __len__(self) -> int:
        return len(self.num_atoms)

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows of a split."""
        return self.dataset.rows(split)

    def batch(self, rows: Any) -> CrystalBatch:
        """The crystals of some rows."""
        return self.dataset.batch(rows)

    def conditions(self, rows: Any) -> dict[str, Tensor]:
        """Labels of some rows as a denoiser takes them."""
        index = np.asarray(rows, dtype=np.int64).reshape(-1)
        found: dict[str, Tensor] = {}
        for name, kind in self.kinds.items():
            if kind == "elements":
                found[name] = self.dataset.labels(index, [name])[name]
            else:
                found[name] = torch.from_numpy(self.values[name][index])
        return found

    def require_labels(self) -> None:
        """Refuse to train without labels.

        Raises:
            InputError: naming the property of which no training crystal has one.
        """
        for name, coverage in self.coverage.items():
            if coverage.count == 0:
                raise InputError(
                    f"No training crystal carries the label '{name}', so nothing could be learned about it; "
                    "prepare data that has it or choose another property."
                )


def exclude(values: NDArray[np.float64], name: str, kind: Kind) -> tuple[NDArray[np.float32], int]:
    """The values with NaN for what cannot be, and how many that were.

    Excluded are numbers outside the bounds of the registry, numbers of a logarithmic property that are not positive,
    categories that are no whole numbers from 1, numbers that are not finite, and numbers farther from the median than
    ``OUTLIER_WIDTHS`` times the distance of the 1st and 99th percentile.
    """
    values = values.astype(np.float64, copy=True)
    had = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values)
        known = PROPERTIES.get(name)
        if known is not None:
            bad |= (values < known.bounds[0]) | (values > known.bounds[1])
        if kind == "log":
            bad |= values <= 0
        if kind == "category":
            bad |= (values != np.round(values)) | (values < 1)
        values[bad] = np.nan
        kept = values[~np.isnan(values)]
        if kind in ("scalar", "log") and len(kept):
            scale = np.log10(values) if kind == "log" else values
            low, middle, high = np.nanpercentile(scale, [1, 50, 99])
            if high > low:
                values[np.abs(scale - middle) > OUTLIER_WIDTHS * (high - low)] = np.nan
    return values.astype(np.float32), int((had & np.isnan(values)).sum())


def _describe(name: str, kind: Kind, unit: str, source: str, train: NDArray[np.float32], excluded: int) -> Coverage:
    kept = train[~np.isnan(train)].astype(np.float64)
    if not len(kept):
        return Coverage(name, kind, unit, source, len(train), 0, excluded)
    seen = np.log10(kept) if kind == "log" else kept
    q01, q50, q99 = np.percentile(kept, [1, 50, 99]).tolist()
    return Coverage(
        name, kind, unit, source, len(train), len(kept), excluded,
        mean=float(seen.mean()), std=_spread(seen),
        min=float(kept.min()), max=float(kept.max()), q01=q01, q50=q50, q99=q99,
    )  # fmt: skip


def _spread(values: NDArray[np.float64]) -> float:
    """Their standard deviation; where float32 would not resolve it, as of a constant, their own size instead."""
    std, size = float(values.std()), float(np.abs(values).max())
    return std if std > 1e-6 * size else size or 1.0


def _hint(excluded: NDArray[np.float64], name: str, kind: Kind) -> str:
    """What impossible labels seem to be: another unit, numbers that are no logarithm's, no classes."""
    values = excluded[np.isfinite(excluded)]
    known = PROPERTIES.get(name)
    if not len(values):
        return ""
    if known is not None and known.bounds != (-math.inf, math.inf):
        low, high = known.bounds
        outside = values[(values < low) | (values > high)]
        if len(outside):
            unit = likely_unit(outside.tolist(), known)
            text = f" (outside {low:g} to {high:g} {known.unit}".rstrip() + f", for example {outside[0]:.4g}"
            return text + (f"; the numbers look like {unit})" if unit else ")")
    if kind == "log" and (values <= 0).any():
        return " (a logarithm needs numbers above 0; name the kind scalar to keep the others)"
    if kind == "category":
        return f" (classes are whole numbers from 1, unlike {values[0]:.4g})"
    return f" (for example {values[0]:.4g})"


def drop(
    conditions: Mapping[str, Tensor], uniforms: Sequence[Tensor], probability: float, dropout: Dropout
) -> dict[str, Tensor]:
    """Conditions of a training step: some crystals see none (classifier-free guidance, Ho and Salimans 2022).

    Args:
        conditions: labels by property.
        uniforms: ``(B,)`` in (0, 1), one for all properties together, then one per property.
        probability: of being dropped.
        dropout: ``joint``: all properties of a crystal at once, also those of a crystal that lacks any of them (as
            the published training is described); ``independent``: each on its own; ``subsets``: all at once, and where
            they are not, each on its own with probability 1/2, so that every subset of the properties is seen as
            well as none.
    """
    device = _first(conditions).device
    together, *apart = (u.to(device) for u in uniforms)
    if dropout == "joint":
        incomplete = torch.stack([~is_labelled(value) for value in conditions.values()]).any(0)
        lost = [(together < probability) | incomplete] * len(conditions)
    elif dropout == "subsets":
        lost = [(together < probability) | (u < 0.5) for u in apart]
    else:
        lost = [u < probability for u in apart]
    return {name: _blank(value, gone) for (name, value), gone in zip(conditions.items(), lost, strict=True)}


def training_rows(dataset: Any, recipe: Recipe) -> Any:
    """``(R,)`` int64, the rows that are trained on."""
    rows = dataset.rows("train")
    if recipe.conditions.rows == "all" or not recipe.conditions.properties:
        return rows
    labelled = [is_labelled(value) for value in dataset.conditions(rows).values()]
    return rows[torch.stack(labelled).any(0).numpy()]


def is_labelled(value: Tensor) -> Tensor:
    """``(B,)`` bool, which crystals carry a condition."""
    return ~torch.isnan(value) if value.dim() == 1 else value.any(-1)


def _first(conditions: Mapping[str, Tensor]) -> Tensor:
    return next(iter(conditions.values()))


def _blank(value: Tensor, gone: Tensor) -> Tensor:
    if value.dim() == 1:
        return torch.where(gone, torch.full_like(value, math.nan), value)
    return value * (~gone).to(value.dtype).unsqueeze(-1)
