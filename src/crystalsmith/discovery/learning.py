"""Lessons: every so many relaxations the model is trained on with what the run has found, beside real data.

What a model is shown are its own crystals with the energies above the hull that the potential gives them, stable and
unstable, as they were made and as they relaxed. Guards against drift, as for the bundled ``taught-tiny``:

- half of what is seen, at least, is real data;
- elements that the run denies, or that the model does not make, are in no crystal of either kind;
- near copies are left out: what the matcher takes for a real crystal of the data (of any split), or for another one of
  the run with nearly the same energy;
- left out: forces of 15 eV/angstrom and more, energies below -0.1 (the potential's error, as a rule) or above 1.5
  eV/atom, noble gases, Tc and Pm, duplicates, more than three crystals of a composition, and compositions that the
  reference knows, if stable;
- among those within 0.1 eV/atom of the hull no element is much more frequent than in the real data;
- labels end at 0.6 eV/atom; new compositions within 0.05 count twice.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.data.dataset import CrystalDataset
from crystalsmith.discovery.candidate import State
from crystalsmith.discovery.wish import Wish
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays, first_match, formula_key
from crystalsmith.evaluation.matching import Candidate as Matched
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.signals import Stopped

if TYPE_CHECKING:
    import torch

    from crystalsmith.checkpoints.model import Model
    from crystalsmith.training.config import Recipe

LABEL = "energy_above_hull"
LARGEST_FORCE, LOWEST, HIGHEST, LARGEST_LABEL = 15.0, -0.1, 1.5, 0.6
STABLE, NEAR = 0.05, 0.1
OF_A_COMPOSITION, LEAN, KEPT, AT_LEAST = 3, 1.4, 0.75, 5
FEW = 100
"""Real crystals of the elements that are allowed, below which they say nothing of how frequent an element should be."""

DENIED = frozenset({2, 10, 18, 36, 54, 43, 61})
"""Noble gases, Tc, Pm."""

ALIKE = 0.02
"""eV/atom: two crystals that the matcher takes for one are near copies if their energies differ by less. Farther apart,
as before and after a relaxation, they tell the model what distortions cost."""

BATCH, COPIES, VALIDATION = 64, 8, 256
"""Crystals of an update; most copies of an own crystal, of which each meets other noise; crystals to validate on."""

FOLDER, DATA = "models", "data"


@dataclass(frozen=True)
class Own:
    """A generated crystal, its energy above the hull (eV/atom) and whether the reference lacks its composition."""

    name: str
    crystal: Arrays
    energy: float
    new: bool

    @property
    def elements(self) -> set[int]:
        """Atomic numbers."""
        return set(self.crystal[2].tolist())

    @property
    def weight(self) -> int:
        """How often it counts."""
        return 2 if self.new and self.energy < STABLE else 1


def sensible(energy: float, force: float) -> bool:
    """Whether an energy above the hull (eV/atom) and a largest force (eV/angstrom) are within what a lesson takes."""
    return LOWEST <= energy <= HIGHEST and force < LARGEST_FORCE


def guarded(own: Sequence[Own], share: NDArray[np.float64] | None, seed: int = 0) -> list[Own]:
    """What the guards let pass, in random order.

    Args:
        share: ``(119,)`` of the real crystals that hold each element; None for no bound on elements.
    """
    near = sum(one.energy < NEAR for one in own)
    elements: Counter[int] = Counter()
    compositions: Counter[Any] = Counter()
    kept = []
    for k in np.random.default_rng(seed).permutation(len(own)):
        one = own[k]
        key = formula_key(one.crystal[2])
        if one.elements & DENIED or compositions[key] >= OF_A_COMPOSITION or (not one.new and one.energy < STABLE):
            continue
        if one.energy < NEAR and share is not None:
            if any(elements[z] >= LEAN * KEPT * share[z] * near + AT_LEAST for z in one.elements):
                continue
            elements.update(one.elements)
        compositions[key] += 1
        kept.append(one)
    return kept


def distinct(own: Sequence[Own], data: CrystalDataset) -> list[Own]:
    """Those that are near copies neither of a lower one nor of a crystal of the data, the lowest first."""
    kept: list[Own] = []
    lower: dict[Any, list[tuple[float, Matched]]] = {}
    for one in sorted(own, key=lambda one: (one.energy, one.name)):
        matched = Matched(one.name, one.crystal)
        if matched.formula not in lower:
            lower[matched.formula] = [(-math.inf, real) for real in _of_formula(data, matched.formula)]
        peers = lower[matched.formula]
        near = [other for energy, other in peers if energy == -math.inf or one.energy - energy < ALIKE]
        if first_match(matched, near) is None and not matched.problem:
            peers.append((one.energy, matched))
            kept.append(one)
    return kept


def _of_formula(data: CrystalDataset, formula: tuple[tuple[int, int], ...]) -> list[Matched]:
    """The crystals of a data set that have a reduced formula, of all splits."""
    rows = np.flatnonzero(made_of(data, [z for z, _ in formula]))
    starts, sizes, numbers = data.offsets[rows], data.num_atoms[rows], np.asarray(data.atomic_numbers)
    same = [row for row, a, n in zip(rows, starts, sizes, strict=True) if formula_key(numbers[a : a + n]) == formula]
    return [
        Matched(f"row {row}", (frac.astype(float), cell.astype(float), z.astype(np.int64)))
        for row, (frac, cell, z) in zip(same, data.batch(same).crystals(), strict=True)
    ]


def made_of(data: CrystalDataset, elements: Collection[int]) -> NDArray[np.bool_]:
    """``(C,)``, which crystals of a data set hold none but these elements."""
    inside: NDArray[np.bool_] = np.logical_and.reduceat(
        np.isin(np.asarray(data.atomic_numbers), list(elements)), np.asarray(data.offsets)[:-1]
    )
    return inside


def found_by(state: State, reference: Reference | None) -> list[Own]:
    """The crystals of a run that the potential and the hull have a word on, as made and as relaxed."""
    found = []
    for _, candidate in sorted(state.candidates.items()):
        if candidate.dropped in ("known", "duplicate", "exploded", "not_matched"):
            continue
        values = candidate.values
        pairs = [
            (candidate.name, candidate.raw, values.get("estimated_above_hull"), values.get("force", 0.0)),
            (f"{candidate.name}-relaxed", candidate.relaxed, values.get(LABEL), 0.0),
        ]
        for name, crystal, energy, force in pairs:
            if crystal is not None and energy is not None and sensible(energy, force):
                new = reference is None or not reference.knows_composition(crystal[2])
                found.append(Own(name, crystal, float(energy), new))
    return found


def element_shares(data: CrystalDataset, allowed: Collection[int]) -> NDArray[np.float64] | None:
    """The share ``(119,)`` of training crystals that hold each element, of those made of allowed elements alone.

    None if there are fewer than :data:`FEW`.
    """
    numbers, offsets = np.asarray(data.atomic_numbers), np.asarray(data.offsets)
    inside = made_of(data, allowed)
    rows = [row for row in data.rows("train") if inside[row]]
    if len(rows) < FEW:
        return None
    held = np.concatenate([np.unique(numbers[offsets[row] : offsets[row + 1]]) for row in rows])
    return np.bincount(held, minlength=119) / len(rows)


def check_learning(wish: Wish, model: Model) -> None:
    """Refuse lessons that cannot be given.

    Raises:
        InputError: naming what is missing.
    """
    if LABEL not in {c.name for c in model.network.config.conditions}:
        raise InputError(
            f"With --learn the model must know the energy above the hull, and {model.metadata.name} does not; take "
            "taught-tiny or hull-tiny, or fine-tune yours on it."
        )
    data = CrystalDataset.open(wish.learn)
    if LABEL not in data.label_names:
        raise InputError(
            f"The data set {wish.learn} has no label {LABEL}, by which lessons teach; prepare one with it."
        )
    rows = data.rows("train")
    if not made_of(data, learnable(wish, model))[rows].any():
        raise InputError(
            f"The data set {wish.learn} has no training rows without elements that the run denies; prepare it again "
            "with a train split, or deny less."
        )


def learnable(wish: Wish, model: Model) -> frozenset[int]:
    """The elements that a lesson may show: those that the model makes and the wish does not deny.

    A list of what is allowed is no denial: real crystals of other elements keep the model from forgetting them.
    """
    from crystalsmith.generation.rules import make_rules

    named = {name: wish.steering[name] for name in ("deny", "deny_list", "max_hhi") if name in wish.steering}
    rules = make_rules(model.metadata.elements, **named)
    return frozenset(model.metadata.elements if rules is None else rules.allowed)


def facts_of_data(wish: Wish) -> dict[str, Any]:
    """What the manifest keeps of the real data, so that a run goes on with the same."""
    from crystalsmith.data.dataset import read_manifest
    from crystalsmith.training.run import fingerprint

    return {"data": fingerprint(read_manifest(Path(wish.learn)))}


def _begun(folder: Path, recipe: Recipe, data: Path) -> bool:
    """Whether this lesson was cut off in a folder; what another one left there is removed."""
    from crystalsmith.data.dataset import read_manifest
    from crystalsmith.training.config import load_recipe, refuse_changes
    from crystalsmith.training.run import RECIPE, fingerprint
    from crystalsmith.training.state import FILE, load_state

    if not folder.exists():
        return False
    try:
        refuse_changes(load_recipe(folder / RECIPE), recipe)
        seen = load_state(folder / FILE)[1]["data"] if (folder / FILE).is_file() else None
    except InputError:
        seen = ""
    if seen in (None, fingerprint(read_manifest(data))):
        return True
    shutil.rmtree(folder)
    return False


def due(state: State, wish: Wish) -> bool:
    """Whether a lesson comes before the next round; by the ledger alone."""
    taught = state.lessons[-1].relaxations if state.lessons else 0
    return bool(wish.learn) and state.relaxations - taught >= wish.learn_every


class Teacher:
    """Gives the lessons of a run.

    Args:
        place: folder of the run.
        source: name or folder of the model that it began with.
        allowed: atomic numbers that the run may use.
        device: where the model is taught.
    """

    def __init__(
        self,
        place: Path,
        wish: Wish,
        source: str,
        model: Model,
        reference: Reference | None,
        allowed: Collection[int],
        device: torch.device,
    ) -> None:
        self.place, self.wish, self.source, self.reference = place.resolve(), wish, source, reference
        self.allowed, self.device = tuple(allowed), device
        self.learnable = learnable(wish, model)
        check_learning(wish, model)
        self.symmetric = model.metadata.sampling.get("space_group") == "any"

    def model(self, lesson: int) -> str:
        """Name or folder of the model after so many lessons."""
        return str(self._folder(lesson) / "last") if lesson else self.source

    def load(self, state: State) -> Model:
        """The model as the run has it now.

        Raises:
            InputError: if it is not there as the ledger has it.
        """
        from crystalsmith.checkpoints.find import load_model
        from crystalsmith.checkpoints.store import CONFIG, weights_sha256

        lesson = len(state.lessons)
        if lesson:
            place, facts = Path(self.model(lesson)), state.lessons[-1].facts
            there = (place / CONFIG).is_file()
            if not there or weights_sha256(place) != facts.get("weights_sha256", weights_sha256(place)):
                raise InputError(f"{place} is not the model that lesson {lesson} gave; restore it or begin anew.")
        return load_model(self.model(lesson))

    def _folder(self, lesson: int) -> Path:
        return self.place / FOLDER / f"{lesson:03d}"

    def teach(self, state: State) -> dict[str, Any] | None:
        """Give the next lesson; one that was cut off goes on where it was.

        Returns:
            What it was made of, see :class:`crystalsmith.discovery.candidate.Lesson`; None if there is nothing to learn
            from.

        Raises:
            Stopped: if a signal came in the middle.
        """
        from crystalsmith.checkpoints.store import weights_sha256
        from crystalsmith.training.config import Recipe
        from crystalsmith.training.run import named, train

        number = len(state.lessons) + 1
        folder = self._folder(number)
        data = CrystalDataset.open(self.wish.learn)
        found = distinct(found_by(state, self.reference), data)
        kept = guarded(found, element_shares(data, self.allowed), self.wish.seed + number)
        lesson, facts = self._data(kept, data, number)
        if lesson is None:
            return None
        recipe = named(Recipe.from_dict(self._recipe(number)), folder.name)
        begun = _begun(folder, recipe, lesson)
        outcome = train(lesson, folder, recipe, resume=begun, quiet=True)
        if outcome.interrupted and outcome.signum is not None:
            raise Stopped(outcome.signum)
        shutil.rmtree(lesson, ignore_errors=True)
        trained = {"updates": outcome.step, "validation": outcome.best["total"]}
        return facts | trained | {"weights_sha256": weights_sha256(folder / "last")}

    def _data(self, kept: Sequence[Own], data: CrystalDataset, number: int) -> tuple[Path | None, dict[str, Any]]:
        """The data set of a lesson, and how many crystals of what are in it; None if there is nothing to learn from."""
        from crystalsmith.data.prepare import prepare
        from crystalsmith.data.sites import find_sites
        from crystalsmith.files import make_folder, replace_text
        from crystalsmith.formats import extxyz_frame

        rng = np.random.default_rng([self.wish.seed, number])
        fit = made_of(data, self.learnable)
        rows, validation = (rows[fit[rows]] for rows in (data.rows("train"), data.rows("val")))
        while (own := sum(one.weight for one in kept)) > len(rows):  # own crystals never outnumber real ones
            kept = kept[:-1]
        if not kept:
            return None, {}
        real = min(len(rows), max(own, math.ceil(self.wish.learn_updates * BATCH / 2)))
        copies = min(COPIES, real // own)
        chosen = np.sort(rng.choice(rows, real, replace=False))
        other = np.sort(rng.choice(validation, min(VALIDATION, len(validation)), replace=False))
        if not len(other):
            other = chosen[:VALIDATION]
        place = self.place / FOLDER / f"{number:03d}-{DATA}"
        frames = []
        for split, some in (("train", chosen), ("val", other)):
            energies = data.labels(some, [LABEL])[LABEL].tolist()
            for row, energy, (frac, cell, numbers) in zip(some, energies, data.batch(some).crystals(), strict=True):
                info: dict[str, Any] = {"id": f"real-{split}-{row}", "split": split}
                if energy == energy:
                    info[LABEL] = energy
                frames.append(extxyz_frame(np.asarray(frac), np.asarray(cell), np.asarray(numbers), info))
        for one in kept:
            for copy in range(copies * one.weight):
                info = {"id": f"{one.name}-{copy}", "split": "train", LABEL: min(one.energy, LARGEST_LABEL)}
                frames.append(extxyz_frame(*one.crystal, info))
        make_folder(place.parent)
        text = place.with_suffix(".extxyz")
        replace_text(text, "".join(frames))
        prepare(
            text,
            place,
            max_atoms=None,
            elements=None,
            max_energy_above_hull=None,
            jobs=1,
            overwrite=True,
            progress=False,
        )
        text.unlink()
        if self.symmetric:
            find_sites(CrystalDataset.open(place), 1)
        return place, {"own": len(kept), "copies": copies, "real": len(chosen)}

    def _recipe(self, number: int) -> Mapping[str, Any]:
        from crystalsmith.generation.device import choose_precision

        wish = self.wish
        return {
            "seed": wish.seed + number,
            "base": self.model(number - 1),
            "conditions": {"properties": {LABEL: "scalar"}, "dropout_probability": 0.1},
            "data": {
                "batch_size": BATCH,
                "stratified_times": True,
                "symmetric_share": 0.5 if self.symmetric else 0.0,
                "free_elements": 0.4 if self.symmetric else 0.0,
            },
            "optimizer": {"name": "muon", "lr": 5e-4, "weight_decay": 0.01},
            "schedule": {"name": "cosine", "warmup_steps": min(20, wish.learn_updates // 5)},
            "ema": {"decay": 0.99},
            "limits": {"max_steps": wish.learn_updates, "max_epochs": None},
            "validation": {"every_epochs": None, "every_steps": wish.learn_updates, "max_crystals": VALIDATION},
            "hardware": {
                "accelerator": self.device.type,
                "precision": "bf16-mixed" if choose_precision("auto", self.device) == "bf16" else "32",
            },
            "output": {"save_every_minutes": 1.0},
            "card": {"notes": "Trained on with crystals of its own run and what a potential says of them."},
        }
