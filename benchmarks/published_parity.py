"""Measured differences between this code and recorded numbers of the published code, as the table of docs/parity.md.

    CRYSTALSMITH_SHARED=../shared python benchmarks/published_parity.py

Every figure is a relative difference (L2 norm of the difference over the L2 norm of the reference), the worst over all
recorded times. Formula weights need no reference checkpoints, see tests/formula.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from crystalsmith.checkpoints.published.ckpt_file import locate
from crystalsmith.checkpoints.published.mattergen import load_published
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.guidance import allow_elements, bind_conditions
from crystalsmith.elements import ALLOWED
from crystalsmith.network.conditioning import ConditionConfig
from crystalsmith.network.denoiser import DenoiserConfig, GemNetDenoiser
from crystalsmith.network.gemnet import GemNetConfig

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ("pos", "cell", "atomic_numbers")


def read(path: Path) -> dict[str, Tensor]:
    """All arrays of a file."""
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def relative(actual: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of the reference."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def differences(network: object, file: dict[str, Tensor], dtype: torch.dtype, prefix: str) -> list[float]:
    """Worst relative difference of each output over all recorded times."""
    batch = CrystalBatch(file["pos"], file["cell"], file["atomic_numbers"], file["num_atoms"]).to(dtype=dtype)
    conditions = {
        name.removeprefix(prefix): values.to(dtype).view(-1).masked_fill(file["use_unconditional"].view(-1), torch.nan)
        for name, values in file.items()
        if name.startswith(prefix)
    }
    worst = [0.0, 0.0, 0.0]
    for time in sorted({name.split("/")[0] for name in file if name.startswith("t=")}):
        with torch.no_grad():
            scores = network(batch, file[f"{time}/t"].to(dtype), conditions)  # type: ignore[operator]
        found = zip((scores.frac_coords, scores.cell, scores.species_logits), OUTPUTS, strict=True)
        worst = [max(w, relative(x, file[f"{time}/out.{n}"])) for w, (x, n) in zip(worst, found, strict=True)]
    return worst


def row(title: str, values: list[float]) -> None:
    """One line of the table."""
    print(f"| {title} | " + " | ".join(f"{value:.1e}" for value in values) + " |", flush=True)


def checkpoints(golden: Path) -> None:
    """Reference checkpoints of width 32."""
    for path in sorted((golden / "arrays").glob("model_ckpt_*.npz")):
        title = path.stem.removeprefix("model_ckpt_")
        dtype = torch.float64 if title.endswith("f64") else torch.float32
        name = next(n for n in ("small_basecond_bandgap", "small_base", "small_mag") if title.startswith(n))
        model = load_published(*locate(golden / "checkpoints" / name))[0].model
        network = model.network.to(dtype)
        denoiser = allow_elements(network, ALLOWED) if "elementmask" in title else network
        row(title.replace("_", " "), differences(denoiser, read(path), dtype, "prop."))


def guidance(golden: Path) -> None:
    """Guided scores of the magnetic reference checkpoint."""
    file = read(golden / "arrays" / "cfg_small_mag.npz")
    model = load_published(*locate(golden / "checkpoints" / "small_mag_o1"))[0].model
    batch = CrystalBatch(*(file[f"in.{name}"] for name in (*OUTPUTS, "num_atoms")))
    values = {"dft_mag_density": file["in.dft_mag_density"].view(-1)}
    for factor in (0.0, 0.5, 1.0, 2.0):
        worst = [0.0, 0.0, 0.0]
        for time in (0.3, 1.0):
            t = torch.full((len(batch),), time)
            with torch.no_grad():
                scores = bind_conditions(model.denoiser, values, factor)(batch, t)
            std = model.process.coordinates.std(t, batch.num_atoms)[batch.batch_index].unsqueeze(-1)
            cell = scores.cell / model.process.cell.std(t, batch.num_atoms)
            found = zip((scores.frac_coords / std, cell, scores.species_logits), OUTPUTS, strict=True)
            title = f"guidance={factor}/t={time}/score"
            worst = [max(w, relative(x, file[f"{title}.{n}"])) for w, (x, n) in zip(worst, found, strict=True)]
        row(f"guided scores, factor {factor:g}, float32", worst)


def formula_weights(golden: Path, formula: ModuleType) -> None:
    """Networks whose weights are a formula of their names, full size included."""
    small = GemNetConfig(width=32, num_blocks=2, edge_rule="published")
    configs = {
        "small_base": DenoiserConfig(small),
        "small_mag": DenoiserConfig(small, (ConditionConfig("dft_mag_density"),)),
        "full_base": DenoiserConfig(GemNetConfig(edge_rule="published")),
    }
    for name, config in configs.items():
        network: GemNetDenoiser = formula.formula_model(config).network
        for suffix, dtype in (("f32", torch.float32), ("f64", torch.float64)):
            file = read(golden / "formula" / f"{name}_{suffix}.npz")
            title = f"formula weights, {name.replace('_', ' ')}, {suffix}"
            row(title, differences(network.to(dtype), file, dtype, "in."))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=os.environ.get("CRYSTALSMITH_SHARED", ROOT.parent / "shared"))
    golden = Path(parser.parse_args().shared) / "golden"
    spec = importlib.util.spec_from_file_location("formula", ROOT / "tests" / "formula.py")
    assert spec is not None
    assert spec.loader is not None
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    print("| case | coordinates | cell | element logits |\n|---|---|---|---|")
    checkpoints(golden)
    guidance(golden)
    formula_weights(golden, formula)


if __name__ == "__main__":
    main()
