"""A prepared data set as a person wants to see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crystalsmith.data.labels import sentence
from crystalsmith.properties import PROPERTIES

BAR = 40
TOP_ELEMENTS = 15


def describe(manifest: Mapping[str, Any]) -> str:
    """Counts, what was dropped, sizes, elements and labels of a prepared data set, as plain text."""
    sections = (_counts(manifest), _settings(manifest), _sizes(manifest), _elements(manifest), _labels(manifest))
    return "\n\n".join("\n".join(section) for section in [*sections, column_sentences(manifest)] if section)


def column_sentences(manifest: Mapping[str, Any]) -> list[str]:
    """A line for each column that is not all numbers, and for each that could not be a label."""
    columns = manifest.get("columns") or {}
    found = [sentence(name, facts) for name, facts in columns.items()]
    return found + [f"{name}: left out, as {why}" for name, why in (manifest.get("columns_left_out") or {}).items()]


def _counts(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts = manifest["counts"]
    yield f"{manifest['name']}: {counts['kept']:,} crystals with {counts['atoms']:,} atoms"
    yield f"  from {manifest['source']}, prepared {manifest['created'][:10]} by crystalsmith {manifest['version']}"
    yield f"  train {counts['train']:,}   val {counts['val']:,}   test {counts['test']:,}"
    if counts["split_from_hash"]:
        yield f"  {counts['split_from_hash']:,} of the splits were drawn from a hash of the id"
    dropped = counts["dropped"]
    yield f"  {sum(dropped.values()):,} of {counts['rows']:,} rows were dropped" + (
        " (row by row in ledger.csv):" if dropped else ""
    )
    for reason, number in dropped.items():
        yield f"    {number:>9,}  {reason.replace('_', ' ')}"
    noted = counts.get("noted") or {}
    if noted:
        yield f"  {sum(noted.values()):,} notes on crystals that were kept (row by row in notes.csv):"
    for reason, number in noted.items():
        yield f"    {number:>9,}  {reason.replace('_', ' ')}"
    for left in manifest.get("files_left_out") or []:
        yield f"  {left['count']:,} files were not read: {left['what']} (such as {left['example']})"
    yield (
        f"  {counts['folded']:,} cells were not primitive, {counts['left_handed']:,} left-handed; "
        f"{counts['duplicate_ids']:,} ids and {counts['duplicate_crystals']:,} crystals occur more than once"
    )


def _settings(manifest: Mapping[str, Any]) -> Iterator[str]:
    settings = manifest["settings"]
    elements = settings["elements"]
    hull = settings["max_energy_above_hull"]
    parts = [
        "any number of atoms" if settings["max_atoms"] is None else f"at most {settings['max_atoms']} atoms",
        "all elements" if elements is None else f"{len(elements)} elements allowed",
        "no limit on energy above hull" if hull is None else f"at most {hull:g} eV/atom above the hull",
        "primitive cells" if settings["primitive"] else "cells as given",
        "Niggli-reduced" if settings["niggli"] else "not reduced",
    ]
    yield "settings: " + ", ".join(parts)


def _sizes(manifest: Mapping[str, Any]) -> Iterator[str]:
    over = "" if manifest["statistics_over"] == "all" else f" ({manifest['statistics_over']})"
    yield f"atoms per cell{over}; mean density {manifest['mean_density']:.4f} atoms per cubic angstrom"
    histogram = {int(n): k for n, k in manifest["num_atoms_histogram"].items()}
    largest = max(histogram.values())
    for n, number in sorted(histogram.items()):
        yield f"  {n:>4}  {number:>9,}  " + "█" * max(1, round(BAR * number / largest))


def _elements(manifest: Mapping[str, Any]) -> Iterator[str]:
    elements = manifest["elements"]
    atoms = sum(elements.values())
    yield f"elements: {len(elements)}, the most frequent of all atoms"
    ranked = [f"{symbol} {100 * n / atoms:.1f} %" for symbol, n in list(elements.items())[:TOP_ELEMENTS]]
    for k in range(0, len(ranked), 5):
        yield "  " + "   ".join(f"{entry:<10}" for entry in ranked[k : k + 5]).rstrip()


def _labels(manifest: Mapping[str, Any]) -> Iterator[str]:
    labels = manifest["labels"]
    if not labels:
        yield "labels: none"
        return
    kept = manifest["counts"]["kept"]
    yield f"  {'label':<28}{'labelled':>9}{'':>8}{'mean':>11}{'std':>11}{'1 %':>11}{'median':>11}{'99 %':>11}  unit"
    for name, facts in labels.items():
        unit = PROPERTIES[name].unit if name in PROPERTIES else facts.get("unit", "")
        share = f"{100 * facts['count_all'] / kept:.0f} %"
        # The mean of space group numbers means nothing.
        category = facts.get("kind") == "category" or (name in PROPERTIES and PROPERTIES[name].kind == "category")
        values = [None if category else facts.get(key) for key in ("mean", "std", "q01", "q50", "q99")]
        numbers = "".join(f"{'' if v is None else format(v, '.4g'):>11}" for v in values)
        yield f"  {name:<28}{facts['count_all']:>9,}{share:>8}{numbers}  {unit}".rstrip()
