"""Laws of learning arrangements: a planted rule is found, files serve generate, bad requests are refused."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from crystalsmith.checkpoints.arrangements import FILE, load_arrangements
from crystalsmith.cli.main import app
from crystalsmith.errors import InputError
from crystalsmith.generation.plans.plan import Plan
from crystalsmith.generation.plans.templates import Limits, arranged
from crystalsmith.generation.space_groups import make_space_groups
from crystalsmith.symmetry.wyckoff import read_templates
from crystalsmith.training.arrangements import Settings, train_arrangements

RUNNER = CliRunner()
SALTS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr")
ANIONS = ("F", "Cl", "Br", "I", "O", "S", "Se", "Te")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Salts of light metals are rock salt, those of heavy ones have the structure of CsCl."""
    from pymatgen.core import Lattice, Structure

    from crystalsmith.data.prepare import prepare

    folder = tmp_path_factory.mktemp("planted")
    (folder / "cif").mkdir()
    for i, metal in enumerate(SALTS):
        for k, anion in enumerate(ANIONS):
            group, shift = ("Fm-3m", 5.6) if metal in ("Li", "Na", "Mg", "Ca") else ("Pm-3m", 4.1)
            lattice = Lattice.cubic(shift + 0.05 * k + 0.02 * i)
            crystal = Structure.from_spacegroup(group, lattice, [metal, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
            crystal.get_primitive_structure().to(str(folder / "cif" / f"{metal}{anion}.cif"))
    prepare(folder / "cif", folder / "data", jobs=1, progress=False)
    return folder / "data"


def test_a_planted_rule_is_learned_and_serves_generation(planted, tmp_path) -> None:
    out = tmp_path / "learned"
    told = train_arrangements(planted, out, Settings(epochs=60, batch_size=8), jobs=1, quiet=True)
    assert told.crystals > 40
    assert told.held_out > 0
    assert told.likeliest > told.by_counts
    assert told.likeliest == pytest.approx(told.covered, abs=0.35)
    assert load_arrangements(out / FILE).training["measured"]["loss"] == pytest.approx(told.loss)
    groups = make_space_groups("any", str(out))
    assert groups.templates.counts == read_templates(out / "templates.json").counts
    kinds = {symbol: _first(groups, counts) for symbol, counts in {"NaCl": (11, 17), "CsBr": (55, 35)}.items()}
    assert kinds == {"NaCl": 225, "CsBr": 221}
    # The file of templates alone knows how common they are and nothing of compositions.
    lone = tmp_path / "templates.json"
    lone.write_text((out / "templates.json").read_text())
    assert make_space_groups("any", str(lone)).learned is None
    assert make_space_groups("any", str(out / "templates.json")).learned is not None
    with pytest.raises(InputError, match="not empty"):
        train_arrangements(planted, out, quiet=True)


def _first(groups, elements) -> int:
    counts = tuple((z, 1) for z in sorted(elements))
    return arranged(Plan(0, 0, counts=counts), Limits(groups, None, 0, counts)).arrangement.template.number


def test_the_command_prints_what_was_learned(planted, tmp_path) -> None:
    told = RUNNER.invoke(app, ["train", str(planted), str(tmp_path / "run"), "--task", "arrangements", "--quiet"])
    assert told.exit_code == 0
    assert "validation crystals" in told.output
    refused = RUNNER.invoke(
        app, ["train", str(planted), str(tmp_path / "no"), "--task", "arrangements", "--max-time", "2h"]
    )
    assert refused.exit_code == 2
    assert "no settings" in refused.stderr
    assert not (tmp_path / "no").exists()
    refused = RUNNER.invoke(
        app, ["train", str(planted), str(tmp_path / "run"), "--task", "arrangements", "--resume", "--quiet"]
    )
    assert refused.exit_code == 2
    assert f"cannot be resumed; remove {tmp_path / 'run'}" in refused.stderr
    assert load_arrangements(tmp_path / "run" / FILE)
