"""The door for files of ours: what is not of its shape is named, and nothing gets past the limits."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalsmith.errors import InputError
from crystalsmith.schema import (
    Anything,
    Either,
    Flag,
    Items,
    Map,
    Number,
    Record,
    Text,
    Tuple,
    check,
    of_type,
    parse_json,
    read_json,
    whole,
)


@dataclass(frozen=True)
class Example:
    size: int
    rate: float
    name: str
    kind: Literal["a", "b"]
    pair: tuple[float, float]
    table: Mapping[int, float]
    on: bool = False
    levels: int | None = None


GOOD = {
    "size": 1,
    "rate": 2,
    "name": "x",
    "kind": "a",
    "pair": [1, 2.5],
    "table": {"3": 0.5},
    "on": True,
    "levels": None,
}


def test_a_shape_from_annotations() -> None:
    shape = of_type(Example)
    assert check(GOOD, shape, "file", "mend it") is GOOD
    bad = [
        *({"size": v} for v in (1.5, "1", True, None, 10**13)),
        *({"rate": v} for v in (math.nan, math.inf, "2", [])),
        *({"name": v} for v in (1, "x" * 5000)),
        *({"kind": "c"}, {"pair": [1]}, {"pair": [1, "2"]}, {"table": {"x": 1.0}}, {"table": []}, {"on": 1}),
        *({"levels": 1.5}, {"unknown": 1}),
    ]
    for change in bad:
        with pytest.raises(InputError, match=rf"^file is damaged( at {next(iter(change))}.*)? \(.*\); mend it\.$"):
            check({**GOOD, **change}, shape, "file", "mend it")


def test_where_it_is_wrong_is_told() -> None:
    shape = Record({"a": Items(Map(whole(0, 5)))})
    with pytest.raises(InputError, match=r"f is damaged at a\[1\]\.b \(9 lies outside 0 to 5\); m\."):
        check({"a": [{}, {"b": 9}]}, shape, "f", "m")
    with pytest.raises(InputError, match="no entry 'a'"):
        check({}, shape, "f", "m")
    with pytest.raises(InputError, match="an unknown entry 'c'"):
        check({"c": 1}, Record({}, {}, closed=True), "f", "m")


def test_depth_digits_and_size_are_limited(tmp_path) -> None:
    assert parse_json("[" * 30 + "]" * 30, "x") is not None
    for text in ("[" * 60 + "]" * 60, "[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '{"n": ' + "9" * 4000 + "}"):
        with pytest.raises(InputError, match=r"^x "):
            parse_json(text, "x")
    (tmp_path / "a.json").write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(InputError, match="at most 100 are read"):
        read_json(tmp_path / "a.json", max_bytes=100)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link", "", "none"):
        with pytest.raises(InputError):
            read_json(tmp_path / name)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        read_json(tmp_path / "latin.json")


def refusal(read) -> str:
    """The sentence of an InputError, empty where there was none; anything else comes through."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


SHAPES = [
    Number(0, 1),
    Text(5),
    Flag(),
    Items(Number(), 1, 3),
    Tuple((Number(), Text())),
    Map(Anything(), numbered=True),
    Either((Flag(), Text())),
    of_type(Example),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.sampled_from(SHAPES))
def test_any_value_passes_or_is_refused_in_a_sentence(value, shape) -> None:
    said = refusal(lambda: check(value, shape, "file", "mend it"))
    assert "\n" not in said
    assert len(said) < 600


@settings(max_examples=300, deadline=None)
@given(st.text() | VALUES.map(json.dumps))
def test_any_text_is_read_or_refused(text) -> None:
    said = refusal(lambda: parse_json(text, "file"))
    assert not said or said.startswith("file ")


def test_text_that_cannot_be_written_again_is_refused(tmp_path) -> None:
    """JSON may name half of a character by its escape; a whole one, or the escape as text, is as good as any."""
    file = tmp_path / "a.json"
    for text in ('{"a": "\\ud800"}', '["\\uDC00x"]', '{"\\udfff": 1}'):
        file.write_text(text)
        with pytest.raises(InputError, match="no Unicode"):
            read_json(file)
    file.write_text('["\\ud83d\\ude00", "\\\\ud800"]')
    assert read_json(file) == ["\N{GRINNING FACE}", "\\ud800"]
