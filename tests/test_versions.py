"""A file that an earlier version wrote is read: stored old files, and the chain that brings them up to date."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import crystalsmith
from crystalsmith.versions import up_to_date

STORED = Path(__file__).parent / "stored"


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    """A made-up second version: ``atoms`` was ``sites`` before."""
    document["atoms"] = document.pop("sites")
    return document


def doubled(document: dict[str, Any]) -> dict[str, Any]:
    """A made-up third: twice as many."""
    return document | {"atoms": 2 * document["atoms"]}


def test_updates_lead_from_each_version_to_the_next() -> None:
    chain = (renamed, doubled)
    now = {"format": "kind-3", "atoms": 8}
    assert up_to_date({"format": "kind-1", "sites": 4}, "kind", chain) == now
    assert up_to_date({"format": "kind-2", "atoms": 4}, "kind", chain) == now
    assert up_to_date(now, "kind", chain) == now
    old = {"format": 1, "sites": 4}
    assert up_to_date(old, "", chain) == now | {"format": 3}
    assert old == {"format": 1, "sites": 4}  # what was read stays as it was


@pytest.mark.parametrize("written", ["kind-4", "kind-0", "kind", "other-1", "kind-x", None, 1, "kind-1-1"])
def test_what_is_of_no_known_version_is_told(written: object) -> None:
    assert up_to_date({"format": written}, "kind", (renamed, doubled)) is None


@pytest.mark.parametrize("document", [None, [], "kind-1", 4])
def test_what_is_no_document_is_told(document: object) -> None:
    assert up_to_date(document, "kind", ()) is None
    assert up_to_date({"format": True}, "", ()) is None


def test_a_stored_model_is_read() -> None:
    from crystalsmith.checkpoints.model import Model

    config = json.loads((STORED / "model-1" / "config.json").read_text(encoding="utf-8"))
    assert Model.from_config(config, empty=True).metadata.name == "mp20-tiny"
    with pytest.raises(crystalsmith.InputError, match="format 99"):
        Model.from_config(config | {"format": 99}, empty=True)


def test_a_stored_generation_goes_on_and_is_judged(tmp_path: Path) -> None:
    from crystalsmith.generation.folder import OutputFolder

    folder = tmp_path / "old"
    shutil.copytree(STORED / "generation-1", folder)
    assert OutputFolder.open(folder).recover() == 2
    assert crystalsmith.evaluate(folder).metrics["metrics"]["requested"] == 2


def test_a_stored_reference_is_read() -> None:
    assert crystalsmith.reference(STORED / "reference-1").counts["structures"] == 12
