"""The floors of the house: which room may import which, read from the source without running it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import crystalsmith

PACKAGE = Path(crystalsmith.__file__).resolve().parent
FACE = ("__init__", "__main__")
"""Modules of the package itself: they open every door, lazily."""

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("elements", "files", "progress", "schema", "shards", "signals", "tables", "versions"),
    ("cells", "locks"),
    ("engine",),
    ("crystals", "properties", "geometry", "symmetry", "structures"),
    ("contracts", "formats", "pictures"),
    ("neighbors", "diffusion", "data"),
    ("network", "evaluation"),
    ("checkpoints",),
    ("training", "generation"),
    ("bench", "discovery"),
    ("results",),
    ("api", "explore"),
    ("cli",),
)
"""From the ground up; a room imports from lower floors only."""
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

WINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "checkpoints": (
        ("cache", "card", "model"),
        ("shapes",),
        ("store",),
        ("arrangements", "facts", "predictor", "published"),
        ("find",),
    ),
    "evaluation": (
        ("statistics", "structures", "matching", "contacts", "framework"),
        ("facts", "fingerprints"),
        ("plausible", "variety"),
        ("judged",),
        ("reference", "conventions"),
        ("judge", "metrics", "efficiency"),
        ("potential",),
        ("asked",),
        ("report",),
        ("prediction", "shares", "stability"),
        ("run",),
    ),
    "engine": (("limits", "schedule"), ("processes",), ("cluster",), ("run",)),
    "symmetry": (("groups",), ("wyckoff",)),
}
"""Floors inside a room: of its files, and of its folders as a whole."""

# Contract 5: what the light rooms may need at all.
LIGHT = ("errors", "elements", "crystals", "contracts", "neighbors", "diffusion", "network")
LIGHT_LIBRARIES = {"torch", "numpy", "safetensors"}
CHEMISTRY = {"pymatgen", "ase", "moyopy", "monty", "spglib"}
HEAVY = CHEMISTRY | {"ray", "torch", "lightning", "pyarrow", "pandas", "scipy", "matplotlib"}
UNSAFE = {"cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


@dataclass(frozen=True)
class Import:
    file: str  # below the package, "diffusion/cell.py"
    line: int
    module: str  # absolute, "crystalsmith.crystals" or "torch.nn"
    lazy: bool  # inside a function
    typing_only: bool  # under ``if TYPE_CHECKING``

    @property
    def room(self) -> str:
        """The room of the importing file."""
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def target_room(self) -> str | None:
        """The room imported, or ``None`` for the outside world and the package itself."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "crystalsmith" and len(parts) > 1 else None

    @property
    def wing(self) -> str:
        """The part of its room that the importing file is of: a file of it, or a folder."""
        parts = self.file.removesuffix(".py").split("/")
        return parts[1] if len(parts) > 1 else ""

    @property
    def target_wing(self) -> str:
        """The part of a room that is imported."""
        parts = self.module.split(".")
        return parts[2] if self.target_room is not None and len(parts) > 2 else ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(PACKAGE).as_posix()
    package = ["crystalsmith", *path.relative_to(PACKAGE).parts[:-1]]

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, lazy, typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # ``from crystalsmith import cli`` names a room as well
                yield Import(file, node.lineno, f"{module}.{alias.name}", lazy, typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, lazy, True)
            for child in node.orelse:
                yield from visit(child, lazy, typing_only)
        else:
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside, typing_only)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False, False)


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports_of(path)]
RUNTIME = [found for found in IMPORTS if not found.typing_only]


def complaints(found: Iterator[Import]) -> list[str]:
    return sorted({str(x) for x in found})


def test_the_reader_sees_what_it_must() -> None:
    # The walls below would stand in an empty house too.
    assert len(FILES) > 20
    assert any(x.lazy and x.package == "pymatgen" and x.file == "crystals.py" for x in IMPORTS)
    assert any(x.typing_only and x.package == "ase" and x.file == "crystals.py" for x in IMPORTS)
    assert any(not x.lazy and x.target_room == "crystals" and x.file == "neighbors.py" for x in IMPORTS)


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms - set(FLOOR) - {*FACE, "models", "recipes", "examples"} == set()


def test_a_room_imports_from_lower_floors_only() -> None:
    """At module level, inside functions, and for types alike: so there are no circles."""
    assert not complaints(
        x
        for x in IMPORTS
        if x.room not in FACE
        and x.target_room in FLOOR
        and x.target_room != x.room
        and FLOOR[x.target_room] >= FLOOR[x.room]
    )


@pytest.mark.parametrize("room", WINGS)
def test_a_wing_imports_from_lower_floors_of_its_room_only(room: str) -> None:
    floor = {wing: level for level, wings in enumerate(WINGS[room]) for wing in wings}
    inside = [x for x in IMPORTS if x.room == room and x.target_room == room and x.wing != "__init__"]
    assert len(inside) > 2 or room == "symmetry"
    assert {x.wing for x in inside} <= set(floor)
    assert not complaints(x for x in inside if x.wing != x.target_wing and floor[x.target_wing] >= floor[x.wing])


def test_no_circle_among_files() -> None:
    """Imports inside functions and for types count; the package's own face opens doors by name and stands aside."""
    modules = {".".join(("crystalsmith", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in FILES}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for found in IMPORTS:
        importer = "crystalsmith." + found.file.removesuffix(".py").replace("/", ".")
        # ``from a.b import c`` is written here as a.b.c, a file or a name in the file a.b
        target = next((m for m in (found.module, found.module.rpartition(".")[0]) if m in modules), None)
        if target is not None and target != importer and found.room not in FACE:
            graph[importer].add(target)
    assert sum(map(len, graph.values())) > 300
    while leaves := {name for name, targets in graph.items() if not targets & set(graph)}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_diffusion_and_network_meet_only_through_the_contract() -> None:
    assert not complaints(x for x in IMPORTS if {x.room, x.target_room} == {"diffusion", "network"})


def test_evaluation_imports_no_model() -> None:
    forbidden = {"network", "diffusion", "checkpoints", "training", "generation", "contracts"}
    assert not complaints(x for x in IMPORTS if x.room == "evaluation" and x.target_room in forbidden)


def test_nothing_imports_the_command_line() -> None:
    assert not complaints(x for x in IMPORTS if x.target_room == "cli" and x.room not in ("cli", *FACE))


def test_the_light_rooms_need_torch_numpy_and_safetensors_at_most() -> None:
    allowed = LIGHT_LIBRARIES | set(sys.stdlib_module_names) | {"crystalsmith"}
    at_module_level = (x for x in RUNTIME if x.room in LIGHT and not x.lazy and x.package not in allowed)
    assert not complaints(at_module_level)
    inside_functions = (
        x for x in RUNTIME if x.room in LIGHT and x.lazy and x.package not in allowed and x.file != "crystals.py"
    )
    assert not complaints(inside_functions)


def test_training_needs_neither_pymatgen_nor_ase() -> None:
    rooms = {*LIGHT, "checkpoints", "training"}
    assert not complaints(x for x in RUNTIME if x.room in rooms and x.package in CHEMISTRY and x.file != "crystals.py")


def test_chemistry_libraries_and_ray_are_never_imported_at_module_level() -> None:
    assert not complaints(x for x in RUNTIME if x.package in {*CHEMISTRY, "ray"} and not x.lazy)


def test_one_room_starts_processes() -> None:
    starters = {"multiprocessing", "concurrent", "ray", "joblib"}
    allowed = ("concurrent.futures.ThreadPoolExecutor", "concurrent.futures.Future")
    assert not complaints(
        x for x in RUNTIME if x.package in starters and x.room != "engine" and x.module not in allowed
    )
    assert {x.package for x in RUNTIME if x.room == "engine"} >= {"multiprocessing", "ray"}


def test_the_command_line_imports_heavy_things_inside_functions() -> None:
    light_rooms = {"errors", "elements", "signals", "cli"}
    assert not complaints(
        x
        for x in RUNTIME
        if x.room in ("cli", *FACE)
        and not x.lazy
        and (x.package in HEAVY or (x.target_room in FLOOR and x.target_room not in light_rooms))
    )


def test_nothing_can_unpickle_or_evaluate() -> None:
    assert not complaints(x for x in IMPORTS if x.package in UNSAFE or x.module.startswith("pickle."))
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # The exception may be caught, when torch.load refuses a file that would run code.
            if isinstance(node, ast.Attribute) and re.fullmatch(r"pickle\.(?!UnpicklingError)\w+", ast.unparse(node)):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} uses pickle.{node.attr}")
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (
                name in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load")
                or (name == "yaml.load" and keywords.get("Loader") not in ("yaml.SafeLoader", "yaml.CSafeLoader"))
                or (name == "torch.load" and keywords.get("weights_only") != "True")
                or (name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False")
            ):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} calls {name}")
    assert not found


def test_one_file_gives_files_their_names() -> None:
    """Atomic replacement, renames and temporary files by hand: in ``files.py`` and nowhere else."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            by_hand = ("os.replace", "os.rename", "os.fsync", "shutil.move", "tempfile.mkdtemp", "tempfile.mkstemp")
            if name in by_hand or re.search(r"\.rename$", name):
                found.append((path.relative_to(PACKAGE).as_posix(), name))
    assert {name for _, name in found} == {"os.replace", "os.rename", "os.fsync"}
    assert {file for file, _ in found} == {"files.py"}


@pytest.mark.parametrize("module", ["crystalsmith", "crystalsmith.cli.main"])
def test_importing_is_quick_and_brings_no_heavy_library(module: str) -> None:
    code = (
        "import sys, time; start = time.process_time(); import importlib; "
        f"importlib.import_module({module!r}); spent = time.process_time() - start; "
        f"print(spent, *(name for name in {sorted(HEAVY)!r} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spent, *heavy = result.stdout.split()
    assert heavy == []
    assert float(spent) < 0.8  # processor seconds, on a busy machine too
    assert result.stderr == ""


def test_every_public_name_opens() -> None:
    for name in crystalsmith.__all__:
        assert getattr(crystalsmith, name) is not None
    with pytest.raises(AttributeError, match="nothing_here"):
        crystalsmith.nothing_here  # noqa: B018
