"""Tables of text give the same rows however they were saved."""

from __future__ import annotations

import pytest

from crystalsmith.data.delimited import Delimited, find_column, value_of
from crystalsmith.errors import InputError

ROWS = [["id", "Formula", "gap"], ["a,b", "MgO", "0,5"], ["é", "Na Cl", '1;"2"']]


def written(delimiter: str) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(ROWS)
    return text.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_delimiter_and_encoding_are_found_out(tmp_path, delimiter, encoding) -> None:
    (tmp_path / "a.csv").write_bytes(written(delimiter).encode(encoding))
    table = Delimited.open(tmp_path / "a.csv")
    assert list(table.header) == ROWS[0]
    assert list(table.rows()) == ROWS[1:]


def test_short_rows_and_blank_lines(tmp_path) -> None:
    (tmp_path / "a.csv").write_text(" id , gap\n\na\nb,2,3\n")
    assert list(Delimited.open(tmp_path / "a.csv").records()) == [{"id": "a", "gap": ""}, {"id": "b", "gap": "2"}]


def test_columns_in_any_case() -> None:
    assert find_column(["X", "Formula"], ["composition", "formula"]) == "Formula"
    assert find_column(["X"], ["formula"]) is None
    assert value_of({"Material_ID": "", "ID": "b"}, ["material_id", "id"]) == "b"


@pytest.mark.parametrize("content", [b"", b" \n", b"a,b\n\0\1\2\3\0\0"], ids=["empty", "blank", "binary"])
def test_what_is_no_table(tmp_path, content) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv"):
        Delimited.open(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        Delimited.open(tmp_path / "none.csv")


def test_a_field_of_endless_length_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("crystalsmith.data.delimited.MAX_FIELD", 1000)
    (tmp_path / "a.csv").write_text("a,b\n" + "x" * 5000 + ",1\n")
    with pytest.raises(InputError, match="not readable as CSV"):
        list(Delimited.open(tmp_path / "a.csv").rows())
