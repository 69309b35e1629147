"""Strict settings: plain mappings, as YAML gives them, become frozen dataclasses or one clear sentence."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from crystalsmith.errors import InputError
from crystalsmith.schema import parse_yaml

T = TypeVar("T")

LARGEST = 1e19
"""No setting is a number of this size."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def read(cls: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """A frozen dataclass from a mapping; nested dataclasses are read from nested mappings.

    Args:
        cls: a dataclass whose annotations are numbers, strings, bool, tuples of these, ``Literal``, ``X | None``, plain
            mappings or further dataclasses.
        values: the mapping; None means all defaults.
        where: what the mapping is, for messages, for example ``recipe.yaml: optimizer``.

    Raises:
        InputError: for an unknown key (naming the valid ones and the closest) or a value of the wrong type.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a mapping of settings, not {_say(values)}.")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    refuse_unknown(values, names, where)
    return cls(**{name: convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def refuse_unknown(values: Iterable[Any], valid: Iterable[str], where: str) -> None:
    """Raise an ``InputError`` for the first key that is not valid, naming the closest valid one."""
    names = list(valid)
    for key in values:
        if key in names:
            continue
        close = difflib.get_close_matches(str(key), names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"{where} has no setting '{key}'.{hint} Valid settings: {', '.join(names)}.")


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value as its annotation wants it; numbers written as text (YAML reads ``1e-3`` as text) are understood."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
        return convert(options[0], value, where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        by_text = {str(choice): choice for choice in choices}  # YAML reads the precision 32 as a number
        if str(value) not in by_text:
            raise InputError(f"{where} must be one of {', '.join(by_text)}, not {_say(value)}.")
        return by_text[str(value)]
    if origin is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise InputError(f"{where} must be a list of {len(parts)} values, not {_say(value)}.")
        return tuple(convert(part, v, f"{where}[{i}]") for i, (part, v) in enumerate(zip(parts, value, strict=True)))
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, value, where)  # type: ignore[arg-type]
    return _plain(origin or hint, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) < LARGEST:
        raise InputError(f"{where} is a number that no setting can be.")
    if kind is int and not isinstance(value, bool) and isinstance(value, (int, float)) and value == int(value):
        return int(value)
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if abs(number) < LARGEST:
            return number
    if kind is str and isinstance(value, str):
        return value
    if kind in (dict, Mapping) or kind is getattr(typing, "Mapping", None):
        if isinstance(value, Mapping):
            return dict(value)
        kind = dict
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    raise InputError(f"{where} must be {names.get(kind, str(kind))}, not {_say(value)}.")


def _say(value: Any) -> str:
    return "nothing" if value is None else reprlib.repr(value)


def require(condition: bool, sentence: str) -> None:
    """Raise an ``InputError`` with this sentence unless the condition holds."""
    if not condition:
        raise InputError(sentence)


def seconds(text: str | float | None, where: str = "max_time") -> float | None:
    """Seconds of a duration such as ``2h``, ``1h30m``, ``90m``, ``01:30:00`` or a plain number of seconds.

    Raises:
        InputError: if it is none of these, or not positive.
    """
    if text is None:
        return None
    value = _duration(str(text).strip().lower())
    if value is None or value <= 0:
        raise InputError(f"{where} must be a duration such as 45s, 90m, 2h or 1h30m, not {_say(text)}.")
    return value


def _duration(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    if re.fullmatch(r"\d+:\d\d:\d\d", text):
        hours, minutes, secs = map(int, text.split(":"))
        return 3600.0 * hours + 60.0 * minutes + secs
    if re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        return sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    return None


def assign(tree: dict[str, Any], assignment: str) -> None:
    """Put one ``section.key=value`` (the value read as YAML) into a nested mapping.

    Raises:
        InputError: if there is no equals sign or the path runs through something that is not a section.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {assignment} is not of the form key=value; write for example --set optimizer.lr=1e-3.")
    value = parse_yaml(text, f"--set {assignment[:80]}: the value", "quote it if it is text") if text.strip() else None
    *sections, key = path.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"--set {assignment}: '{section}' is a single value, not a section.")
    tree[key] = value
