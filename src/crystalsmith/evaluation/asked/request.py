"""What was asked of the crystals: targets of the run, a control, requirements; held against what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalsmith.errors import InputError
from crystalsmith.evaluation.asked.measures import OF_ENERGIES, Predictor, Value, how_measured, measure, why_not
from crystalsmith.evaluation.asked.requirements import Requirement, check_requirements, judge_requirements, sun_is_known
from crystalsmith.evaluation.asked.targets import PREFIX, Asked, hits, judge_targets, read_targets
from crystalsmith.evaluation.judged import Judged
from crystalsmith.evaluation.matching import Arrays
from crystalsmith.evaluation.reference.known import Reference
from crystalsmith.evaluation.structures import Sample

if TYPE_CHECKING:
    from crystalsmith.evaluation.potential.relaxed import Relaxation

ACHIEVED, HIT = "achieved_", "hit_"


@dataclass(frozen=True)
class Request:
    """What an evaluation holds its crystals against, beyond the metrics of every set.

    Attributes:
        control: crystals made without any condition, held against the same targets.
        requirements: what a crystal must meet to count.
        bulk_modulus: compute equations of state.
        predictors: of properties that nothing else measures.
    """

    control: Path | None = None
    requirements: tuple[Requirement, ...] = ()
    bulk_modulus: bool = False
    predictors: tuple[Predictor, ...] = ()

    def check(
        self, samples: Sequence[Sample], relaxation: Relaxation | None, energies: bool, reference: Reference | None
    ) -> None:
        """Refuse what cannot be judged, before anything runs.

        Raises:
            InputError: naming it and what it takes.
        """
        if self.control is not None and not any(n.startswith(PREFIX) for s in samples for n in s.columns):
            raise InputError("The crystals carry no targets that a --control could be held against; leave it out.")
        if self.bulk_modulus and relaxation is None:
            raise InputError("--bulk-modulus takes a potential; add --potential 7net-0.")
        hull = reference is not None and reference.num_entries > 0
        known = relaxation is not None or energies
        check_requirements(self.requirements, known, hull, self.bulk_modulus, self.predictors)

    def facts(self) -> dict[str, Any]:
        """Plain data for ``metrics.json``."""
        return {
            "control": None if self.control is None else str(self.control),
            "requirements": [r.text for r in self.requirements],
            "bulk_modulus": self.bulk_modulus,
            "predictors": {p.name: p.note for p in self.predictors},
        }


@dataclass(frozen=True)
class Answer:
    """Targets and requirements, answered.

    Attributes:
        metrics: ``adherence`` and ``requirements`` where there are any.
        missing: what could not be judged, with the reason.
        columns: further columns of the table of crystals, each target beside what was measured of it.
        rows: their values, one row per crystal.
        charts: for the report; see :func:`_chart`.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)


def judge_request(
    crystals: Sequence[Judged],
    arrays: Callable[[Judged], Arrays | None],
    control: tuple[Sequence[Judged], Callable[[Judged], Arrays | None]] | None,
    request: Request,
    relaxation: Relaxation | None,
) -> Answer:
    """Measure the crystals and hold them against their targets and the requirements.

    Args:
        arrays: the crystal that counts, relaxed or as given.
        control: the same two of the control.
    """
    relaxed = relaxation is not None
    used = measure(crystals, relaxed, request.predictors, arrays)
    potential = relaxation.potential if relaxation else None
    targets = read_targets(crystals)
    free = None
    if control is not None:
        free = control[0]
        measure(free, relaxed, used, control[1])
    found, missing, charts = {}, {}, []
    for asked in targets:
        how = how_measured(asked.name, relaxed, potential, used)
        if not any(asked.name in c.measured for c in crystals):
            missing[f"target {asked.column}"] = (
                "no crystal could be measured" if how and asked.name not in OF_ENERGIES else why_not(asked.name)
            )
            continue
        found[asked.name] = {"measured_by": how, **judge_targets(crystals, asked, free, relaxed)}
        charts.append(_chart(asked, found[asked.name], crystals, free))
    metrics: dict[str, Any] = {"adherence": found} if found else {}
    if request.requirements:
        metrics["requirements"] = judge_requirements(crystals, request.requirements)
        metrics["requirements"]["measured_by"] = {
            r.name: how_measured(r.name, relaxed, potential, used) for r in request.requirements
        }
        if not sun_is_known(crystals):
            missing["requirements among S.U.N. crystals"] = "stability and novelty take a reference and energies"
    columns, rows = _table(crystals, targets, request)
    return Answer(metrics, missing, columns, rows, charts)


def _table(
    crystals: Sequence[Judged], targets: Sequence[Asked], request: Request
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Each target with what was measured of it beside, then what the requirements and predictors are about."""
    rows: list[dict[str, Any]] = [{} for _ in crystals]
    for asked in targets:
        for row, crystal, target in zip(rows, crystals, asked.values, strict=True):
            measured = crystal.measured.get(asked.name)
            row[f"{PREFIX}{asked.column}"] = _plain(target)
            row[f"{ACHIEVED}{asked.column}"] = _plain(measured)
            if hits(asked.name, 0.0, 0.0) is not None:
                row[f"{HIT}{asked.column}"] = None if target is None else hits(asked.name, target, measured)
    answered = {asked.name for asked in targets}
    further = [*(r.name for r in request.requirements), *(p.name for p in request.predictors)]
    for name in dict.fromkeys(n for n in further if n not in answered):
        for row, crystal in zip(rows, crystals, strict=True):
            row[f"measured_{name}"] = _plain(crystal.measured.get(name))
    if request.requirements:
        for row, crystal in zip(rows, crystals, strict=True):
            row["meets_requirements"] = crystal.meets
    return tuple(rows[0]) if rows else (), rows


def _plain(value: Value) -> Any:
    """Whole numbers without a point."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e9 else value


def _chart(
    asked: Asked, found: dict[str, Any], crystals: Sequence[Judged], control: Sequence[Judged] | None
) -> dict[str, Any]:
    """Target against measured for a scalar, hit rates by target for what is hit or missed."""
    title = asked.name.replace("_", " ")
    if found["kind"] == "counted":
        shown = found.get("targets", [])
        return {
            "kind": "bars",
            "title": f"{title}: share that hit each target" + (" (line: control)" if control is not None else ""),
            "labels": [str(_plain(t["target"])) for t in shown],
            "ours": [round(t["hit"]["rate"], 5) for t in shown],
            "reference": None if control is None else [round(t["control"]["hit"]["rate"], 5) for t in shown],
        }
    pairs = [(t, c.measured.get(asked.name)) for c, t in zip(crystals, asked.values, strict=True) if t is not None]
    unit = f", {found['unit']}" if found["unit"] else ""
    return {
        "kind": "scatter",
        "title": f"{title}{unit}: measured against target" + (" (left: control)" if control is not None else ""),
        "points": [[float(t), round(float(v), 5)] for t, v in pairs if isinstance(v, int | float)],
        "control": None
        if control is None
        else [round(float(v), 5) for c in control if isinstance(v := c.measured.get(asked.name), int | float)],
    }


def answer_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Adherence and requirements as label and text, for the terminal and the headline of the report."""
    lines = []
    for name, value in found.get("adherence", {}).items():
        label = name.replace("_", " ")
        for key, what in (("hit", "as asked"), ("subset", "no other elements")):
            if key in value:
                text = f"{_percent(value[key])}, {value[key]['count']} of {value[key]['of']}"
                control = value.get("control", {}).get(key)
                lines.append((f"{label} {what}", text + (f"; control {_percent(control)}" if control else "")))
        if value["kind"] == "scalar" and value.get("of"):
            lines.append((f"{label}, error", _error_text(value)))
    required = found.get("requirements")
    if required:
        together = " and ".join(required["requirements"])
        lines.append((f"meets {together}", f"{_percent(required['all'])}, {required['all']['count']}"))
        for t, value in required.get("sun_and_all", {}).items():
            text = f"{_percent(value)}, {value['count']} of {value['of']} generated"
            lines.append((f"S.U.N. within {t} eV/atom and {together}", text))
        lines += [(f"{name} is measured", how) for name, how in required["measured_by"].items() if how]
    return lines


def _error_text(value: dict[str, Any]) -> str:
    text = (
        f"mean absolute {value['mae']:.3g} ({value['mae_low']:.3g} to {value['mae_high']:.3g}) {value['unit']}".rstrip()
    )
    text += f", bias {value['bias']:+.3g}"
    if "pearson" in value:
        text += f", correlation {value['pearson']:.2f}"
    text += f", {value['of']} of {value['crystals']} measured {value['measured_by']}"
    control = value.get("control", {})
    if control.get("of"):
        text += f"; control: error {control['mae']:.3g}, Wasserstein distance {control.get('wasserstein', 0.0):.3g}"
    return text


def _percent(value: dict[str, Any]) -> str:
    return f"{100 * value['rate']:.3g} % ({100 * value['low']:.3g} to {100 * value['high']:.3g})"


def target_table(found: dict[str, Any]) -> list[list[str]]:
    """Adherence target by target as rows of text: property, target, crystals, what came out, the control's."""
    rows = []
    for name, value in found.get("adherence", {}).items():
        for one in value.get("targets", []):
            rows.append(
                [name, str(_plain(one["target"])), str(one["crystals"]), _came_out(one), _came_out(one.get("control"))]
            )
    return rows


def _came_out(value: dict[str, Any] | None) -> str:
    if not value:
        return ""
    if "hit" in value:
        return _percent(value["hit"])
    if not value.get("of"):
        return "not measured"
    text = f"median {value['median']:.4g} ({value['q05']:.4g} to {value['q95']:.4g})"
    return f"{text}, error {value['mae']:.3g}" if "mae" in value else text


def budget_table(found: dict[str, Any]) -> list[list[str]]:
    """Counts per budget as rows of text below a row of headings; empty without requirements."""
    required = found.get("requirements")
    if not required or not required["budgets"]:
        return []
    names = [name for name in required["budgets"][0] if name != "crystals"]
    together = " and ".join(required["requirements"])
    heads = ["crystals", *(together if n == "all" else f"S.U.N. at {n.removeprefix('sun_')} too" for n in names)]
    return [heads, *([str(one["crystals"]), *(str(one[n]) for n in names)] for one in required["budgets"])]
