"""What a potential gets wrong about each element: its energies of labelled reference structures beside their labels.

The difference of formation energies per atom, potential minus label, is fitted by a sum over elements of atomic
fraction times bias: ``d_i = sum_z x_iz b_z``, with a ridge penalty that generalised cross-validation chooses (Golub,
Heath and Wahba, Technometrics 21, 215, 1979). An element that few structures hold is so drawn towards zero.
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
from crystalsmith.errors import InputError
from crystalsmith.evaluation.completeness import system_of
from crystalsmith.evaluation.metrics import Judged
from crystalsmith.evaluation.potentials import Potential
from crystalsmith.evaluation.reference import Reference
from crystalsmith.evaluation.single_points import Energies, potential_file
from crystalsmith.evaluation.statistics import rate

Floats = NDArray[np.float64]

FORMAT = "crystalsmith-bias-1"

THRESHOLD = 0.05
"""eV/atom: crystals that hold an element of a larger bias are flagged."""

PENALTIES = tuple(float(x) for x in np.logspace(-4, 1, 26))
"""Ridge penalties that are tried: 1 weighs as much as one structure of the pure element."""


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
        """Whether crystals with the element are flagged."""
        return abs(self.bias) > THRESHOLD


def measure_bias(
    reference: Reference,
    potential: str,
    scale: str | None = None,
    rows: int = 2000,
    jobs: int = 1,
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
    chosen = spread_over_elements(labels, reference, rows, seed)
    energies = Energies(reference, potential, scale)
    computed = energies.compute(chosen, jobs, announce=announce)
    compositions, differences = [], []
    for row, point in sorted(computed.by_row.items()):
        composition = _fractions(reference, row)
        value = reference.formation_energy(composition, point.energy_per_atom)
        if math.isfinite(value):
            compositions.append(composition)
            differences.append(value - labels[row])
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
    from crystalsmith.evaluation.report import write_atomically

    write_atomically(file, json.dumps(record, indent=1) + "\n")
    return record | {"file": str(file)}


def fitted(compositions: Sequence[Mapping[int, float]], differences: Sequence[float]) -> dict[str, Any]:
    """The fit to structures of given atomic fractions whose energies differ by so many eV/atom."""
    elements = sorted({z for c in compositions for z in c})
    fractions = np.array([[c.get(z, 0.0) for z in elements] for c in compositions])
    d = np.array(differences, dtype=np.float64)
    biases, errors, penalty = ridge(fractions, d)
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
        "ridge_penalty": penalty,
        "elements": table,
    }


def ridge(fractions: Floats, differences: Floats) -> tuple[Floats, Floats, float]:
    """Minimise ``|d - X b|^2 + penalty |b|^2`` with the penalty of the least generalised cross-validation error.

    Args:
        fractions: X ``(n, k)``.
        differences: d ``(n,)``.

    Returns:
        b ``(k,)``, standard errors ``(k,)`` (of the ridge estimator, its own shrinkage not included), the penalty.
    """
    n = len(differences)
    left, values, right = np.linalg.svd(fractions, full_matrices=False)
    along = left.T @ differences
    outside = float(differences @ differences - along @ along)

    def score(penalty: float) -> float:
        shrink = penalty / (values**2 + penalty)
        freedom = n - float((1 - shrink).sum())
        return n * (float(((shrink * along) ** 2).sum()) + outside) / freedom**2 if freedom > 1e-9 else math.inf

    penalty = min(PENALTIES, key=score)
    gain = values / (values**2 + penalty)
    biases = right.T @ (gain * along)
    freedom = max(n - float((values * gain).sum()), 1.0)
    noise = float(((differences - fractions @ biases) ** 2).sum()) / freedom
    errors = np.sqrt(noise * ((right.T * gain) ** 2).sum(axis=1))
    return biases, errors, penalty


def spread_over_elements(labels: Mapping[int, float], reference: Reference, rows: int, seed: int) -> list[int]:
    """Structures by their numbers, drawn in turns: one that holds the first element, one that holds the second, ...

    With more rows the earlier ones stay, so that nothing is computed twice.
    """
    order = np.random.default_rng(seed).permutation(sorted(labels)).tolist()
    holding: dict[int, list[int]] = {}
    for row in reversed(order):
        for z in _fractions(reference, row):
            holding.setdefault(z, []).append(row)
    chosen: dict[int, None] = {}
    while len(chosen) < min(rows, len(labels)):
        for z in sorted(holding):
            while holding[z] and holding[z][-1] in chosen:
                holding[z].pop()
            if holding[z] and len(chosen) < rows:
                chosen[holding[z].pop()] = None
    return list(chosen)


def read_bias(reference: Reference, potential: Potential) -> dict[str, ElementBias] | None:
    """The biases of a potential by symbol; None where they were not measured for this version of it.

    Raises:
        InputError: if the file is damaged.
    """
    file = potential_file(reference, potential, ".bias.json")
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError
        return {symbol: ElementBias(**values) for symbol, values in record["elements"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file} is damaged; measure it again with crystalsmith reference bias.") from None


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


def _labels(reference: Reference) -> dict[int, float]:
    """Structure number to labelled formation energy (eV/atom), those that have one."""
    if not (reference.num_entries and reference.num_structures):
        return {}
    entries = reference.entries_by_name
    found = {row: entries[name] for name, row in reference.structures_by_name.items() if name in entries}
    return {row: reference.hull.energy(entry) for row, entry in found.items()}


def _fractions(reference: Reference, row: int) -> dict[int, float]:
    numbers = reference.structure(row)[1][2]
    elements, counts = np.unique(numbers, return_counts=True)
    return {int(z): float(n) / len(numbers) for z, n in zip(elements, counts, strict=True)}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value
