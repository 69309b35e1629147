"""Lessons: every so many relaxations the model is trained on with what the run has found, beside real data.

What a model is shown are its own crystals with the energies above the hull that the potential gives them, stable and
unstable, as they were made and as they relaxed. Guards against drift, as for the bundled ``taught-tiny``:

- half of what is seen, at least, is real data;
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
from crystalsmith.evaluation.matching import Arrays, formula_key
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.signals import Stopped

if TYPE_CHECKING:
    import torch

    from crystalsmith.checkpoints.model import Model

LABEL = "energy_above_hull"
LARGEST_FORCE, LOWEST, HIGHEST, LARGEST_LABEL = 15.0, -0.1, 1.5, 0.6
STABLE, NEAR = 0.05, 0.1
OF_A_COMPOSITION, LEAN, KEPT, AT_LEAST = 3, 1.4, 0.75, 5
FEW = 100
"""Real crystals of the elements that are allowed, below which they say nothing of how frequent an element should be."""

DENIED = frozenset({2, 10, 18, 36, 54, 43, 61})
"""Noble gases, Tc, Pm."""

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
    inside = np.logical_and.reduceat(np.isin(numbers, list(allowed)), offsets[:-1])
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
    if not len(data.rows("train")):
        raise InputError(f"The data set {wish.learn} has no training rows; prepare it again with a train split.")


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
        check_learning(wish, model)
        self.place, self.wish, self.source, self.reference = place, wish, source, reference
        self.allowed, self.device = tuple(allowed), device
        self.symmetric = model.metadata.sampling.get("space_group") == "any"

    def model(self, lesson: int) -> str:
        """Name or folder of the model after so many lessons."""
        return str(self._folder(lesson) / "last") if lesson else self.source

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
        from crystalsmith.training.config import Recipe
        from crystalsmith.training.run import RECIPE, resume_recipe, train

        number = len(state.lessons) + 1
        folder = self._folder(number)
        data = CrystalDataset.open(self.wish.learn)
        kept = guarded(found_by(state, self.reference), element_shares(data, self.allowed), self.wish.seed + number)
        if not kept:
            return None
        lesson, facts = self._data(kept, data, number)
        begun = (folder / RECIPE).is_file()
        recipe = resume_recipe(folder, None, []) if begun else Recipe.from_dict(self._recipe(number))
        outcome = train(lesson, folder, recipe, resume=begun, quiet=True)
        if outcome.interrupted and outcome.signum is not None:
            raise Stopped(outcome.signum)
        shutil.rmtree(lesson, ignore_errors=True)
        return facts | {"updates": outcome.step, "validation": outcome.best["total"]}

    def _data(self, kept: Sequence[Own], data: CrystalDataset, number: int) -> tuple[Path, dict[str, Any]]:
        """The data set of a lesson, and how many crystals of what are in it."""
        from crystalsmith.data.prepare import prepare
        from crystalsmith.data.sites import find_sites
        from crystalsmith.files import make_folder, replace_text
        from crystalsmith.formats import extxyz_frame

        rng = np.random.default_rng([self.wish.seed, number])
        rows, validation = data.rows("train"), data.rows("val")
        while (own := sum(one.weight for one in kept)) > len(rows):  # own crystals never outnumber real ones
            kept = kept[:-1]
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
