"""Scores of one network on the CPU and on a GPU: relative differences in float32, TF32 and bf16.

python benchmarks/gpu/agreement.py --json agreement.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from crystalsmith.bench.network import crystals
from crystalsmith.contracts import Scores
from crystalsmith.network.denoiser import PRESETS, GemNetDenoiser


def differences(one: Scores, other: Scores) -> dict[str, float]:
    """Relative L2 difference of each output."""
    result = {}
    for name in ("frac_coords", "cell", "species_logits"):
        a, b = getattr(one, name).double().cpu(), getattr(other, name).double().cpu()
        result[name] = float((a - b).norm() / b.norm())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    args = parser.parse_args()
    batch = crystals(32)
    t = torch.linspace(0.02, 1.0, 32)
    report = {}
    for model in ("tiny", "base"):
        torch.manual_seed(0)
        network = GemNetDenoiser(PRESETS[model]).eval()
        with torch.no_grad():
            reference = network(batch, t)
            network = network.to(args.device)
            on_device = batch.to(args.device), t.to(args.device)
            for precision in ("float32", "tf32", "bf16"):
                torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
                with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=precision == "bf16"):
                    report[f"{model} {precision}"] = differences(network(*on_device), reference)
    for name, row in report.items():
        print(f"{name:14s}", "  ".join(f"{field} {value:.2e}" for field, value in row.items()))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
