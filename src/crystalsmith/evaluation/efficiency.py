"""What crystals cost: to make and to judge, for each one and for each that is stable, unique and novel."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from crystalsmith.evaluation.conventions import METASTABLE
from crystalsmith.evaluation.judged import Judged

NOT_TOLD = "the crystals came without a manifest of crystalsmith generate"


def efficiency(
    crystals: Sequence[Judged], manifest: Mapping[str, Any] | None, seconds: float, relaxed: bool
) -> dict[str, Any]:
    """The costs of a set.

    Args:
        manifest: of the run that made the crystals; None for those of others.
        seconds: wall time of this evaluation so far; what an earlier one had relaxed is in ``relaxation_seconds``.
        relaxed: whether a potential was asked.

    Returns:
        ``generation`` (None where it is not known), ``judging``, and ``per_msun``: what one crystal costs that is
        unique, novel and at most 0.1 eV/atom above the hull, with ``msun_per_processor_hour`` of generation.
    """
    made = _generation(manifest)
    judging: dict[str, Any] = {"seconds": round(seconds, 3), "peak_memory_mib": peak_memory_mib()}
    if relaxed:
        spent = sum(c.seconds or 0.0 for c in crystals)
        calls = sum(c.steps + 1 for c in crystals if c.steps is not None)
        judging |= {"relaxation_seconds": round(spent, 3), "energy_calls": calls}
        judging["per_crystal"] = _each({"relaxation_seconds": spent, "energy_calls": calls}, len(crystals))
    hits = sum(c.stable(METASTABLE) and c.new for c in crystals)
    found: dict[str, Any] = {"generation": made, "judging": judging}
    if made is None:
        found["note"] = f"What making them cost is not known: {NOT_TOLD}."
    if any(c.energy_above_hull is not None for c in crystals) and any(c.novel is not None for c in crystals):
        found["per_msun"] = {"crystals": hits, **_per_hit(made, judging, hits, len(crystals))}
    return found


def _generation(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Sums over the sessions of a run; what a killed session took is told by its batches alone."""
    if not manifest or not isinstance(manifest.get("sessions"), list):
        return None
    try:
        sessions = [s for s in manifest["sessions"] if "seconds" in s]
        made = int(manifest["counts"]["finished"])
        sampling = sum(float(batch[2]) for batch in manifest["batches"])
        wall = sum(float(s["seconds"]) for s in sessions)
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    if not made:
        return None
    processor = [s.get("processor_seconds") for s in sessions]
    whole = len(sessions) == len(manifest["sessions"])
    found: dict[str, Any] = {
        "crystals": made,
        "sampling_seconds": round(sampling, 3),
        "seconds": round(wall, 3) if whole else None,
        "processor_seconds": round(sum(processor), 3) if whole and None not in processor else None,
        "device": sorted({str(s.get("machine") or s.get("device")) for s in manifest["sessions"]}),
        "network_evaluations": manifest.get("network_evaluations"),
        "parameters": manifest.get("model", {}).get("parameters"),
        "peak_memory_mib": max((s.get("peak_memory_mib") or 0 for s in sessions), default=0) or None,
    }
    return found | {"per_crystal": _each({"sampling_seconds": sampling}, made)}


def _per_hit(made: dict[str, Any] | None, judging: dict[str, Any], hits: int, total: int) -> dict[str, Any]:
    costs = {f"judging_{k}": judging[k] for k in ("relaxation_seconds", "energy_calls") if k in judging}
    if made is not None:
        # A run may have gone on after so many were judged.
        share = total / made["crystals"]
        costs["generation_sampling_seconds"] = made["sampling_seconds"] * share
        if made["network_evaluations"]:
            costs["network_evaluations"] = made["network_evaluations"] * total
    found: dict[str, Any] = {name: round(value / hits, 3) if hits else None for name, value in costs.items()}
    if made is not None and made["processor_seconds"]:
        hours = made["processor_seconds"] * total / made["crystals"] / 3600
        found["msun_per_processor_hour"] = round(hits / hours, 2)
    return found


def _each(costs: dict[str, float], number: int) -> dict[str, float | None]:
    return {name: round(value / number, 4) if number else None for name, value in costs.items()}


def peak_memory_mib() -> int | None:
    """The most memory that this process, or one of its finished children, has held; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))
