"""Laws of Wyckoff templates: known crystals, and that a template yields crystals of its own space group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crystalsmith.errors import InputError
from crystalsmith.symmetry.groups import space_group
from crystalsmith.symmetry.wyckoff import bundled_templates, count_templates, read_templates, template_of

KNOWN = {
    "rocksalt": ("Fm-3m", (5.64, 5.64, 5.64, 90, 90, 90), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], (225, "ab")),
    "diamond": ("Fd-3m", (3.57, 3.57, 3.57, 90, 90, 90), ["C"], [[0, 0, 0]], (227, "a")),
    "wurtzite": (
        "P6_3mc",
        (3.25, 3.25, 5.2, 90, 90, 120),
        ["Zn", "O"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
        (186, "bb"),
    ),
    "rutile": ("P4_2/mnm", (4.59, 4.59, 2.96, 90, 90, 90), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]], (136, "af")),
}


def primitive(name):
    from pymatgen.core import Lattice, Structure

    group, parameters, elements, places, _ = KNOWN[name]
    crystal = Structure.from_spacegroup(group, Lattice.from_parameters(*parameters), elements, places)
    return crystal.get_primitive_structure().get_reduced_structure()


@pytest.mark.parametrize("name", KNOWN)
def test_the_template_of_a_known_crystal(name) -> None:
    crystal = primitive(name)
    number, letters = KNOWN[name][-1]
    found = template_of(crystal.frac_coords, crystal.lattice.matrix, np.array(crystal.atomic_numbers))
    template, sites = found.template, found.sites
    assert sorted(found.elements) == sorted(set(crystal.atomic_numbers))
    assert template.number == number
    # The letters of one orbit depend on the origin that the search chose; their number does not.
    assert len(template.letters) == len(letters)
    assert sorted(template.pattern) == sorted("AB" if len(set(crystal.atomic_numbers)) == 2 else "A")
    templates = count_templates([found], "test")
    assert templates.size(template) == len(crystal) == len(sites)
    rebuilt = np.einsum("nij,nj->ni", sites.slope, crystal.frac_coords[sites.first]) + sites.offset
    gap = rebuilt - crystal.frac_coords
    assert np.abs(gap - np.rint(gap)).max() < 1e-4


def test_displacements_along_the_slopes_keep_the_space_group() -> None:
    crystal = primitive("rutile")
    numbers = np.array(crystal.atomic_numbers)
    sites = template_of(crystal.frac_coords, crystal.lattice.matrix, numbers).sites
    free = np.random.default_rng(0).normal(scale=0.03, size=(len(crystal), 3))
    moved = crystal.frac_coords + np.einsum("nij,nj->ni", sites.slope, free[sites.first])
    assert np.abs(moved - crystal.frac_coords).max() > 1e-3
    assert space_group(moved, crystal.lattice.matrix, numbers, 1e-4) == 136


def test_every_space_group_of_the_bundled_templates_comes_out_as_itself() -> None:
    """One template of each group with generic free coordinates, a generic cell and an element per orbit."""
    templates = bundled_templates()
    rng = np.random.default_rng(0)
    groups = {t.number: t for t in templates.counts}
    assert len(groups) > 150
    for number, template in groups.items():
        sites = templates.sites(template)
        free = rng.random((len(sites), 3))
        places = np.einsum("nij,nj->ni", sites.slope, free[sites.first]) + sites.offset
        edge = 3 * len(sites) ** (1 / 3)
        frame = edge * np.eye(3) + 0.2 * edge * rng.normal(size=(3, 3))
        metric = np.mean([w.T @ frame @ frame.T @ w for w in sites.rotations], axis=0)
        _, orbit = np.unique(sites.first, return_inverse=True)
        assert space_group(places, np.linalg.cholesky(metric), orbit + 3, 1e-3) == number, template


def test_the_sites_carry_the_whole_group() -> None:
    """Operations of a crystal in a reduced cell that is not the standard one permute its atoms."""
    templates = bundled_templates()
    template = max(templates.counts, key=lambda t: (len(set(t.letters)), t.number))
    sites = templates.sites(template)
    assert (np.abs(np.linalg.det(sites.rotations.astype(float))).round() == 1).all()
    products = {(a @ b).tobytes() for a, b in itertools.product(sites.rotations, repeat=2)}
    assert products == {a.tobytes() for a in sites.rotations}


def test_templates_survive_a_file_and_refuse_another(tmp_path) -> None:
    templates = bundled_templates()
    path = tmp_path / "templates.json"
    path.write_text(templates.to_json(), encoding="utf-8")
    assert read_templates(path).counts == templates.counts
    path.write_text(
        '{"format": 1, "templates": [[225, "ab", "AB", 0, 1]], "bases": [], "points": {}}', encoding="utf-8"
    )
    with pytest.raises(InputError, match="data symmetry"):
        read_templates(path)
