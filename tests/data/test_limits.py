"""Files whose few bytes stand for more than they should."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from crystalsmith.data.readers import MOST_UNREADABLE, open_source
from crystalsmith.data.rows import Refused
from crystalsmith.errors import InputError
from crystalsmith.formats import cif_text

CIF = cif_text("one", np.zeros((1, 3)), 3.6 * np.eye(3), np.array([29]))


def test_a_few_bytes_that_stand_for_millions_of_rows_without_a_crystal(tmp_path: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    with gzip.open(tmp_path / "zeros.json.gz", "wb") as file:
        file.write(b"[" + b"0," * 20_000_000 + b"0]")
    pq.write_table(pa.table({"cif": pa.array([None] * 20_000_000, pa.string())}), tmp_path / "empty.parquet")
    for name in ("zeros.json.gz", "empty.parquet"):
        began = time.monotonic()
        with pytest.raises(InputError, match="None of the first 5,000 rows"):
            for _ in open_source(tmp_path / name).chunks(100):
                pass
        assert time.monotonic() - began < 10


def test_many_refused_rows_before_a_crystal_are_no_end(tmp_path: Path) -> None:
    rows = [{"id": "x", "cif": None}] * (MOST_UNREADABLE - 1) + [{"id": "late", "cif": CIF}]
    (tmp_path / "late.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [row for chunk in open_source(tmp_path / "late.jsonl").chunks(1000) for row in chunk.rows()]
    assert [row.id for row in found if not isinstance(row, Refused)] == ["late"]
