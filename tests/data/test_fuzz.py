"""Broken and hostile inputs of every format: crystals, ledger lines or one sentence; no traceback, no hang."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalsmith.data.cif.groups import by_hall, by_symbol
from crystalsmith.data.cif.operations import parse
from crystalsmith.data.filters import Rules, prepare_chunk
from crystalsmith.data.readers import open_source
from crystalsmith.data.rows import Chunk, Refused, RowError
from crystalsmith.errors import InputError
from crystalsmith.evaluation.structures import sample_of

CIF = """data_x
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum 'Mg O'
_cell_formula_units_Z 4
_symmetry_space_group_name_H-M 'F m -3 m'
_symmetry_Int_Tables_number 225
_space_group_name_Hall '-F 4 2 3'
loop_
_symmetry_equiv_pos_as_xyz
'x,y,z'
'x+1/2,y+1/2,z'
'x+1/2,y,z+1/2'
'x,y+1/2,z+1/2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Mg1 Mg2+ 4 0 0 0 1
O1 O2- 4 0.5 0.5 0.5 1
"""
POSCAR = "MgO\n1.0\n4.2 0 0\n0 4.2 0\n0 0 4.2\nMg O\n1 1\nSelective dynamics\nDirect\n0 0 0 T T T\n0.5 0.5 0.5 F F F\n"
XYZ = (
    '2\nLattice="4.2 0 0 0 4.2 0 0 0 4.2" Properties=species:S:1:pos:R:3 gap=1.5 id=a pbc="T T T"\nMg 0 0 0\nO 2 2 2\n'
)
SITES = [{"species": [{"element": e, "occu": 1}], "abc": [x, x, x]} for e, x in (("Mg", 0.0), ("O", 0.5))]
STRUCTURE = {"lattice": {"matrix": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]]}, "sites": SITES}
OPTIMADE = {
    "lattice_vectors": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]],
    "cartesian_site_positions": [[0, 0, 0], [2.1, 2.1, 2.1]],
    "species_at_sites": ["Mg", "O"],
    "species": [{"name": "Mg", "chemical_symbols": ["Mg"], "concentration": [1.0]}],
}
JARVIS = {
    "lattice_mat": STRUCTURE["lattice"]["matrix"],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Mg", "O"],
}
ASE = {
    "1": {
        "numbers": {"__ndarray__": [[2], "int64", [12, 8]]},
        "positions": [[0, 0, 0], [2, 2, 2]],
        "cell": np.eye(3).tolist(),
    }
}
JSON = json.dumps(
    {"data": [{"id": "a", "attributes": OPTIMADE}, {"jid": "b", "atoms": JARVIS}, {"structure": STRUCTURE, "gap": 1}]}
)
FRAME = json.dumps({"index": [0], "columns": ["structure", "gap"], "data": [[STRUCTURE, 1.5]]})
CSV = f'id,gap,cif\na,1.5,"{CIF}"\nb,2.5,"{CIF}"\n'


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"a.cif": CIF, "b/POSCAR": POSCAR, "._c.cif": "x", "d.cif.gz": ""}.items():
            archive.writestr(name, gzip.compress(CIF.encode()) if name.endswith("gz") else text)
    return buffer.getvalue()


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": ["a", "b"], "cif": [CIF, CIF], "gap": [1.0, 2.0]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def database() -> bytes:
    from ase import Atoms
    from ase.db import connect

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        with connect(path) as opened:
            opened.write(Atoms("MgO", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[4.2] * 3, pbc=True), gap=1.5)
        return path.read_bytes()


INPUTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "cif": ("a.cif", CIF.encode),
    "poscar": ("POSCAR", POSCAR.encode),
    "extxyz": ("a.extxyz", (XYZ * 2).encode),
    "json": ("a.json", JSON.encode),
    "frame": ("a.json", FRAME.encode),
    "ase json": ("a.json", json.dumps(ASE).encode),
    "json lines": ("a.jsonl", (json.dumps({"structure": STRUCTURE}) + "\n" + json.dumps(OPTIMADE) + "\n").encode),
    "json lines of CIF": ("b.jsonl", (json.dumps({"id": "a", "cif": CIF, "gap": 1.0}) + "\n").encode),
    "csv": ("a.csv", CSV.encode),
    "compressed": ("a.cif.gz", lambda: gzip.compress(CIF.encode())),
    "zip": ("a.zip", zipped),
    "parquet": ("a.parquet", parquet),
    "database": ("a.db", database),
}
WORDS = [
    b"", b"?", b".", b"'", b'"', b";", b"\n", b"\n;", b"\0", b" ", b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 400,
    b"1/0", b"null", b"[", b"]", b"{", b"}", b"[" * 3000, b"loop_", b"data_y", b"data_", b"_atom_site_fract_x",
    b"save_", b"x,y,z", b"-x,-y,-z", b"2", b"99999999999", b"NaN", b"Xx", b"true", b'"a":', b"\xff\xfe",
    b"\xef\xbb\xbf", b"\xf0\x28", b"P 1", b"R -3 m", b"F d -3 m", b"S", b"Cartesian", b":R:99999999", b"0.5",
    b"1e-320", b"-0.0", b"\r", b"\t", b"#", b"stop_", b"global_",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "copy", "put", "flip", "end"]),
        st.integers(0, 10**6),
        st.integers(0, 60),
        st.sampled_from(WORDS),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """The content with each edit made: a stretch cut or copied, a word put in place, a byte changed, the end lost."""
    for kind, place, length, word in edits:
        at = place % (len(content) + 1)
        if kind == "cut":
            content = content[:at] + content[at + length :]
        elif kind == "copy":
            content = content[:at] + content[at : at + length] * 2 + content[at + length :]
        elif kind == "put":
            content = content[:at] + word + content[at + length % 8 :]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :]
        elif kind == "end":
            content = content[:at]
    return content


def check(chunk: Chunk) -> None:
    for row in chunk.rows():
        if isinstance(row, Refused):
            assert row.detail
        else:
            assert row.frac_coords.shape == (len(row.atomic_numbers), 3)
            assert row.cell.shape == (3, 3)
        assert sample_of(row).id
    prepared = prepare_chunk(chunk, Rules(max_atoms=None))
    assert np.isfinite(prepared.cell).all()
    assert np.isfinite(prepared.frac_coords).all()


def read(name: str, content: bytes) -> None:
    """Read it as a user would; whatever comes out must be a row with its shapes, a refusal, or one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        began, sentences = time.process_time(), []
        try:
            for disorder in ("refuse", "largest"):
                for chunk in open_source(path, disorder).chunks(2):
                    check(chunk)
        except InputError as error:
            sentences.append(str(error))
        assert all(len(sentence.splitlines()) == 1 for sentence in sentences)
        assert time.process_time() - began < 10


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.filterwarnings("ignore")
def test_edited_inputs(kind: str) -> None:
    name, make = INPUTS[kind]
    content = make()
    read(name, content)

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(EDITS)
    def edits(made: list[tuple[str, int, int, bytes]]) -> None:
        read(name, edited(content, made))

    edits()


@settings(max_examples=500, deadline=10_000, derandomize=True, database=None)
@given(st.text(st.sampled_from("PABCIRFHxyz-+/,.'\"*()= :_0123456789abcdmnSZHR\\{}"), max_size=40))
def test_symbols_and_operations_of_no_sense(text: str) -> None:
    for group in (by_hall(text), *by_symbol(text)):
        assert group is None or len(group) <= 192
    try:
        rotation, translation = parse(text)
    except RowError:
        return
    assert abs(np.linalg.det(rotation)) == pytest.approx(1)
    assert np.isfinite(translation).all()
