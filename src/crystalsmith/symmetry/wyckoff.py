"""Wyckoff templates: where the atoms of a symmetric crystal may stand, before it is known which elements they are.

A template is a space group, one Wyckoff letter per orbit, the basis of the reduced primitive cell and which orbits
share an element. It holds neither elements nor coordinates. Letters and operations are those of the International
Tables in the setting of moyopy (Shinohara, "moyo: a crystal symmetry finder", 2024).
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalsmith.errors import InputError
from crystalsmith.schema import Items, Map, Number, Record, Text, Tuple, read_json, whole
from crystalsmith.symmetry.groups import search

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SYMPREC = 0.1
"""Angstrom: tolerance of the symmetry search in known crystals, the one of the Materials Project."""

TABLES = Path(__file__).resolve().parent
"""Where the templates that come with the package, and what was learned of them, lie."""

_GENERIC = np.array([0.2387, 0.4129, 0.6713])
"""A point that lies on no symmetry element by itself."""


@dataclass(frozen=True)
class Template:
    """One arrangement of orbits.

    Attributes:
        number: space group, 1 to 230.
        letters: one Wyckoff letter per orbit, sorted.
        basis: nine integers, row by row: P with ``x = P x_std``, from the standard primitive cell to the reduced one.
        pattern: one capital letter per orbit, the same for orbits of one element; A has the fewest atoms. Empty where
            it is not known.
    """

    number: int
    letters: str
    basis: tuple[int, ...]
    pattern: str = ""


@dataclass(frozen=True)
class Sites:
    """A template in its own cell: atom j stands at ``slope[j] @ u[first[j]] + offset[j]`` for free vectors u.

    Attributes:
        first: ``(n,)``, the atom that represents the orbit of each atom.
        slope: ``(n, 3, 3)``; the rows of a representative project onto its own Wyckoff position.
        back: ``(n, 3, 3)``, displacements of atom j as displacements of its representative.
        offset: ``(n, 3)``.
        rotations: ``(g, 3, 3)`` integers, the point group in this basis; ``x' = W x``.
    """

    first: Integers
    slope: Floats
    back: Floats
    offset: Floats
    rotations: Integers

    def __len__(self) -> int:
        return len(self.first)


def free_sites(size: int) -> Sites:
    """Sites of ``size`` atoms without any symmetry."""
    eye = np.tile(np.eye(3), (size, 1, 1))
    return Sites(np.arange(size), eye, eye.copy(), np.zeros((size, 3)), np.eye(3, dtype=np.int64)[None])


@dataclass(frozen=True)
class Templates:
    """Templates with how often each was seen, and a point on each Wyckoff position that they use.

    Attributes:
        counts: template to number of crystals.
        points: ``(space group, letter)`` to a generic point in the standard primitive cell.
        source: where they were counted.
    """

    counts: Mapping[Template, int]
    points: Mapping[tuple[int, str], tuple[float, ...]]
    source: str = ""
    _sizes: dict[tuple[int, str], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def size(self, template: Template) -> int:
        """Number of atoms in the primitive cell."""
        return sum(self.orbit_sizes(template))

    def orbit_sizes(self, template: Template) -> tuple[int, ...]:
        """Number of atoms of each orbit in the primitive cell."""
        return tuple(self._orbit_size(template.number, letter) for letter in template.letters)

    def totals(self, template: Template) -> tuple[int, ...]:
        """Number of atoms of the elements A, B, ... of a pattern; ascending in those of known crystals."""
        return totals(template.pattern, self.orbit_sizes(template))

    def _orbit_size(self, number: int, letter: str) -> int:
        key = (number, letter)
        if key not in self._sizes:
            self._sizes[key] = len(_orbit(number, np.array(self.points[key]))[0])
        return self._sizes[key]

    def orbit_points(self, template: Template) -> tuple[tuple[float, ...], ...]:
        """A point on the Wyckoff position of each orbit, in the standard primitive cell."""
        return tuple(self.points[template.number, letter] for letter in template.letters)

    def sites(self, template: Template) -> Sites:
        """Where the atoms may stand, orbit by orbit."""
        return sites_of(template, self.orbit_points(template))

    def to_json(self) -> str:
        """Text for a file; see :func:`read_templates`."""
        bases = sorted({t.basis for t in self.counts})
        place = {basis: i for i, basis in enumerate(bases)}
        rows = sorted([t.number, t.letters, t.pattern, place[t.basis], count] for t, count in self.counts.items())
        points = {f"{number}{letter}": list(p) for (number, letter), p in sorted(self.points.items())}
        parts = [("bases", map(list, bases)), ("templates", rows)]
        lines = [f'"format": 1,\n"source": {json.dumps(self.source)}', f'"points": {json.dumps(points)}']
        for name, values in parts:
            lines.append(f'"{name}": [\n' + ",\n".join(json.dumps(v, separators=(",", ":")) for v in values) + "\n]")
        return "{" + ",\n".join(lines) + "}\n"


def totals(pattern: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Number of atoms of the elements A, B, ... of a pattern whose orbits have these sizes."""
    atoms: dict[str, int] = {}
    for name, size in zip(pattern, sizes, strict=False):
        atoms[name] = atoms.get(name, 0) + size
    return tuple(atoms[name] for name in sorted(atoms))


TEMPLATES_SHAPE = Record(
    {
        "bases": Items(Items(whole(-1000, 1000), 9, 9)),
        "templates": Items(Tuple((whole(1, 230), Text(2000), Text(2000), whole(), whole(1)))),
        "points": Map(Items(Number(-1000, 1000), 3, 3)),
    },
    {"source": Text()},
)
"""What a file of templates holds."""


def read_templates(path: Path) -> Templates:
    """The templates of a file that :meth:`Templates.to_json` wrote.

    Raises:
        InputError: if the file is not one.
    """
    mend = "make one with 'crystalsmith data symmetry'"
    data = read_json(path, TEMPLATES_SHAPE, mend)
    try:
        bases = [tuple(int(x) for x in row) for row in data["bases"]]
        rows = [(int(n), str(letters), str(p), int(b), int(c)) for n, letters, p, b, c in data["templates"]]
        counts = {Template(n, letters, bases[b], pattern): c for n, letters, pattern, b, c in rows}
        points = {(int(k[:-1]), k[-1]): tuple(float(x) for x in p) for k, p in data["points"].items()}
        complete = all((t.number, letter) in points for t in counts for letter in t.letters)
        if not (complete and counts and all(c > 0 for c in counts.values())):
            raise ValueError("entries are missing")
        if any(len(t.letters) != len(t.pattern or t.letters) or not t.letters for t in counts):
            raise ValueError("letters and patterns differ in length")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path} is not a file of Wyckoff templates ({error}); make one with 'crystalsmith data symmetry'."
        ) from None
    return Templates(counts, points, str(data.get("source", "")))


@functools.cache
def bundled_templates() -> Templates:
    """The templates that come with the package."""
    return read_templates(TABLES / "templates.json")


class Arranged(NamedTuple):
    """What the symmetry of a known crystal is.

    Attributes:
        template: its template.
        points: a generic point of each of its Wyckoff positions, by letter, in the standard primitive cell.
        sites: in the cell, origin and order of the crystal itself.
        elements: atomic numbers of A, B, ... in the template's pattern.
    """

    template: Template
    points: dict[str, tuple[float, ...]]
    sites: Sites
    elements: tuple[int, ...]


def template_of(frac_coords: Floats, cell: Floats, numbers: Integers, symprec: float = SYMPREC) -> Arranged | None:
    """The template of one crystal in its own primitive cell.

    None where no search succeeds or the atoms do not form whole orbits.
    """
    found = search(frac_coords, cell, numbers, symprec)
    if found is None:
        return None
    exact = np.array(found.prim_std_linear)
    basis = np.rint(exact).astype(np.int64)
    if np.abs(exact - basis).max() > 1e-4 or round(abs(np.linalg.det(basis))) != 1:
        return None  # the cell was not primitive
    number, shift = int(found.number), np.array(found.prim_std_origin_shift)
    inverse = np.linalg.inv(basis)
    standard = (frac_coords - shift) @ inverse.T
    split = _split(standard, basis.T @ cell, number, 2.0 * symprec)
    if split is None:
        return None
    orbits, sites = split
    points = {found.wyckoffs[first]: tuple(np.round(point, 6).tolist()) for first, point in orbits.items()}
    sizes = {first: int((sites.first == first).sum()) for first in orbits}
    named = [(str(found.wyckoffs[first]), int(numbers[first]), sizes[first]) for first in orbits]
    letters, pattern, elements = _pattern(named)
    template = Template(number, letters, tuple(int(x) for x in basis.ravel()), pattern)
    own = _rebased(sites, basis, inverse)
    # Their origin is that of the standard cell; the crystal's own lies at -shift from there.
    return Arranged(template, points, replace(own, offset=own.offset + shift - own.slope @ shift), elements)


def _pattern(orbits: list[tuple[str, int, int]]) -> tuple[str, str, tuple[int, ...]]:
    """Letters, pattern and the elements it names, of orbits ``(letter, element, atoms)``, whatever their order."""

    def rank(element: int) -> tuple[int, list[str]]:
        mine = [(letter, size) for letter, z, size in orbits if z == element]
        return sum(size for _, size in mine), sorted(letter for letter, _ in mine)

    elements = sorted({z for _, z, _ in orbits}, key=rank)
    names = {z: chr(ord("A") + k) for k, z in enumerate(elements)}
    ordered = sorted((letter, names[z]) for letter, z, _ in orbits)
    return "".join(letter for letter, _ in ordered), "".join(name for _, name in ordered), tuple(elements)


def count_templates(found: Iterable[Arranged | None], source: str) -> Templates:
    """Templates with their frequencies from what :func:`template_of` returned for each crystal."""
    counts: Counter[Template] = Counter()
    points: dict[tuple[int, str], tuple[float, ...]] = {}
    for entry in found:
        if entry is None:
            continue
        counts[entry.template] += 1
        for letter, point in entry.points.items():
            points.setdefault((entry.template.number, letter), point)
    return Templates(dict(counts), {(1, "a"): tuple(_GENERIC), **points}, source)


@functools.lru_cache(maxsize=256)
def _operations(number: int) -> tuple[Integers, Floats]:
    """Rotations ``(g, 3, 3)`` and translations ``(g, 3)`` of a space group in its standard primitive cell."""
    import moyopy

    found = moyopy.operations_from_number(number, primitive=True)
    return np.array(found.rotations, dtype=np.int64), np.array(found.translations, dtype=np.float64)


def _stabiliser(number: int, point: Floats, cell: Floats, tolerance: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Projector and offset of the Wyckoff position through ``point``, and which operations fix the point."""
    rotations, translations = _operations(number)
    images = rotations @ point + translations
    turns = np.rint(images - point)
    fixes = np.linalg.norm((images - turns - point) @ cell, axis=-1) < tolerance
    return rotations[fixes].mean(0), (translations - turns)[fixes].mean(0), fixes


def _orbit(number: int, point: Floats) -> tuple[list[int], Floats]:
    """Operations that take a point to each place of its orbit, and the places ``(m, 3)`` in [0, 1)."""
    rotations, translations = _operations(number)
    images = rotations @ point + translations
    chosen: list[int] = []
    for i, image in enumerate(images):
        offsets = images[chosen] - image
        if not (np.abs(offsets - np.rint(offsets)).max(-1) < 1e-5).any():
            chosen.append(i)
    return chosen, images[chosen] % 1.0


def _split(places: Floats, cell: Floats, number: int, tolerance: float) -> tuple[dict[int, Floats], Sites] | None:
    """The orbits of atoms at ``places``, in the standard cell: a generic point by representative, and the sites."""
    rotations, translations = _operations(number)
    n, group = len(places), len(rotations)
    first = np.full(n, -1, dtype=np.int64)
    slope, back, offset = np.zeros((n, 3, 3)), np.zeros((n, 3, 3)), np.zeros((n, 3))
    points: dict[int, Floats] = {}
    for atom in range(n):
        if first[atom] >= 0:
            continue
        projector, shift, fixes = _stabiliser(number, places[atom], cell, tolerance)
        on_it = projector @ places[atom] + shift
        free = np.flatnonzero(first < 0)
        images = rotations @ on_it + translations
        members: dict[int, int] = {}
        for g in range(group):
            gaps = places[free] - images[g]
            nearest = np.linalg.norm((gaps - np.rint(gaps)) @ cell, axis=-1)
            j = int(nearest.argmin())
            if nearest[j] > 2.0 * tolerance:
                return None
            members.setdefault(int(free[j]), g)
        if len(members) * int(fixes.sum()) != group or atom not in members:
            return None
        members[atom] = 0  # the identity comes first
        for j, g in members.items():
            first[j] = atom
            slope[j] = rotations[g] @ projector
            back[j] = projector @ np.linalg.inv(rotations[g])
            offset[j] = rotations[g] @ shift + translations[g]
        points[atom] = projector @ _GENERIC + shift
    return points, Sites(first, slope, back, offset, np.unique(rotations, axis=0))


@functools.lru_cache(maxsize=4096)
def sites_of(template: Template, points: tuple[tuple[float, ...], ...]) -> Sites:
    """The sites of a template with a point on each of its Wyckoff positions, orbits in the order of its letters."""
    rotations, translations = _operations(template.number)
    parts: dict[str, list[Any]] = {"first": [], "slope": [], "back": [], "offset": []}
    for point in points:
        projector, shift, _ = _stabiliser(template.number, np.array(point), np.eye(3), 1e-4)
        chosen, _ = _orbit(template.number, np.array(point))
        start = len(parts["first"])
        for g in chosen:
            parts["first"].append(start)
            parts["slope"].append(rotations[g] @ projector)
            parts["back"].append(projector @ np.linalg.inv(rotations[g]))
            parts["offset"].append(rotations[g] @ shift + translations[g])
    arrays = {name: np.array(values) for name, values in parts.items()}
    standard = Sites(arrays["first"], arrays["slope"], arrays["back"], arrays["offset"], np.unique(rotations, axis=0))
    basis = np.array(template.basis, dtype=np.int64).reshape(3, 3)
    return _rebased(standard, basis, np.linalg.inv(basis))


def _rebased(sites: Sites, basis: Integers, inverse: Floats) -> Sites:
    """Sites of the standard cell in the cell with ``x = basis x_std``."""
    rotations = np.rint(basis @ sites.rotations @ inverse).astype(np.int64)
    slope, back = (basis @ x @ inverse for x in (sites.slope, sites.back))
    return Sites(sites.first, slope, back, sites.offset @ basis.T, rotations)
