"""The one door through which files that we wrote come back: limits on size, depth and numbers, then a shape.

A shape is what plain data (as JSON gives them) must look like; :func:`check` returns them or says in one sentence where
they are not so. :func:`of_type` makes the shape of a dataclass from its annotations: a new field cannot be forgotten.
"""

from __future__ import annotations

import dataclasses
import json
import math
import stat
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from crystalsmith.errors import InputError, brief

MAX_BYTES = 256 * 2**20
"""Bytes of a JSON file of ours that are read."""

MAX_DEPTH = 40
"""Nested lists and objects."""

MAX_DIGITS = 40
"""Digits of a whole number in a file."""


NO_ARRAY = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, TypeError, MemoryError, RecursionError)
"""What ``np.load`` raises of a damaged file: NumPy reads the header as Python's text of a literal."""


class Misfit(Exception):
    """Data that are not of their shape: where, as a path of keys, and what is wrong."""

    def __init__(self, at: str, problem: str) -> None:
        super().__init__(at, problem)
        self.at, self.problem = at, problem


class Shape(Protocol):
    """What data must look like."""

    def check(self, value: Any, at: str) -> None:
        """Raise :class:`Misfit` unless the value is so."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number within bounds, both included; ``whole`` for integers; ``none`` allows null."""

    low: float = -1e300
    high: float = 1e300
    whole: bool = False
    none: bool = False
    nan: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Misfit(at, f"{say(value)} instead of a number")
        if isinstance(value, float) and math.isnan(value) and self.nan:
            return
        if self.whole and not isinstance(value, int):
            raise Misfit(at, f"{say(value)} instead of a whole number")
        if not self.low <= value <= self.high:
            raise Misfit(at, f"{say(value)} lies outside {self.low:g} to {self.high:g}")


def whole(low: float = 0, high: float = 2**62, none: bool = False) -> Number:
    """A whole number within bounds."""
    return Number(low, high, whole=True, none=none)


@dataclass(frozen=True)
class Text:
    """Text of bounded length; one of ``choices`` where there are any."""

    longest: int = 4096
    choices: tuple[str, ...] = ()
    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if not isinstance(value, str) or len(value) > self.longest:
            raise Misfit(at, f"{say(value)} instead of text" if not isinstance(value, str) else "text that is too long")
        if self.choices and value not in self.choices:
            raise Misfit(at, f"{say(value)} instead of {' or '.join(self.choices)}")


@dataclass(frozen=True)
class Flag:
    """True or false."""

    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if not isinstance(value, bool) and not (value is None and self.none):
            raise Misfit(at, f"{say(value)} instead of true or false")


@dataclass(frozen=True)
class Items:
    """A list of one shape, of bounded length."""

    item: Shape
    fewest: int = 0
    most: int = 10_000_000
    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if not isinstance(value, list | tuple):
            raise Misfit(at, f"{say(value)} instead of a list")
        if not self.fewest <= len(value) <= self.most:
            raise Misfit(at, f"{len(value)} entries instead of {_between(self.fewest, self.most)}")
        for k, item in enumerate(value):
            self.item.check(item, f"{at}[{k}]")


@dataclass(frozen=True)
class Tuple:
    """A list of so many entries, each of a shape of its own."""

    parts: tuple[Shape, ...]
    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if not isinstance(value, list | tuple) or len(value) != len(self.parts):
            raise Misfit(at, f"{say(value)} instead of a list of {len(self.parts)}")
        for k, (part, item) in enumerate(zip(self.parts, value, strict=True)):
            part.check(item, f"{at}[{k}]")


@dataclass(frozen=True)
class Map:
    """An object whose values are of one shape; keys are whole numbers where ``numbered``."""

    value: Shape
    numbered: bool = False
    most: int = 1_000_000
    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if not isinstance(value, Mapping):
            raise Misfit(at, f"{say(value)} instead of an object")
        if len(value) > self.most:
            raise Misfit(at, f"{len(value)} entries (at most {self.most})")
        for key, item in value.items():
            if not isinstance(key, str) and not (self.numbered and isinstance(key, int)):
                raise Misfit(at, f"the key {say(key)} instead of text")
            if self.numbered and not (str(key).isascii() and str(key).isdigit() and len(str(key)) < 10):
                raise Misfit(at, f"the key {say(key)} instead of a whole number")
            self.value.check(item, f"{at}.{key}"[:200])


@dataclass(frozen=True)
class Record:
    """An object with fields of their own shapes; others are allowed unless ``closed``."""

    needed: Mapping[str, Shape] = field(default_factory=dict)
    optional: Mapping[str, Shape] = field(default_factory=dict)
    closed: bool = False
    none: bool = False

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is None and self.none:
            return
        if not isinstance(value, Mapping):
            raise Misfit(at, f"{say(value)} instead of an object")
        for name in self.needed:
            if name not in value:
                raise Misfit(at, f"no entry '{name}'")
        for name, item in value.items():
            shape = self.needed.get(name) or self.optional.get(name)
            if shape is not None:
                shape.check(item, f"{at}.{name}" if at else str(name))
            elif self.closed:
                raise Misfit(at, f"an unknown entry {say(name)}")


@dataclass(frozen=True)
class Either:
    """One of several shapes."""

    shapes: tuple[Shape, ...]

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        problem: Misfit | None = None
        for shape in self.shapes:
            try:
                shape.check(value, at)
            except Misfit as misfit:
                problem = problem or misfit
            else:
                return
        if problem is not None:
            raise problem


@dataclass(frozen=True)
class Anything:
    """Any plain data."""

    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""


def say(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else "?" for c in value[:40])
        return f"'{text}'" if len(value) <= 40 else f"'{text}...'"
    if value is None:
        return "nothing"
    if isinstance(value, bool | float):
        return str(value).lower() if isinstance(value, bool) else f"{value:g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of too many digits"
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, Sequence) else "something else"


def _between(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} or more" if high >= 10_000_000 else f"{low} to {high}"


def check(value: Any, shape: Shape, where: str, mend: str) -> Any:
    """The value, if it is of the shape.

    Raises:
        InputError: naming the first place that is not.
    """
    try:
        shape.check(value, "")
    except Misfit as misfit:
        at = f" at {misfit.at.lstrip('.')}" if misfit.at else ""
        raise InputError(f"{where} is damaged{at} ({misfit.problem}); {mend}.") from None
    return value


def read_json(path: Path, shape: Shape | None = None, mend: str = "check the file", max_bytes: int = MAX_BYTES) -> Any:
    """The contents of a JSON file within limits, of a shape if one is given.

    Raises:
        InputError: if it is missing, no plain file, too large, no JSON, nested too deep, or not of the shape.
    """
    text = read_text(path, mend, max_bytes)
    return parse_json(text, str(path), shape, mend)


def read_text(path: Path, mend: str = "check the file", max_bytes: int = MAX_BYTES) -> str:
    """The text of a plain file within a limit of size; UTF-8, a mark at its beginning left out.

    Raises:
        InputError: if it is missing, no plain file (a pipe or device could be read for ever), too large or no text.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is no plain file; {mend}.")
        if found.st_size > max_bytes:
            raise InputError(f"{path} has {found.st_size:,} bytes (at most {max_bytes:,} are read); {mend}.")
        return path.read_bytes().decode("utf-8-sig")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; {mend}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8; {mend}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name cannot be used"
        raise InputError(f"{path} cannot be read ({reason}); {mend}.") from None


def parse_json(text: str, where: str, shape: Shape | None = None, mend: str = "check the file") -> Any:
    """What a JSON text holds, of a shape if one is given; arguments and errors as in :func:`read_json`."""
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise InputError(f"{where} is nested too deep; {mend}.") from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{where} cannot be read as JSON ({reason}); {mend}.") from None
    if depth_exceeds(value, MAX_DEPTH):
        raise InputError(f"{where} is nested too deep (more than {MAX_DEPTH} levels); {mend}.")
    if ("\\ud" in text or "\\uD" in text) and not _writable(value):
        raise InputError(f"{where} holds text that is no Unicode (half of a surrogate pair); {mend}.")
    return value if shape is None else check(value, shape, where, mend)


def _writable(value: Any) -> bool:
    """Whether all text of plain data can be written again: JSON's escapes can name halves of characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_lines(lines: Sequence[str], where: str, shape: Shape, mend: str) -> list[Any]:
    """What the lines of a file of JSON lines hold, each of the shape; errors as in :func:`read_json`."""
    return [parse_json(line, f"{where} line {number}", shape, mend) for number, line in enumerate(lines, start=1)]


@contextmanager
def interpreting(where: str, mend: str) -> Iterator[None]:
    """Within the block data of ours are made into objects; what does not fit together is one sentence.

    Raises:
        InputError: in place of what Python says of data of another shape.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise InputError(f"{where} is damaged ({brief(error)}); {mend}.") from None


MAX_YAML = 2**20
"""Bytes of a YAML file of settings."""


def read_yaml(path: Path, mend: str = "check the file") -> Any:
    """The plain data of a YAML file: no aliases, no tags, limits on size and depth.

    Raises:
        InputError: if it is missing, too large, no YAML, or more than plain data.
    """
    return parse_yaml(read_text(path, mend, MAX_YAML), str(path), mend)


def parse_yaml(text: str, where: str, mend: str = "check the file") -> Any:
    """What a YAML text holds; arguments and errors as in :func:`read_yaml`."""
    import yaml

    depth = 0
    try:
        # Events come one by one, so that a text of brackets alone ends at the limit.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{where} uses YAML aliases; write the values out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InputError(f"{where} is nested too deep (more than {MAX_DEPTH} levels); {mend}.")
        return yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise InputError(f"{where} holds something other than plain data ({error.problem}); it is not read.") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = f" at line {line + 1}" if line is not None else ""
        raise InputError(f"{where} is not valid YAML{at}; {mend}.") from None
    except InputError:
        raise
    except (ValueError, RecursionError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{where} is not valid YAML ({reason}); {mend}.") from None


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested deeper than the limit."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, list | dict)
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, list | dict)
        ]
        if not level:
            return False
    return True


def fields_of(kind: type) -> dict[str, Shape]:
    """The shape of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {f.name: of_type(hints[f.name]) for f in dataclasses.fields(kind)}


def of_type(hint: Any) -> Shape:
    """The shape of values of a type: numbers, text, bool, ``Literal``, tuples, mappings, ``X | None``, dataclasses.

    Numbers must be finite and below 1e12 in size; the dataclass itself may ask for more when it is made.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        shapes = tuple(of_type(part) for part in parts if part is not type(None))
        shape: Shape = shapes[0] if len(shapes) == 1 else Either(shapes)
        return Either((shape, _NULL)) if type(None) in parts else shape
    if origin is typing.Literal:
        return Text(choices=tuple(str(part) for part in parts))
    if origin in (tuple, list) or hint in (tuple, list):
        if parts and parts[-1] is not ... and origin is tuple:
            return Tuple(tuple(of_type(part) for part in parts))
        return Items(of_type(parts[0]) if parts else Anything())
    if dataclasses.is_dataclass(hint):
        return Record({}, fields_of(hint if isinstance(hint, type) else type(hint)), closed=True)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Map(of_type(parts[1]), numbered=parts[0] is int)
    plain: dict[Any, Shape] = {
        int: Number(-1e12, 1e12, whole=True),
        float: Number(-1e12, 1e12),
        str: Text(),
        bool: Flag(),
        Any: Anything(),
    }
    return plain.get(hint, Anything())


@dataclass(frozen=True)
class _Null:
    def check(self, value: Any, at: str) -> None:
        """See :class:`Shape`."""
        if value is not None:
            raise Misfit(at, f"{say(value)} instead of nothing")


_NULL = _Null()
