"""The metrics as lines of text in groups, each line with what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crystalsmith.evaluation.asked.request import answer_lines
from crystalsmith.evaluation.report.hull import hull_headline


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        group: what it stands under.
        label, text: its name, and the value with its interval.
        meaning: for those who ask; empty where the name says it.
    """

    group: str
    label: str
    text: str
    meaning: str = ""


CRYSTALS, NEW, STABLE, SUN = "The crystals", "Unique and novel", "Stability", "Stable, unique and novel"
OTHERS, GIVEN, HULL, DATA, COST, ASKED = (
    "By the rules of others",
    "As given, not relaxed",
    "The hull",
    "Beside the reference",
    "What they cost",
    "What was asked for",
)
ORDER = (CRYSTALS, NEW, STABLE, SUN, GIVEN, OTHERS, ASKED, HULL, DATA, COST)
"""Groups from the top."""

RATES = (
    (CRYSTALS, "valid", "valid", "no two atoms closer than 0.5 angstrom"),
    (
        CRYSTALS,
        "plausible",
        "plausible",
        "and no overlapping atoms, densities and cell as known crystals have them, charges that can balance, "
        "no molecules or slabs in a vacuum",
    ),
    (CRYSTALS, "charge_balanced", "charge balanced (SMACT)", "one crystal in six that is known does not pass"),
    (CRYSTALS, "relaxed", "relaxed", "the relaxation ended at a minimum"),
    (NEW, "unique", "unique", "not the same as an earlier crystal of this set"),
    (NEW, "unique_disordered", "unique, disordered matcher too", "nor with elements exchanged that may substitute"),
    (NEW, "novel", "novel", "the same as no structure of the reference"),
    (NEW, "novel_disordered", "novel, disordered matcher too", "nor with elements exchanged that may substitute"),
    (NEW, "novel_composition", "of a new composition", "the reference has no structure and no energy of this formula"),
    (
        NEW,
        "novel_framework",
        "of a new framework",
        "no structure of the reference has these kinds of places, whatever the elements; none by design where Wyckoff "
        "templates of known crystals were used",
    ),
)

TILES = (
    ("sun", "stable, unique and novel, within 0.1 eV/atom"),
    ("stable", "stable, within 0.1 eV/atom"),
    ("novel", "novel"),
    ("unique", "unique"),
    ("valid", "valid"),
)
"""What stands in large figures above all else, where it is known."""

DISTANCES = {
    "density_wasserstein": ("density", "Wasserstein distance, g/cm3; 0 is equal"),
    "num_atoms_wasserstein": ("atoms in the cell", "Wasserstein distance, atoms; 0 is equal"),
    "num_elements_wasserstein": ("elements in a crystal", "Wasserstein distance, elements; 0 is equal"),
    "elements_jensen_shannon": ("elements", "Jensen-Shannon distance; 0 is equal, 1 has nothing in common"),
    "space_groups_jensen_shannon": ("space groups", "Jensen-Shannon distance; 0 is equal, 1 has nothing in common"),
    "density_in_range": ("density within that of the reference", ""),
}
"""What each distribution beside the reference is called, and what its figure is."""

KINDS = (
    (STABLE, "stable", "stable"),
    (SUN, "sun", "S.U.N."),
    (SUN, "sun_disordered", "S.U.N., disordered matcher too"),
)


def tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The few figures that are looked for first: value, interval, name."""
    shown = []
    for name, label in TILES:
        value = found.get(name)
        if value is not None and "rate" not in value:
            value = value.get("0.1")
        if value is not None and value["of"]:
            percent = [f"{100 * value[k]:.0f}" for k in ("rate", "low", "high")]
            shown.append((f"{percent[0]} %", f"{percent[1]} to {percent[2]}", label))
    moved = found.get("rmsd", {})
    if moved.get("of"):
        spread = f"{moved['median_low']:.2g} to {moved['median_high']:.2g}"
        shown.append((f"{moved['median']:.2g} Å", spread, "median displacement by relaxation"))
    return shown


def headline(found: dict[str, Any]) -> list[Line]:
    """The metrics, group by group."""
    lines = [Line(CRYSTALS, "requested", f"{found['requested']:,}", "all rates are of these, whatever became of them")]
    lines += [Line(group, label, rate_text(found[name]), why) for group, name, label, why in RATES if name in found]
    doubts = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.get("doubts", {}).items())
    if doubts:
        lines.append(Line(CRYSTALS, "not plausible for", doubts, "a crystal may have several of these"))
    for group, name, label in KINDS:
        for t, value in found.get(name, {}).items():
            lines.append(Line(group, f"{label}, within {t} eV/atom", rate_text(value)))
    lines += _without_ytterbium(found) + _of_others(found) + _as_given(found)
    lines += [Line(ASKED, label, text) for label, text in answer_lines(found)]
    lines += _spreads(found) + [Line(HULL, label, text) for label, text in hull_headline(found)]
    lines += _beside_the_reference(found) + _variety(found) + _costs(found.get("efficiency") or {})
    return sorted(lines, key=lambda line: ORDER.index(line.group))


def _without_ytterbium(found: dict[str, Any]) -> list[Line]:
    apart = found.get("ytterbium")
    if apart is None:
        return []
    why = "its energies in the Materials Project of before 2023 rest on a pseudopotential that was withdrawn"
    lines = [Line(STABLE, "hold ytterbium", rate_text(apart["crystals"]), why)]
    kinds = ((STABLE, "stable", "stable"), (SUN, "sun", "S.U.N."))
    for group, name, label in kinds:
        if name in apart:
            text = rate_text(apart[name]["0.1"])
            lines.append(
                Line(group, f"{label}, within 0.1 eV/atom, without ytterbium", text, "of the crystals without")
            )
    return lines


def _of_others(found: dict[str, Any]) -> list[Line]:
    names = found.get("conventions")
    if names is None:
        return []
    lines = [
        Line(OTHERS, "SUN", rate_text(names["SUN"]), "at the hull, by the ordered matcher"),
        Line(OTHERS, "MSUN", rate_text(names["MSUN"]), "within 0.1 eV/atom, by the ordered matcher"),
        Line(OTHERS, "MatterGen's S.U.N.", rate_text(names["MatterGen"]), "below 0.1 eV/atom, by either matcher"),
    ]
    why = "only plausible crystals count"
    return lines + [
        Line(OTHERS, f"LeMat-GenBench: {key}", rate_text(value), why)
        for key, value in names["lemat"].items()
        if "rate" in value
    ]


def _as_given(found: dict[str, Any]) -> list[Line]:
    given = found.get("as_given")
    if given is None:
        return []
    why = "energy before the first step of the relaxation"
    lines = [Line(GIVEN, f"stable as given, within {t} eV/atom", rate_text(v), why) for t, v in given["stable"].items()]
    lines += [
        Line(GIVEN, f"S.U.N. as given, within {t} eV/atom", rate_text(v), why) for t, v in given.get("sun", {}).items()
    ]
    if given["energy_above_hull"].get("of"):
        lines.append(Line(GIVEN, "energy above hull as given, eV/atom", spread_text(given["energy_above_hull"])))
    return lines


def _spreads(found: dict[str, Any]) -> list[Line]:
    lines = []
    for name, label, why in (
        ("energy_above_hull", "energy above hull, eV/atom", ""),
        ("rmsd", "displacement, angstrom", "root mean square, from the crystal as given to the relaxed one"),
    ):
        if found.get(name, {}).get("of"):
            lines.append(Line(STABLE, label, spread_text(found[name]), why))
    for t, value in found.get("symmetry_kept", {}).items():
        lines.append(Line(STABLE, f"symmetry kept, {t} angstrom", rate_text(value), "the same space group afterwards"))
    return lines


def _beside_the_reference(found: dict[str, Any]) -> list[Line]:
    lines = []
    for name, value in (found.get("distributions") or {}).items():
        text = rate_text(value) if isinstance(value, dict) else f"{value:.3g}" if value is not None else ""
        label, why = DISTANCES.get(name, (name.replace("_", " "), ""))
        lines.append(Line(DATA, label, text, why))
    for name, label in (
        ("radioactive", "a radioactive element"),
        ("noble_gases", "a noble gas"),
        ("scarce", "a scarce element"),
    ):
        lines.append(Line(DATA, f"holds {label}", rate_text(found["composition"][name])))
    return lines


def _variety(found: dict[str, Any]) -> list[Line]:
    diversity = found["diversity"]
    counts = ", ".join(
        f"{diversity[k]:,} {k.replace('_', ' ')}" for k in ("formulas", "chemical_systems", "space_groups")
    )
    lines = [Line(NEW, "diversity", counts), Line(CRYSTALS, "in P1, 0.1 angstrom", rate_text(diversity["in_p1"]))]
    vendi = found.get("vendi")
    if vendi:
        text = ", ".join(f"{vendi[k]:.4g} by {k}" for k in ("composition", "structure", "both"))
        lines.append(
            Line(NEW, f"Vendi scores of {vendi['of']}", text, "as how many wholly different crystals they count")
        )
    covered = found.get("coverage")
    if covered:
        why = f"of {covered['held_out']} crystals that were held out"
        lines += [
            Line(DATA, f"{name} of held-out crystals", rate_text(covered[name]), why)
            for name in ("rediscovered", "precision", "recall")
            if name in covered
        ]
    return lines


def _costs(found: dict[str, Any]) -> list[Line]:
    made, judging, hit = found.get("generation"), found.get("judging"), found.get("per_msun")
    lines = []
    if made:
        parts = [f"{made['per_crystal']['sampling_seconds']:.3g} s each on {', '.join(made['device'])}"]
        if made["network_evaluations"]:
            parts.append(f"{made['network_evaluations']} network evaluations each")
        if made["parameters"]:
            parts.append(f"{made['parameters'] / 1e6:.3g} million parameters")
        if made["peak_memory_mib"]:
            parts.append(f"at most {made['peak_memory_mib']} MiB")
        lines.append(Line(COST, "making them", ", ".join(parts)))
    if judging and judging.get("energy_calls"):
        each = judging["per_crystal"]
        text = f"{each['relaxation_seconds']:.3g} s and {each['energy_calls']:.3g} energies each"
        lines.append(Line(COST, "judging them", text, "relaxations, those of earlier runs included"))
    if hit and hit["crystals"]:
        words = {
            "generation_sampling_seconds": "s of generation",
            "network_evaluations": "network evaluations",
            "judging_relaxation_seconds": "s of relaxation",
            "judging_energy_calls": "energies",
        }
        parts = [f"{hit[name]:.4g} {word}" for name, word in words.items() if hit.get(name) is not None]
        if parts:
            lines.append(Line(COST, "each S.U.N. crystal (0.1 eV/atom)", ", ".join(parts)))
    if hit and hit.get("msun_per_processor_hour") is not None:
        lines.append(Line(COST, "S.U.N. per processor hour", f"{hit['msun_per_processor_hour']:.4g}", "of generation"))
    return lines


def rate_text(value: dict[str, Any]) -> str:
    """A rate with its interval and counts."""
    if not value["of"]:
        return "none"
    percent = [100 * value[k] for k in ("rate", "low", "high")]
    return f"{percent[0]:.3g} % ({percent[1]:.3g} to {percent[2]:.3g}), {value['count']:,} of {value['of']:,}"


def spread_text(value: dict[str, Any]) -> str:
    """A distribution in a line."""
    text = f"median {value['median']:.3g} ({value['median_low']:.3g} to {value['median_high']:.3g}), "
    text += f"mean {value['mean']:.3g}, nine in ten from {value['q05']:.3g} to {value['q95']:.3g}"
    extra = [f"{value[k]} {k}" for k in ("unmatched", "unknown") if value.get(k)]
    return ", ".join([text, *extra])
