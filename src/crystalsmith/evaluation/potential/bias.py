"""What a potential gets wrong about each element: its energies of labelled reference structures beside their labels.

The difference of formation energies per atom, potential minus label, is fitted by a sum over elements of atomic
fraction times bias, ``d_i = sum_z x_iz b_z``: ridge regression, so that an element which few structures hold is drawn
towards zero, with Huber's weights (Huber, Ann. Math. Stat. 35, 73, 1964), so that single structures which the potential
gets wrong for reasons of their own (a magnetic order, say) do not pass for a bias of their elements.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalsmith.elements import SYMBOLS
from crystalsmith.engine.run import Engine
from crystalsmith.errors import InputError
from crystalsmith.evaluation.judged import Judged, system_of
from crystalsmith.evaluation.potential.potentials import Potential
from crystalsmith.evaluation.potential.single_points import Energies, potential_file
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.statistics import rate
from crystalsmith.files import replace_text
from crystalsmith.schema import Map, Record, Text, interpreting, of_type, read_json

Floats = NDArray[np.float64]

FORMAT = "crystalsmith-bias-1"

THRESHOLD = 0.05
"""eV/atom: crystals that hold an element of a larger bias are flagged."""

MAX_HEIGHT = 0.1
"""eV/atom above the labels' hull: structures beyond say little about those that matter to a hull."""

PENALTY = 0.1
"""Of the ridge: a tenth of a structure of the pure element, as for biases of 50 meV/atom that are seen through a
scatter of 16 meV/atom from structure to structure."""

SCATTER = 0.016
"""eV/atom, that scatter: differences within 1.345 times it have full weight."""


@dataclass(frozen=True)
class ElementBias:
    """One element.

    Attributes:
        bias: eV/atom of the pure element by the fit, potential minus label.
        standard_error: of the bias, eV/atom.
        mean_absolute_error: eV/atom over the structures that hold the element, before any fit.
        structures: how many these are.
    """

    bias: float
    standard_error: float
    mean_absolute_error: float
    structures: int

    @property
    def doubtful(self) -> bool:
        """Whether crystals with the element are flagged: a large bias, and not one by chance."""
        return abs(self.bias) > max(THRESHOLD, 2 * self.standard_error)


def measure_bias(
    reference: Reference,
    potential: str,
    scale: str | None = None,
    rows: int = 2000,
    engine: Engine = Engine(),
    seed: int = 0,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare a potential with the labels of a reference and keep the result with it.

    Args:
        rows: labelled structures to look at, as evenly over the elements as they allow.
        seed: of their choice; with more rows the earlier ones stay.
        announce: is told how long it will take.

    Returns:
        What the file holds: settings, errors over all structures, and for each element an :class:`ElementBias`.

    Raises:
        InputError: if the reference has no labelled structures, or the potential cannot be used.
    """
    if rows < 1:
        raise InputError("Give a number of --rows of at least one.")
    if not reference.manifest.get("elemental_energies"):
        raise InputError(
            f"The reference {reference.path} knows no elemental energies, so a potential's total energies cannot be "
            "compared with its labels; build it with --elemental-energies."
        )
    labels = _labels(reference)
    if not labels:
        raise InputError(
            f"The reference {reference.path} has no structures with labelled energies; build it with both."
        )
    chosen = _choose(labels, reference, rows, seed)
    energies = Energies(reference, potential, scale)
    computed = energies.compute(chosen, engine, announce=announce)
    compositions, differences = [], []
    for row, point in sorted(computed.by_row.items()):
        composition = _fractions(reference, row)
        value = reference.formation_energy(composition, point.energy_per_atom)
        if math.isfinite(value):
            compositions.append(composition)
            differences.append(value - reference.hull.energy(labels[row]))
    if not differences:
        failed = ", ".join(f"{why} {n}" for why, n in computed.failed.items())
        raise InputError(f"{energies.potential.name} gave no energy for any of the structures ({failed}).")
    record = {
        "format": FORMAT,
        "potential": energies.potential.name,
        "version": energies.potential.version,
        "corrections": reference.corrections,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "failed": computed.failed,
        "seconds_per_structure": round(sum(p.seconds for p in computed.by_row.values()) / len(computed.by_row), 4),
        **fitted(compositions, differences),
    }
    file = potential_file(reference, energies.potential, ".bias.json")
    replace_text(file, json.dumps(record, indent=1) + "\n")
    return record | {"file": str(file)}


def fitted(compositions: Sequence[Mapping[int, float]], differences: Sequence[float]) -> dict[str, Any]:
    """The fit to structures of given atomic fractions whose energies differ by so many eV/atom."""
    elements = sorted({z for c in compositions for z in c})
    fractions = np.array([[c.get(z, 0.0) for z in elements] for c in compositions])
    d = np.array(differences, dtype=np.float64)
    biases, errors = robust_ridge(fractions, d)
    rest = d - fractions @ biases
    table = {}
    for k, z in enumerate(elements):
        holding = fractions[:, k] > 0
        error = float(np.abs(d[holding]).mean())
        found = ElementBias(float(biases[k]), float(errors[k]), error, int(holding.sum()))
        table[SYMBOLS[z - 1]] = {name: _rounded(value) for name, value in vars(found).items()}
    return {
        "structures": len(d),
        "mean_error": _rounded(float(d.mean())),
        "mean_absolute_error": _rounded(float(np.abs(d).mean())),
        "median_absolute_error": _rounded(float(np.median(np.abs(d)))),
        "mean_absolute_error_after_fit": _rounded(float(np.abs(rest).mean())),
        "ridge_penalty": PENALTY,
        "elements": table,
    }


def robust_ridge(fractions: Floats, differences: Floats) -> tuple[Floats, Floats]:
    """Minimise ``sum_i w_i (d_i - x_i . b)^2 + PENALTY |b|^2``, the weights and b in turns.

    Args:
        fractions: X ``(n, k)``.
        differences: d ``(n,)``, eV/atom.

    Returns:
        b ``(k,)`` and its standard errors ``(k,)``, the shrinkage not included.
    """
    n, k = fractions.shape
    weights = np.ones(n)
    for _ in range(50):
        inverse = np.linalg.inv((fractions.T * weights) @ fractions + PENALTY * np.eye(k))
        biases = inverse @ (fractions.T * weights) @ differences
        rest = differences - fractions @ biases
        weights = np.minimum(1.0, 1.345 * SCATTER / np.maximum(np.abs(rest), 1e-12))
    normal = (fractions.T * weights) @ fractions
    freedom = max(n - float(np.trace(inverse @ normal)), 1.0)
    noise = float((weights * rest**2).sum()) / freedom
    return biases, np.sqrt(noise * np.diag(inverse @ normal @ inverse))


def spread_over_elements(
    elements: Mapping[int, Sequence[int]], rows: int, seed: int, accept: Callable[[int], bool] = lambda _: True
) -> list[int]:
    """Draw structures in turns: one that holds the first element, one that holds the second, ...

    With more rows the earlier ones stay, so that nothing is computed twice.

    Args:
        elements: structure number to its atomic numbers.
        rows: how many to draw.
        accept: whether a structure will do.
    """
    order = np.random.default_rng(seed).permutation(sorted(elements)).tolist()
    holding: dict[int, list[int]] = {}
    for row in reversed(order):
        for z in elements[row]:
            holding.setdefault(z, []).append(row)
    looked_at: dict[int, bool] = {}
    chosen: list[int] = []
    while any(holding.values()) and len(chosen) < rows:
        for z in sorted(holding):
            while holding[z] and len(chosen) < rows:
                row = holding[z].pop()
                if row in looked_at:
                    continue
                looked_at[row] = accept(row)
                if looked_at[row]:
                    chosen.append(row)
                    break
    return chosen


def read_bias(reference: Reference, potential: Potential) -> dict[str, ElementBias] | None:
    """The biases of a potential by symbol; None where they were not measured for this version of it.

    Raises:
        InputError: if the file is damaged.
    """
    file = potential_file(reference, potential, ".bias.json")
    if not file.exists():
        return None
    mend = "measure it again with crystalsmith reference bias"
    record = read_json(file, Record({"format": Text(), "elements": Map(of_type(ElementBias), most=120)}), mend)
    with interpreting(str(file), mend):
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']}")
        return {symbol: ElementBias(**values) for symbol, values in record["elements"].items()}


def flag_biased(crystals: Sequence[Judged], biases: Mapping[str, ElementBias]) -> dict[str, Any]:
    """Note with each crystal the elements that the potential gets wrong; returns the counts for ``metrics.json``."""
    doubtful = {symbol for symbol, found in biases.items() if found.doubtful}
    unmeasured: set[str] = set()
    for crystal in crystals:
        symbols = [SYMBOLS[z - 1] for z in system_of(crystal)]
        crystal.biased_elements = tuple(s for s in symbols if s in doubtful)
        unmeasured |= set(symbols) - set(biases)
    return {
        "threshold": THRESHOLD,
        "crystals": rate([bool(c.biased_elements) for c in crystals]),
        "stable_0.1": sum(bool(c.biased_elements) and c.stable(0.1) for c in crystals),
        "elements": {s: biases[s].bias for s in sorted(doubtful, key=lambda s: -abs(biases[s].bias))},
        "not_measured": sorted(unmeasured),
    }


def _labels(reference: Reference) -> dict[int, int]:
    """Structure number to hull entry, those that have one."""
    if not (reference.num_entries and reference.num_structures):
        return {}
    entries = reference.entries_by_name
    return {row: entries[name] for name, row in reference.structures_by_name.items() if name in entries}


def _choose(labels: Mapping[int, int], reference: Reference, rows: int, seed: int) -> list[int]:
    hull = reference.hull

    def near(row: int) -> bool:
        composition, energy = hull.composition(labels[row]), hull.energy(labels[row])
        return hull.distance(composition, energy).energy_above_hull <= MAX_HEIGHT

    return spread_over_elements({row: list(hull.composition(e)) for row, e in labels.items()}, rows, seed, near)


def _fractions(reference: Reference, row: int) -> dict[int, float]:
    numbers = reference.structure(row)[1][2]
    elements, counts = np.unique(numbers, return_counts=True)
    return {int(z): float(n) / len(numbers) for z, n in zip(elements, counts, strict=True)}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value
