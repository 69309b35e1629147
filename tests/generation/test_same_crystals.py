"""Crystal i of a request with a seed is the same crystal in every version: fingerprints of 500 of them are on record.

Each source of plans, each solver and each way of steering stands in one case. ``same_crystals.json`` was recorded by
``python tests/generation/test_same_crystals.py`` and changes only when what is drawn is meant to change, which the
changelog then says.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from crystalsmith.checkpoints.find import load_model
from crystalsmith.checkpoints.model import Model
from crystalsmith.crystals import CrystalBatch
from crystalsmith.formats import extxyz_frame
from crystalsmith.generation.making import make_request
from crystalsmith.generation.sampler import sample_batch
from crystalsmith.generation.steering import Steering

RECORD = Path(__file__).with_name("same_crystals.json")
NUM = 16
CPU = torch.device("cpu")

ROCKSALT = (
    [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
    [[5.64, 0, 0], [0, 5.64, 0], [0, 0, 5.64]],
    [11] * 4 + [17] * 4,
)
WURTZITE = (
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
    [[3.25, 0, 0], [-1.625, 2.8146, 0], [0, 0, 5.2]],
    [30, 30, 8, 8],
)
STARTS = (ROCKSALT, WURTZITE)
TARGETS = {"band_gap": "0.5..3", "bulk_modulus": "10,100,400", "chemical_system": "Li-Fe-O,Na-Cl"}

CASES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    # name: model, values of the request, steering
    "free": ("mp20-tiny", {}, {"space_group": "free"}),
    "own": ("mp20-tiny", {"seed": 2**40 + 1}, {}),
    "sizes": ("mp20-tiny", {"num_atoms": "4-9"}, {"space_group": "free"}),
    "histogram": ("mp20-tiny", {"num_atoms": {2: 1.0, 5: 3.0, 30: 1.0}}, {"space_group": "free"}),
    "one step": ("mp20-tiny", {"steps": 1}, {"space_group": "free"}),
    "temperature": ("mp20-tiny", {"temperature": 0.3}, {"space_group": "free"}),
    "system": ("mp20-tiny", {"num_atoms": "3-8"}, {"chemical_system": "Li-Fe-O", "require_all": True}),
    "rules": ("mp20-tiny", {}, {"deny": "O,F", "require": "Si", "space_group": "free"}),
    "formula": ("mp20-tiny", {}, {"formula": "LiFePO4", "formula_units": "1-2", "space_group": "free"}),
    "formula, symmetric": ("mp20-tiny", {}, {"formula": "SrTiO3"}),
    "cubic": ("mp20-tiny", {"num_atoms": "2-10"}, {"space_group": "cubic"}),
    "two groups": ("mp20-tiny", {}, {"space_group": "62,225", "require": "O"}),
    "template": ("mp20-tiny", {}, {"templates": "rocksalt.extxyz"}),
    "compositions": ("mp20-tiny", {}, {"compositions": ["NaCl", "Li4Fe4P4O16", "Si2"], "samples": 5}),
    "compositions, free": ("mp20-tiny", {}, {"compositions": ["Na2Cl2", "TiO2"], "space_group": "free"}),
    "predicted": ("mp20-csp", {}, {"compositions": ["NaCl", "SrTiO3", "Si2"], "samples": 5}),
    "predicted, free": ("mp20-csp", {}, {"formula": "TiO2", "space_group": "free"}),
    "relatives": ("mp20-tiny", {"steps": 6}, {"start_from": STARTS}),
    "doped": ("mp20-tiny", {}, {"start_from": STARTS, "fix_cell": True, "fix_sites": "0-2", "require": "Al"}),
    "more atoms": ("mp20-tiny", {"num_atoms": 9}, {"start_from": STARTS[:1], "fix_sites": "0-7", "fix_cell": True}),
    "elements kept": ("mp20-tiny", {"steps": 12}, {"start_from": STARTS, "fix_elements": True, "resample": 2}),
    "predicted, started": ("mp20-csp", {"steps": 6}, {"start_from": STARTS, "strength": 0.6}),
    "guided": ("conditional", {"steps": 2}, {"properties": TARGETS}),
    "guided, apart": (
        "conditional",
        {"steps": 2},
        {"properties": {"band_gap": "1,2", "bulk_modulus": "50"}, "guidance": {"band_gap": 3.0, "bulk_modulus": 0.5}},
    ),
    "guided, at times": (
        "conditional",
        {},
        {"properties": {"space_group": "62,225,2"}, "guidance_interval": "0.3..0.8"},
    ),
    # From t = 1, one step for the whole batch and neighbours at equal distances leave nothing alike elsewhere.
    "published": ("mp20-tiny", {"solver": "published", "steps": 6}, {"start_from": STARTS}),
    "ancestral": ("mp20-tiny", {"solver": "ancestral"}, {}),
    "multistep": ("mp20-tiny", {"solver": "multistep"}, {}),
    "multistep, settings": ("mp20-tiny", {"solver": "multistep,churn=0.5,confidence=1,remask=0.5"}, {}),
    "heun": ("mp20-tiny", {"solver": "heun,confidence=0.5"}, {}),
    "corrected at times": ("mp20-tiny", {"solver": "predictor_corrector,corrector_every=2,snr_cell=0.1"}, {}),
    "resampled": (
        "mp20-tiny",
        {"solver": "multistep", "steps": 14},
        {"start_from": STARTS[1:], "fix_cell": True, "resample": 2},
    ),
}


def sample(case: str, find: dict[str, Model], folder: Path) -> CrystalBatch:
    """The crystals of a case."""
    name, values, steering = CASES[case]
    if "templates" in steering:
        file = folder / str(steering["templates"])
        frac, cell, numbers = ROCKSALT
        file.write_text(extxyz_frame(np.array(frac), np.array(cell), np.array(numbers), {}))
        steering = steering | {"templates": str(file)}
    num = 15 if "samples" in steering else NUM
    request = make_request(find[name], num=num, **({"steps": 3} | values), steering=Steering(**steering))
    return sample_batch(find[name], request.sampling, request.plans(range(min(num, NUM))), CPU)


def fingerprints(batch: CrystalBatch) -> list[list[object]]:
    """Of each crystal: its elements in the order of its atoms, volume in cubic angstrom, a sum over its sites."""
    found: list[list[object]] = []
    for frac, cell, numbers in batch.crystals():
        volume = abs(float(torch.det(torch.as_tensor(cell))))
        turns = 2 * math.pi * torch.as_tensor(frac) * torch.tensor([1.0, 2.0, 3.0])
        weights = torch.arange(1, len(numbers) + 1)
        places = float((turns.sin().sum(-1) * weights).sum() / weights.sum())
        found.append(["-".join(str(int(z)) for z in numbers), round(volume, 3), round(places, 4)])
    return found


@pytest.fixture(scope="module")
def models(conditional: Path) -> dict[str, Model]:
    return {name: load_model(name) for name in ("mp20-tiny", "mp20-csp")} | {"conditional": load_model(conditional)}


@pytest.mark.parametrize("case", CASES)
def test_the_crystals_of_a_seed_are_those_on_record(case: str, models: dict[str, Model], tmp_path: Path) -> None:
    found = fingerprints(sample(case, models, tmp_path))
    expected = json.loads(RECORD.read_text())[case]
    # Rounding of sums in another order grows over the steps; on another processor it decides draws of a few crystals.
    alike = [
        one[0] == other[0] and one[1:] == [pytest.approx(other[1], rel=2e-3), pytest.approx(other[2], abs=5e-3)]
        for one, other in zip(found, expected, strict=True)
    ]
    assert sum(alike) >= 0.75 * len(alike), [index for index, same in enumerate(alike) if not same]


def _record() -> None:
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import conditional, untrained  # type: ignore[import-not-found]

    class Factory:
        def mktemp(self, name: str) -> Path:
            return Path(tempfile.mkdtemp())

    base = untrained.__wrapped__(Factory())
    find = {name: load_model(name) for name in ("mp20-tiny", "mp20-csp")}
    find["conditional"] = load_model(conditional.__wrapped__(base, Factory()))
    record, exact = {}, {}
    for case in CASES:
        batch = sample(case, find, Path(tempfile.mkdtemp()))
        record[case] = fingerprints(batch)
        data = b"".join(x.numpy().tobytes() for x in (batch.frac_coords, batch.cell, batch.atomic_numbers))
        exact[case] = hashlib.sha256(data).hexdigest()
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(rows)}" for case, rows in record.items())
    RECORD.write_text("{\n" + lines + "\n}\n")
    print(json.dumps(exact, indent=1))


if __name__ == "__main__":
    _record()
