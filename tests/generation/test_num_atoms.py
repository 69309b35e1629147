"""Numbers of atoms follow the histogram asked for and depend on seed and index alone."""

from __future__ import annotations

import pytest

from crystalsmith.errors import InputError
from crystalsmith.generation.num_atoms import check_histogram, parse_num_atoms
from crystalsmith.generation.plans.histogram import sized
from crystalsmith.generation.plans.plan import Plan

MODEL = {2: 1.0, 4: 3.0, 6: 4.0, 20: 2.0}


def test_forms_of_the_request(tmp_path):
    (tmp_path / "h.json").write_text('{"3": 1, "5": 3}')
    (tmp_path / "h.csv").write_text("num_atoms,weight\n3,1\n5,3\n")
    (tmp_path / "bare.csv").write_text("5,3\n3,1\n")
    assert parse_num_atoms("8", MODEL) == {8: 1.0}
    assert parse_num_atoms("3-6", MODEL) == pytest.approx({4: 3 / 7, 6: 4 / 7})
    assert parse_num_atoms("30-31", MODEL) == {30: 0.5, 31: 0.5}
    for name in ("h.json", "h.csv", "bare.csv"):
        assert parse_num_atoms(str(tmp_path / name), MODEL) == {3: 0.25, 5: 0.75}


@pytest.mark.parametrize("text", ["0", "9-4", "0-3", "four", "-3", "", "4-", "nowhere.json", "1.5"])
def test_what_is_no_request_is_refused_in_one_sentence(text):
    with pytest.raises(InputError) as error:
        parse_num_atoms(text, MODEL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2]", '{"4": -1}', '{"4": "many"}', '{"0": 1}', '{"4": 0}', '{"4": NaN}', '{"a": 1}', "\x00\xff", '{"4"'],
)
def test_a_bad_file_is_refused(tmp_path, content):
    for suffix in (".json", ".csv"):
        path = tmp_path / f"bad{suffix}"
        path.write_text(content)
        with pytest.raises(InputError):
            parse_num_atoms(str(path), MODEL)


def draws(seed: int, num: int) -> list[int]:
    histogram = check_histogram(MODEL, "the test")
    return [sized(Plan(seed, i), histogram).num_atoms for i in range(num)]


def test_draws_follow_the_histogram():
    drawn = draws(11, 20000)
    assert set(drawn) == set(MODEL)
    for n, probability in check_histogram(MODEL, "the test").items():
        share = drawn.count(n) / len(drawn)
        assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 20000) ** 0.5)


def test_a_draw_depends_on_the_seed():
    assert draws(5, 200) != draws(6, 200)
