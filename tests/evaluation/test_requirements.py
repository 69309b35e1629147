"""Requirements are read as they are written, and what is not one is refused with an example."""

from __future__ import annotations

import pytest

from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.request import Request
from crystalsmith.evaluation.asked.requirements import parse_requirement

READ = [
    ("bulk_modulus>300", "bulk_modulus", {300.0: False, 300.1: True}),
    ("dft_bulk_modulus >= 300", "bulk_modulus", {299.9: False, 300.0: True}),
    ("space_group==225", "space_group", {225.0: True, 224.0: False}),
    ("spacegroup=225", "space_group", {225.0: True, 224.0: False}),
    ("hhi_score<1500", "hhi_score", {1500.0: False, -1.0: True}),
    ("energy_above_hull<=0.05", "energy_above_hull", {0.05: True, 0.051: False, -0.1: True}),
    ("density 5..7", "density", {4.9: False, 5.0: True, 7.0: True, 7.1: False}),
    ("density=5..7", "density", {5.0: True, 8.0: False}),
    ("energy_above_hull -.5..-1e-3", "energy_above_hull", {-0.1: True, 0.0: False}),
    ("num_elements != 2", "num_elements", {2.0: False, 3.0: True}),
    ("chemical_system==Li-Fe-O", "chemical_system", {"Fe-Li-O": True, "Fe-O": False}),
]


@pytest.mark.parametrize(("text", "name", "verdicts"), READ)
def test_what_is_written_is_what_is_meant(text, name, verdicts) -> None:
    requirement = parse_requirement(text)
    assert requirement.name == name
    assert {value: requirement.met(value) for value in verdicts} == verdicts
    assert not requirement.met(None)


@pytest.mark.parametrize(
    "text",
    ["", "density", "density>", "density>heavy", "density 7..5", "density>nan", "density>__import__('os')",
     "density>5 and density<7", "5<density<7", "chemical_system>Li", "chemical_system==Xx", "density =>5"],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(text) -> None:
    with pytest.raises(InputError):
        parse_requirement(text)


def test_what_cannot_be_measured_is_refused_before_anything_runs() -> None:
    for text, needed in {
        "bulk_modulus>300": "--bulk-modulus",
        "energy_above_hull<0": "--reference",
        "band_gap>1": "--predictor",
    }.items():
        with pytest.raises(InputError, match=needed):
            Request(requirements=(parse_requirement(text),)).check([], None, False, None)
    with pytest.raises(InputError, match="--potential"):
        Request(bulk_modulus=True).check([], None, False, None)
    Request(requirements=(parse_requirement("density>1"),)).check([], None, False, None)
