"""pymatgen's computed entries, read as plain data: total energies with their corrections, and what kind they are of."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from crystalsmith.data.rows import row_id
from crystalsmith.errors import InputError
from crystalsmith.evaluation.reference.compositions import parse_composition

MAX_LEVELS = 4
"""How deep entries that hold another entry (of grand potentials, of transformed diagrams) are followed."""

_NO_TOTALS = {
    "GibbsComputedStructureEntry": "free_energy",
    "ExpEntry": "experimental",
    "SlabEntry": "slab",
    "PourbaixEntry": "pourbaix",
    "MultiEntry": "pourbaix",
    "IonEntry": "pourbaix",
}
"""Classes whose energy is no total energy of a crystal, and the word they are counted by."""

_FAMILIES = (("r2scan", "r2SCAN"), ("scan", "SCAN"), ("pbesol", "PBEsol"), ("hse", "HSE"), ("lda", "LDA"))


@dataclass(frozen=True)
class Computed:
    """One computed entry.

    Attributes:
        name: its id.
        composition: atomic number to amount.
        energy: total energy with corrections, eV/atom.
        correction: the part of it that is correction, eV/atom.
        functional: ``GGA`` (with or without U), ``r2SCAN`` and so on; empty where it does not say.
        named: whether the id is its own.
    """

    name: str
    composition: dict[int, float]
    energy: float
    correction: float
    functional: str
    named: bool


def holds_computed(path: Path) -> tuple[bool, bool]:
    """Whether a JSON file begins with computed entries, and whether these have structures."""
    from crystalsmith.data.json_files import JsonSource

    if not any(s.lower() in (".json", ".jsonl", ".ndjson") for s in path.suffixes) or not path.is_file():
        return False, False
    computed = structures = False
    for _, content in islice(JsonSource(path).entries(), 50):
        try:
            record = _record(content)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, Mapping) and "composition" in record and ("energy" in record or "@class" in record):
            computed, structures = True, structures or "structure" in record
    return computed, structures


def read_computed(name: str, content: Any) -> Computed | str:
    """A computed entry from its plain form, or the word by which one that has no total energy is counted.

    Args:
        name: its id if it has none of its own.
        content: a dictionary as pymatgen's ``as_dict`` gives it, or its JSON text.
    """
    try:
        record = _record(content)
        return _computed(name, record, MAX_LEVELS)
    except RecursionError:
        return "unreadable"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return "unreadable"


def _record(content: Any) -> Any:
    return json.loads(content) if isinstance(content, str) else content


def _computed(name: str, record: Any, levels: int) -> Computed | str:
    kind = str(record.get("@class", ""))
    if kind in _NO_TOTALS:
        return _NO_TOTALS[kind]
    if isinstance(record.get("entry"), Mapping) and levels:  # an entry of a diagram around the one that was computed
        return _computed(name, record["entry"], levels - 1)
    if record.get("energy") is None:
        return "no_energy"
    amounts = parse_composition(record["composition"])
    atoms = sum(amounts.values())
    correction = _correction(record) / atoms
    energy = float(record["energy"]) / atoms + correction
    if not math.isfinite(energy):
        return "not_finite"
    own = record.get("entry_id") or record.get("material_id")
    return Computed(row_id(own, name), amounts, energy, correction, functional_of(record), bool(own))


def _correction(record: Mapping[str, Any]) -> float:
    adjustments = record.get("energy_adjustments")
    if not adjustments or record.get("correction") is not None:
        return float(record.get("correction") or 0.0)
    atoms = [float(a["value"]) if "value" in a else float(a["adj_per_atom"]) * float(a["n_atoms"]) for a in adjustments]
    return sum(atoms)


def functional_of(record: Mapping[str, Any]) -> str:
    """The functional that an entry says it was computed with."""
    for part in ("parameters", "data"):
        facts = record.get(part)
        if isinstance(facts, Mapping):
            for key in ("run_type", "functional", "task_type"):
                if facts.get(key) and (found := _family(str(facts[key]))):
                    return found
    suffix = str(record.get("entry_id") or "").rpartition("-")[2]
    return _family(suffix) if not suffix.isdigit() else ""


def _family(text: str) -> str:
    lowered = text.lower()
    for part, family in _FAMILIES:
        if part in lowered:
            return family
    return "GGA" if lowered.startswith(("gga", "pbe")) else ""


def refuse_mixture(functionals: Counter[str], where: Path) -> None:
    """Refuse total energies of different functionals in one file.

    Raises:
        InputError: naming them.
    """
    said = {name: n for name, n in functionals.items() if name}
    if len(said) > 1:
        parts = " and ".join(f"{n} of {name}" for name, n in sorted(said.items()))
        raise InputError(
            f"{where} holds total energies {parts}, whose differences mean nothing; give entries of one functional."
        )
