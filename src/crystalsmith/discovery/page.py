"""``discover.html``: a run as one page that opens offline, written anew while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from crystalsmith.discovery.archive import funnel, ranked, row_of
from crystalsmith.discovery.bandit import Posterior
from crystalsmith.discovery.candidate import Candidate, State
from crystalsmith.discovery.ledger import Folder
from crystalsmith.discovery.lessons import Taught, changed, taught
from crystalsmith.discovery.proposals import FACTORS, outcomes_of
from crystalsmith.discovery.wish import Limits, Wish
from crystalsmith.elements import SYMBOLS
from crystalsmith.evaluation.matching import formula_key
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.report.page import asset, compact, element_shares, fill
from crystalsmith.evaluation.report.results import finite, rounded
from crystalsmith.evaluation.statistics import wilson
from crystalsmith.files import replace_text

PAGE = "discover.html"

SHOWN = ("id", "formula", "space_group", "energy_above_hull", "verdict")
FURTHER = (
    "matched",
    "energy_per_atom",
    "num_atoms",
    "formation_energy_per_atom",
    "density",
    "source",
    "parent",
    "exchange",
    "estimated_above_hull",
)
LAST = ("chance", "steps", "rmsd", "seconds", "detail")

MOST_ROWS = 1000
"""Candidates on the page; all of them stand in ``candidates.csv``."""

NEAR = 0.1
"""eV/atom above the hull up to which known phases are drawn."""


def write_page(
    folder: Folder, state: State, reference: Reference | None, limits: Limits, properties: Sequence[str], why: str
) -> None:
    """Write the page of a run as it stands."""
    replace_text(folder.path / PAGE, page(folder.wish, state, reference, limits, properties, why))


def page(
    wish: Wish, state: State, reference: Reference | None, limits: Limits, properties: Sequence[str], why: str
) -> str:
    """The text of the page.

    Args:
        why: why the run is over; empty while it goes on.
    """
    shown = _shown(state)
    names = [n for n in (*SHOWN, *properties, *FURTHER, *LAST)]
    place = {c.number: rank for rank, c in enumerate(ranked(state), start=1)}
    table = [row_of(c, place.get(c.number)) for c in shown]
    columns = [n for n in dict.fromkeys(names) if any(row.get(n) not in (None, "") for row in table)] or list(SHOWN)
    numeric = [n for n in columns if any(isinstance(r.get(n), float) for r in table) and n not in LAST]
    asked = [n for n in properties if n in numeric and n != "energy_above_hull"]
    models = taught(state, wish.hull_limit)
    payload = {
        "symbols": SYMBOLS,
        "summary": _summary(wish, state, limits, why, changed(models)),
        "funnel": _funnel(state),
        "factors": _factors(state),
        "yield": _yield(state),
        "lessons": _lessons(state, models),
        "columns": columns,
        "rows": [[rounded(row.get(n)) for n in columns] for row in table],
        "more": [_more(c) for c in shown],
        "systems": _systems(shown, reference),
        "properties": [*asked, *(n for n in numeric if n not in (*asked, "energy_above_hull"))],
        "lower": _lower(wish),
        "elements": element_shares([c.relaxed[2] for c in state.accepted if c.relaxed is not None], reference),
    }
    against = "" if reference is None else f", against {reference.name}"
    subtitle = f"{' and '.join(wish.requirements) or 'no requirement'}; {wish.potential}{against}"
    script = (resources.files("crystalsmith.discovery") / "assets" / "discover.js").read_text(encoding="utf-8")
    template = (resources.files("crystalsmith.discovery") / "assets" / "discover.html").read_text(encoding="utf-8")
    exact = wish.steering.get("compositions") or wish.steering.get("formula")
    title = f"Discovery: {len(state.accepted)} accepted"
    if exact and not wish.novel:
        title = f"Structures of {exact if isinstance(exact, str) else ', '.join(exact)}"
    return fill(template, title, subtitle, finite(payload), {"SCRIPT": asset("common.js") + script})


def _shown(state: State) -> list[Candidate]:
    best = ranked(state)
    numbers = {c.number for c in best}
    rest = [c for _, c in sorted(state.candidates.items()) if c.relaxed is not None and c.number not in numbers]
    return [*best, *rest][:MOST_ROWS]


def _summary(wish: Wish, state: State, limits: Limits, why: str, told: str) -> list[list[str]]:
    status = f"over: {why}" if why else "going on"
    wanted = {
        "accepted": (len(state.accepted), limits.want),
        "relaxations": (state.relaxations, limits.relaxations),
        "hours": (round(state.at / 3600, 2), limits.hours),
    }
    for name in wish.calculated:
        wanted[f"calculations of {name}"] = (state.calculations(name), limits.calculations.get(name))
    rows = [["run", status], ["model", f"{wish.model}, seed {wish.seed}"]]
    rows += [[name, f"{done}" + ("" if most is None else f" of {most}")] for name, (done, most) in wanted.items()]
    said = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in wish.steering.items()}
    rules = [f"{k.replace('_', ' ')} {v}" for k, v in said.items()]
    rows += [["rules", "; ".join(rules) or "none"], ["way", "plain" if wish.plain else "ranked and learning"]]
    return [*rows, ["lessons", f"{len(state.lessons)}; {told}"]] if told else rows


def _funnel(state: State) -> list[list[Any]]:
    rows = []
    for one in funnel(state):
        why = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in one["dropped"].items())
        each = one["seconds"] / one["reached"] if one["reached"] else 0.0
        rows.append([one["stage"], one["reached"], why, f"{one['seconds']:.1f}", f"{each:.2g}"])
    return rows


def _factors(state: State) -> list[list[Any]]:
    everyone = [c for _, c in sorted(state.candidates.items())]
    rows = []
    for factor in FACTORS:
        levels = sorted({c.plan[factor] for c in everyone})
        means = Posterior.of(levels, outcomes_of(everyone, factor)).means()
        for level in levels:
            some = [c for c in everyone if c.plan[factor] == level]
            relaxed = sum(c.relaxed is not None for c in some)
            accepted = sum(c.accepted for c in some)
            name = {"kinds": "elements", "size": "atoms"}.get(factor, factor)
            rows.append([name, level, len(some), relaxed, accepted, f"{means[level]:.2f}"])
    return rows


def _lessons(state: State, models: Sequence[Taught]) -> list[list[Any]]:
    """For the model as it began and after each lesson: what it was shown, and what came of what it proposed."""
    rows = []
    for one in models:
        shown = state.lessons[one.lesson - 1].facts if one.lesson else {}
        low, high = wilson(one.accepted, one.relaxed)
        share = f"{one.accepted / one.relaxed:.0%} ({low:.0%} to {high:.0%})" if one.relaxed else ""
        same = f"{one.before} of {one.budget}, then {one.after} of {one.budget}" if one.budget else ""
        promising = f"{one.promising} of {one.estimated}"
        made = (one.proposed, promising, one.relaxed, one.accepted, share, same)
        rows.append([one.lesson, shown.get("own", ""), shown.get("real", ""), *made])
    return rows


def _yield(state: State) -> list[list[float]]:
    """Relaxations, hours and accepted candidates after each relaxation."""
    events = sorted(
        (at, stage) for c in state.candidates.values() for stage, at, _ in c.history if stage in ("relaxed", "accepted")
    )
    points, relaxed, accepted = [[0.0, 0.0, 0.0]], 0, 0
    for at, stage in events:
        relaxed, accepted = relaxed + (stage == "relaxed"), accepted + (stage == "accepted")
        points.append([relaxed, round(at / 3600, 4), accepted])
    return points


def _more(candidate: Candidate) -> dict[str, Any]:
    arrays = candidate.relaxed
    composition = {} if arrays is None else dict(formula_key(arrays[2]))
    total = sum(composition.values())
    symbols = sorted(SYMBOLS[z - 1] for z in composition)
    shares = {SYMBOLS[z - 1]: n / total for z, n in composition.items()}
    formation = candidate.values.get("formation_energy_per_atom")
    return {
        "before": compact(candidate.raw),
        "after": compact(arrays),
        "system": "-".join(symbols),
        "place": None if formation is None else [[shares[s] for s in symbols], formation],
        "relatives": [[r["id"], r["formula"], r["differs"]] for r in candidate.values.get("relatives", [])],
        "history": [[stage, f"at {at / 60:.1f} min, took {took:.2g} s"] for stage, at, took in candidate.history]
        + ([["dropped", f"{candidate.dropped.replace('_', ' ')}: {candidate.detail}"]] if candidate.dropped else [])
        + ([["decays to", candidate.values["decomposition"]]] if candidate.values.get("decomposition") else []),
    }


def _systems(shown: Sequence[Candidate], reference: Reference | None) -> dict[str, list[Any]]:
    """The known phases on and near the hull of the candidates' chemical systems of two to four elements."""
    if reference is None or not reference.num_entries:
        return {}
    found: dict[str, list[Any]] = {}
    for candidate in shown:
        if candidate.relaxed is None or candidate.values.get("formation_energy_per_atom") is None:
            continue
        numbers = tuple(sorted({int(z) for z in candidate.relaxed[2]}))
        symbols = sorted(SYMBOLS[z - 1] for z in numbers)
        name = "-".join(symbols)
        if not 2 <= len(numbers) <= 4 or name in found:
            continue
        entries = []
        for entry in reference.hull.entries_within(numbers).tolist():
            shares = reference.hull.composition(entry)
            energy = reference.hull.energy(entry)
            above = reference.hull.distance(shares, energy).energy_above_hull
            if above <= NEAR:
                by_symbol = {SYMBOLS[z - 1]: x for z, x in shares.items()}
                place = [round(by_symbol.get(s, 0.0), 4) for s in symbols]
                entries.append([reference.entry_name(entry), place, round(energy, 4), round(max(0.0, above), 4)])
        found[name] = entries
    return found


def _lower(wish: Wish) -> list[str]:
    """Properties of which less is asked."""
    return [t.name for t in wish.tests if t.tests and t.tests[0][0] in ("<", "<=")]
