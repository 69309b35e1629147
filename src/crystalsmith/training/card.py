"""The model card: what was trained, on what, how, and how well, in words a person can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crystalsmith.training.config import NO_LICENCE, Recipe
from crystalsmith.training.known_data import known_data
from crystalsmith.training.log import duration
from crystalsmith.training.objective import LOSSES

_MEANING = {
    "total": "weighted sum, per crystal",
    "frac_coords": "coordinates, sum over atoms",
    "cell": "cell",
    "species": "elements, sum over atoms",
    "frac_coords_per_atom": "coordinates, per atom",
    "cell_per_atom": "cell (as above)",
    "species_nll": "elements, cross-entropy per atom (nats)",
}

_TASKS = {
    "generate": "generates elements, fractional coordinates and lattice together",
    "csp": "predicts structures, fractional coordinates and lattice of the elements that it is given",
}


@dataclass(frozen=True)
class RunFacts:
    """What a run amounts to so far; ``validation`` and ``train`` are mean losses by name."""

    step: int
    epochs: float
    crystals: int
    seconds: float
    parameters: int
    device: str
    train: Mapping[str, float]
    validation: Mapping[str, float] | None
    best: Mapping[str, Any]
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the metadata of a model."""
        return {
            "steps": self.step,
            "epochs": round(self.epochs, 3),
            "crystals_seen": self.crystals,
            "hours": round(self.seconds / 3600.0, 4),
            "device": self.device,
            "validation": dict(self.validation or {}),
            "skipped_steps": self.skipped,
        }


def render_card(
    recipe: Recipe, manifest: Mapping[str, Any], facts: RunFacts, task: str = "generate", licence: str = NO_LICENCE
) -> str:
    """The card as Markdown; ``task`` is that of the model's process, ``licence`` that of its weights."""
    preset = recipe.model.get("preset", "base")
    origin = f"model preset `{preset}`" if recipe.base is None else f"started from the weights of `{recipe.base}`"
    parts = [
        f"# {recipe.card.title or recipe.name}",
        f"A diffusion model of inorganic crystals trained with crystalsmith: it {_TASKS[task]}. "
        f"{facts.parameters:,} parameters, {origin}.",
        "## Data\n" + _data(manifest),
        "## Training\n" + _training(recipe, facts),
        "## Losses\n" + _losses(facts),
    ]
    if recipe.card.notes.strip():
        parts.append("## Notes\n" + recipe.card.notes.strip())
    known = known_data(manifest)
    data = "as the source says" if known is None else f"{known.licence} ({known.name})"
    parts.append(f"## Licence\nWeights: {licence}. Training data: {data}.")
    return "\n\n".join(parts) + "\n"


def _data(manifest: Mapping[str, Any]) -> str:
    counts = manifest.get("counts", {})
    lines = [f"- data set: {manifest.get('name', 'unnamed')} (source: {manifest.get('source', 'not stated')})"]
    if known := known_data(manifest):
        lines.append(f"- {known.note}")
    if manifest.get("source_sha256"):
        lines.append(f"- SHA-256 of the source: {manifest['source_sha256']}")
    said = [f"{counts[key]:,} {key}" for key in ("train", "val", "test") if isinstance(counts.get(key), int)]
    if said:
        lines.append(f"- crystals: {', '.join(said)}; trained on train only")
    sizes = [int(n) for n, count in (manifest.get("num_atoms_histogram") or {}).items() if count]
    if sizes:
        lines.append(f"- {min(sizes)} to {max(sizes)} atoms per primitive cell")
    elements = [name for name, count in (manifest.get("elements") or {}).items() if count]
    if elements:
        lines.append(f"- {len(elements)} elements")
    return "\n".join(lines)


def _training(recipe: Recipe, facts: RunFacts) -> str:
    optimizer, schedule, clipping = recipe.optimizer, recipe.schedule, recipe.clipping
    lines = [
        f"- {facts.step:,} steps, {facts.epochs:.1f} epochs, {facts.crystals:,} crystals seen in "
        f"{duration(facts.seconds)} on {facts.device}, precision {recipe.hardware.precision}",
        f"- {optimizer.name} lr {optimizer.lr:g}, betas {optimizer.betas}, weight decay {optimizer.weight_decay:g}; "
        f"schedule {schedule.name}, warm-up {schedule.warmup_steps} steps",
        f"- batch {recipe.data.batch_size}; seed {recipe.seed}; constants of the process: "
        f"{recipe.process.get('constants', 'data')}",
    ]
    if clipping.by != "none":
        lines.append(f"- gradients clipped by {clipping.by} {clipping.limit:g}")
    if recipe.ema.decay is not None:
        lines.append(f"- weights averaged with decay {recipe.ema.decay:g}")
    if facts.skipped:
        lines.append(f"- {facts.skipped} steps skipped for gradients that were not finite")
    return "\n".join(lines)


def _losses(facts: RunFacts) -> str:
    lines = ["| loss | meaning | training | validation |", "|---|---|---|---|"]
    for name in LOSSES:
        if name == "cell_per_atom":
            continue
        train, validation = facts.train.get(name), (facts.validation or {}).get(name)
        cells = [f"{x:.4g}" if x is not None else "" for x in (train, validation)]
        lines.append(f"| {name} | {_MEANING[name]} | {cells[0]} | {cells[1]} |")
    text = "\n".join(lines)
    if facts.best.get("total") is not None:
        text += f"\n\nBest validation total {facts.best['total']:.4g} at step {facts.best['step']:,}."
    return text
