"""The properties that crystals are asked to have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalsmith.data.delimited import Delimited
from crystalsmith.elements import chemical_system, parse_chemical_system
from crystalsmith.errors import InputError
from crystalsmith.generation.plans.plan import Value
from crystalsmith.generation.space_groups import group_symbols
from crystalsmith.properties import canonical_name

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model
    from crystalsmith.network.conditioning import ConditionConfig

MAX_ROWS = 1_000_000
"""Rows of a table of targets that are read."""

DEFAULT_GUIDANCE = 2.0
"""The factor that the published examples use."""


@dataclass(frozen=True)
class Target:
    """What is asked of one property.

    Attributes:
        name: as the model calls it.
        kind: scalar, log, category or elements.
        values: taken in turn: crystal i gets ``values[i % len]``.
        bounds: instead of values, a range from which each crystal draws: scalars evenly, ``log`` evenly in the
            logarithm, categories evenly among whole numbers.
        guidance: its factor.
    """

    name: str
    kind: str
    values: tuple[Value, ...]
    bounds: tuple[float, float] | None
    guidance: float


@dataclass(frozen=True)
class Targets:
    """All targets of a request.

    Attributes:
        targets: one per property.
        interval: times between which guidance extrapolates; elsewhere the factor is 1.
    """

    targets: tuple[Target, ...]
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def guidance(self) -> dict[str, float]:
        """Factor of each property."""
        return {target.name: target.guidance for target in self.targets}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Targets:
        """The targets that ``dataclasses.asdict`` and JSON made plain."""
        targets = []
        for item in values["targets"]:
            bounds = None if item["bounds"] is None else (float(item["bounds"][0]), float(item["bounds"][1]))
            targets.append(Target(**dict(item) | {"values": tuple(item["values"]), "bounds": bounds}))
        low, high = values["interval"]
        return Targets(tuple(targets), (float(low), float(high)))


def make_targets(
    model: Model,
    properties: Mapping[str, Any] | Sequence[str] | None = None,
    table: str | Path | None = None,
    guidance: float | str | Mapping[str, float] | Sequence[str] | None = None,
    interval: str | Sequence[float] | None = None,
) -> Targets | None:
    """Checked targets, or None where nothing is asked for.

    Args:
        model: whose properties they are.
        properties: ``{"band_gap": 2.0}`` or ``["band_gap=2.0"]``; a value may be a number, several separated by
            commas (or a list), a range ``0.5..3``, or for element sets ``Li-Fe-O``.
        table: a CSV file of one column per property and one row per crystal, taken in turn.
        guidance: a factor for all, or factors by property.
        interval: ``0.2..0.8``.

    Raises:
        InputError: if a property is unknown to the model or a value cannot be used.
    """
    wanted: dict[str, Any] = dict(table_columns(Path(table))) if table is not None else {}
    for name, value in _pairs(properties, "--property").items():
        if name in wanted:
            raise InputError(f"--property {name} is a column of {table} too; give it once.")
        wanted[name] = value
    if not wanted:
        if guidance is not None or interval is not None:
            raise InputError("--guidance needs something to follow; give --property NAME=VALUE too.")
        return None
    known = {c.name: c for c in model.network.config.conditions}
    configs = {name: _find(name, known, model.metadata.name) for name in wanted}
    if len({c.name for c in configs.values()}) < len(configs):
        raise InputError("Two of the properties asked for are the same one by two names; give it once.")
    factors = _factors(guidance, known, model.metadata.name)
    targets = []
    for name, value in wanted.items():
        config = configs[name]
        values, bounds = _read(config, value, _words(config, model))
        targets.append(Target(config.name, config.kind, values, bounds, factors.get(config.name, factors[""])))
    if unused := sorted(set(factors) - {""} - {t.name for t in targets}):
        raise InputError(f"--guidance {unused[0]}: that property has no target; give --property {unused[0]}=VALUE.")
    return Targets(tuple(targets), _interval(interval))


def outside_training(targets: Targets, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each target beyond what the model was trained on (``ModelMetadata.properties``)."""
    sentences = []
    for target in targets.targets:
        seen = known.get(target.name, {})
        if "min" not in seen or "max" not in seen or target.kind == "elements":
            continue
        low, high, unit = float(seen["min"]), float(seen["max"]), str(seen.get("unit") or "")
        asked = [v for v in target.values if isinstance(v, float)] or list(target.bounds or ())
        beyond = [v for v in asked if not low <= v <= high]
        if beyond:
            sentences.append(
                f"{target.name} = {beyond[0]:g} lies outside what the model was trained on, "
                f"{low:.4g} to {high:.4g} {unit}".rstrip()
                + "; the crystals may not follow it."
            )
    return sentences


def table_columns(path: Path) -> dict[str, list[str]]:
    """Columns of a CSV file of targets; an empty cell is unconditional.

    Raises:
        InputError: if it cannot be read or holds no row.
    """
    lines = (row for row in Delimited.open(path).lines() if any(cell.strip() for cell in row))
    rows = list(islice(lines, MAX_ROWS + 2))
    if len(rows) > MAX_ROWS + 1:
        raise InputError(f"The table of targets {path} has more than {MAX_ROWS:,} rows; split it into several files.")
    if len(rows) < 2:
        raise InputError(f"The table of targets {path} needs a line of property names and at least one row.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise InputError(f"{path}, row {number} has {len(row)} values for {len(rows[0])} properties.")
    return {name.strip(): [row[k].strip() for row in rows[1:]] for k, name in enumerate(rows[0])}


def _pairs(items: Mapping[str, Any] | Sequence[str] | None, flag: str) -> dict[str, Any]:
    if items is None or isinstance(items, Mapping):
        return dict(items or {})
    found: dict[str, Any] = {}
    for item in [items] if isinstance(items, str) else items:
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InputError(f"{flag} {item!r} is not NAME=VALUE; write for example {flag} band_gap=2.0.")
        if name.strip() in found:
            raise InputError(f"{flag} {name.strip()} is given twice; separate several values by commas.")
        found[name.strip()] = value.strip()
    return found


def _find(name: str, known: Mapping[str, ConditionConfig], model: str) -> ConditionConfig:
    if name in known:
        return known[name]
    for own, config in known.items():
        if canonical_name(own) == canonical_name(name):
            return config
    from crystalsmith.checkpoints.find import models_that_follow

    what = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
    others = [other for other in models_that_follow(canonical_name(name)) if other != model]
    mend = f"choose --model {others[0]}" if others else "teach it with crystalsmith finetune"
    raise InputError(f"The model {model} does not know the property '{name}': {what}; {mend}.")


def _words(config: ConditionConfig, model: Model) -> Mapping[str, float]:
    """Number by word, in small letters, of a property that counts classes: those of its labels, or space groups."""
    if config.kind != "category":
        return {}
    classes = model.metadata.properties.get(config.name, {}).get("classes", ())
    found = {str(word).strip().lower(): float(number) for number, word in enumerate(classes, start=1)}
    return found or (group_symbols() if canonical_name(config.name) == "space_group" else {})


def _read(
    config: ConditionConfig, value: Any, words: Mapping[str, float]
) -> tuple[tuple[Value, ...], tuple[float, float] | None]:
    if isinstance(value, str) and ".." in value and config.kind != "elements":
        low, high = (_number(config, part, words) for part in value.split("..", 1))
        if low is None or high is None or not low < high:
            raise InputError(f"--property {config.name}={value} is an empty range; write the smaller number first.")
        return (), (low, high)
    if isinstance(value, str):
        parts: Sequence[Any] = value.split(",")
    else:
        parts = value if isinstance(value, Sequence) else [value]
    elements = config.kind == "elements"
    values = tuple(_system(config, part) if elements else _number(config, part, words) for part in parts)
    if not values:
        raise InputError(f"--property {config.name} has no value; give one at least.")
    return values, None


def _system(config: ConditionConfig, text: Any) -> str | None:
    return chemical_system(parse_chemical_system(str(text))) if str(text).strip() else None


def _number(config: ConditionConfig, text: Any, words: Mapping[str, float]) -> float | None:
    if text is None or not str(text).strip():
        return None
    try:
        value = float(text)
    except (TypeError, ValueError):
        word = str(text).strip().lower()
        value = float(words.get(word, words.get(word.replace(" ", ""), math.nan)))
    if not math.isfinite(value) and words:
        shown = ", ".join(list(words)[:6]) + (", ..." if len(words) > 6 else "")
        raise InputError(f"--property {config.name}: {text!r} is none of {shown}; give one of these or its number.")
    if not math.isfinite(value):
        raise InputError(f"--property {config.name}: {text!r} is not a number; write for example {config.name}=2.0.")
    if config.kind == "log" and value <= 0:
        raise InputError(f"--property {config.name}={value:g}: it must be above 0.")
    if config.kind == "category" and not (value == int(value) and 1 <= value <= config.num_categories):
        raise InputError(
            f"--property {config.name}={value:g}: it must be a whole number from 1 to {config.num_categories}."
        )
    return value


def _factors(guidance: Any, known: Mapping[str, ConditionConfig], model: str) -> dict[str, float]:
    """Factor by property; the key "" is that of all others."""
    factors = {"": DEFAULT_GUIDANCE}
    if guidance is None:
        return factors
    items: dict[str, Any] = {}
    if isinstance(guidance, Mapping):
        items = dict(guidance)
    else:
        single = isinstance(guidance, (int, float, str))
        for item in [guidance] if single else guidance:
            name, equals, value = str(item).partition("=")
            items[name.strip() if equals else ""] = value if equals else item
    for name, value in items.items():
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = math.nan
        if not math.isfinite(factor):
            raise InputError(f"--guidance {value!r} is not a number; write for example 2.0 or band_gap=2.0.")
        factors[_find(name, known, model).name if name else ""] = factor
    return factors


def _interval(value: str | Sequence[float] | None) -> tuple[float, float]:
    if value is None:
        return 0.0, 1.0
    parts = value.split("..", 1) if isinstance(value, str) else list(value)
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        low = high = math.nan
    if not 0.0 <= low < high <= 1.0:
        raise InputError(
            f"--guidance-interval {value!r} is no part of the time from 0 to 1; write for example 0.2..0.8."
        )
    return low, high
