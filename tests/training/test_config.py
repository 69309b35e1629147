"""Recipes: what is wrong is said in one sentence that names the setting; what is right survives a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crystalsmith.errors import InputError
from crystalsmith.training.build import denoiser_config, process_config
from crystalsmith.training.config import Recipe, bundled_recipes, load_recipe, refuse_changes, save_recipe
from crystalsmith.training.settings import seconds

RECIPES = sorted(bundled_recipes().values())
MANIFEST = {"mean_density": 0.06, "cell_variance": {"all": [0.1, 0.05], "2": [0.2, 0.1]}}


def recipe_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_bundled_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    denoiser_config(recipe.model)
    process_config(recipe.process, MANIFEST)


def test_there_are_bundled_recipes() -> None:
    assert {"published.yaml", "mp20-tiny.yaml"} <= {path.name for path in RECIPES}


def test_defaults_are_the_published_hyper_parameters() -> None:
    published = load_recipe(next(path for path in RECIPES if path.name == "published.yaml"))
    default = Recipe()
    for section in ("optimizer", "schedule", "clipping", "ema"):
        assert getattr(default, section) == getattr(published, section)
    assert default.data.batch_size == published.data.batch_size == 512


@pytest.mark.parametrize("path", [None, *RECIPES])
def test_a_saved_recipe_reads_back_the_same(path: Path | None, tmp_path: Path) -> None:
    recipe = load_recipe(path, ["limits.max_time=1h30m", "model.width=64"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optimiser: {lr: 1}", "'optimizer'"),
        ("optimizer: {learning_rate: 1}", "Valid settings: name, lr, betas"),
        ("optimizer: {lrr: 1}", "Did you mean 'lr'"),
        ("optimizer: {lr: fast}", "optimizer.lr must be a number, not 'fast'"),
        ("optimizer: {lr: -1}", "optimizer.lr must be positive"),
        ("optimizer: {betas: 0.9}", "optimizer.betas must be a list of 2 values"),
        ("optimizer: {name: sgd}", "must be one of adam, adamw"),
        ("optimizer: [1, 2]", "optimizer must be a mapping"),
        ("data: {batch_size: 1.5}", "data.batch_size must be a whole number"),
        ("data: {batch_size: 0}", "data.batch_size must be at least 1"),
        ("data: {on_device: 1}", "must be true or false"),
        ("ema: {decay: 1.5}", "ema.decay must lie between 0 and 1"),
        ("limits: {max_time: soon}", "limits.max_time must be a duration"),
        ("schedule: {name: cosine, over: time}", "needs an end: set limits.max_time"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML at line"),
        ("a: !!python/object/apply:os.system [ls]", "other than plain data"),
    ],
)
def test_a_bad_recipe_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        load_recipe(recipe_file(tmp_path, text))
    assert says in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe .*nothing\.yaml"):
        load_recipe(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [("optimizer.lr", "key=value"), ("seed.deep=1", "single value"), ("nonsense=1", "no setting 'nonsense'")],
)
def test_a_bad_override_is_named(assignment: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        load_recipe(recipe_file(tmp_path, "seed: 1"), [assignment])


def test_overrides_win_and_numbers_may_be_written_as_people_do(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "optimizer: {lr: 1e-4}\nmodel: {preset: tiny}")
    recipe = load_recipe(path, ["optimizer.lr=3e-3", "model.width=32", "hardware.precision=32", "ema.decay=null"])
    assert recipe.optimizer.lr == 3e-3
    assert recipe.model == {"preset": "tiny", "width": 32}
    assert recipe.hardware.precision == "32"
    assert recipe.ema.decay is None
    assert load_recipe(path).optimizer.lr == 1e-4


def test_an_override_of_one_size_keeps_the_default_preset() -> None:
    assert load_recipe(None, ["model.num_blocks=2"]).model == {"preset": "base", "num_blocks": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("01:00:30", 3630), (12.5, 12.5), ("1d", 86400)],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "h", "2 hours", "-3", 0, "1:2", "2h-1m"])
def test_bad_durations(text: Any) -> None:
    with pytest.raises(InputError, match="max_time"):
        seconds(text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"preset": "huge"}, "model.preset must be one of"),
        ({"preset": "tiny", "widht": 3}, "Did you mean 'width'"),
        ({"preset": "tiny", "width": "wide"}, "model.width must be a whole number"),
        ({"preset": "tiny", "width": -4}, "model.width must be positive"),
        ({"preset": "tiny", "edge_rule": "all"}, "mutual, published"),
    ],
)
def test_a_bad_model_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        denoiser_config(settings)
    assert says in str(caught.value)


def test_process_constants_come_from_the_data_or_from_the_publication() -> None:
    own = process_config({}, MANIFEST)
    assert own.limit_density == 0.06
    assert own.cell_variance is not None
    assert dict(own.cell_variance) == {"all": (0.1, 0.05), "2": (0.2, 0.1)}
    published = process_config({"constants": "published", "sigma_max": "4e0"}, {})
    assert published.cell_variance is None
    assert published.species_levels == 1000
    assert published.sigma_max == 4.0


@pytest.mark.parametrize(
    ("settings", "manifest", "says"),
    [
        ({"constants": "mine"}, MANIFEST, "data or published"),
        ({"sigma": 1}, MANIFEST, "no setting 'sigma'"),
        ({"sigma_max": "big"}, MANIFEST, "process.sigma_max must be a number"),
        ({}, {}, "no mean_density"),
    ],
)
def test_a_bad_process_is_named(settings: dict[str, Any], manifest: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        process_config(settings, manifest)
    assert says in str(caught.value)


def test_a_resumed_run_may_change_its_limits_but_not_what_it_trains() -> None:
    saved = Recipe()
    refuse_changes(saved, Recipe.from_dict({"limits": {"max_steps": 3}, "hardware": {"devices": 2}}))
    with pytest.raises(InputError, match=r"data\.batch_size changed from 512 to 64"):
        refuse_changes(saved, Recipe.from_dict({"data": {"batch_size": 64}}))
    with pytest.raises(InputError, match="seed changed from 0 to 1"):
        refuse_changes(saved, Recipe.from_dict({"seed": 1}))


def test_a_recipe_is_found_by_name_from_anywhere_and_a_file_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mp20-tiny").optimizer.name == "adamw"
    assert load_recipe("recipes/mp20-tiny.yaml") == load_recipe("mp20-tiny")  # as it was written before
    (tmp_path / "mp20-tiny").write_text("seed: 9")
    assert load_recipe("mp20-tiny").seed == 9
    with pytest.raises(InputError, match=r"There is no recipe mp20-tinny.*mp20-tiny"):
        load_recipe("mp20-tinny")


def test_a_card_names_known_data_and_no_other() -> None:
    from crystalsmith.training.card import RunFacts, render_card
    from crystalsmith.training.known_data import KNOWN

    facts = RunFacts(1, 1.0, 1, 1.0, 1, "cpu", {}, None, {}, 0)
    known = render_card(Recipe(name="mine"), MANIFEST | {"source_sha256": next(iter(KNOWN))}, facts)
    other = render_card(Recipe(name="mine"), MANIFEST | {"source_sha256": "0" * 64}, facts)
    assert "Materials Project" in known
    assert "Training data: CC BY 4.0 (MP-20)" in known
    assert "Materials Project" not in other
    assert "Training data: as the source says" in other
