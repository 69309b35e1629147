"""``crystalsmith bench``: how fast a model runs here, and how far that is from what the machine can do."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from crystalsmith.cli import _options as options
from crystalsmith.cli._shared import examples, print_json
from crystalsmith.errors import InputError

EPILOG = examples(
    "crystalsmith bench",
    "crystalsmith bench --model base --batch-sizes 16,64 --no-train",
    "crystalsmith bench --device cuda --json > speed.json",
)


def bench(
    model: Annotated[
        str, typer.Option(help="A bundled model, a model folder, or tiny, small, base: fresh weights of that size.")
    ] = "mp20-tiny",
    batch_sizes: Annotated[str, typer.Option(metavar="N,N,..", help="Crystals at a time.")] = "16",
    precision: Annotated[str, typer.Option(help="Of the network's products: auto, float32 or bf16.")] = "auto",
    device: options.Device = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement; the median counts.")] = 5,
    train: Annotated[bool, typer.Option(help="Measure a training step too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Measure this machine: start-up, forward pass, training step, and a crystal from noise to file.

    The operations of the network's matrix products are counted and divided by the rate of such products, measured in
    the same run: that is the floor of each figure. The seconds of a crystal are those of ten steps, scaled to all.
    """
    sizes = _sizes(batch_sizes)
    from crystalsmith.bench.whole import bench as measure

    def tell(text: str) -> None:
        print(f"measuring: {text}", file=sys.stderr)

    result = measure(model, sizes, precision, device, repeats, train, tell)
    if as_json:
        print_json(result)
    else:
        print("\n".join(table(result)))


def table(result: dict[str, Any]) -> list[str]:
    """The figures as lines for a person."""
    m, start = result["machine"], result["start_up"]
    lines = [
        f"{result['model']}, {result['parameters'] / 1e6:.1f} M parameters, on {m['name']}, {m['threads']} threads",
        f"products    float32 {m['product_gflops_float32']:.0f}, bf16 {m['product_gflops_bf16']:.0f} GFLOP/s; "
        f"memory {m['bandwidth_gb_per_s']:.0f} GB/s",
        f"start-up    {start['total_s']:.1f} s: import {start['import_s']:.1f}, model {start['load_s']:.1f}, "
        f"first evaluation {start['first_step_s']:.1f}",
    ]
    for g in result["generation"]:
        lines.append(
            f"generation  {g['crystals']} crystals, {g['evaluations']} evaluations: {g['seconds_per_crystal']:.2f} s "
            f"per crystal, {1e3 * g['step_s']:.0f} ms a step, files {1e3 * g['writing_s'] / g['crystals']:.1f} ms each"
        )
    lines.append(f"{'':22}{'ms':>9}{'cpu ms':>9}{'GFLOP':>9}{'of floor':>10}{'crystals/s':>12}{'peak GB':>9}")
    for n in result["network"]:
        for name in ("forward", "train"):
            if name in n:
                r = n[name]
                lines.append(
                    f"{name + ' ' + n['precision']:16}{n['crystals']:>5} {1e3 * r['seconds']:>9.1f}"
                    f"{1e3 * r['processor_seconds']:>9.1f}{r['gflop']:>9.1f}"
                    f"{r['share_of_floor']:>10.2f}{r['crystals_per_second']:>12.1f}{r['peak_memory_gb']:>9.2f}"
                )
        if "edges" in n:
            lines.append(
                f"{'  neighbours':16}{n['crystals']:>5} {1e3 * n['neighbours_s']:>9.1f}   ({n['edges']} edges)"
            )
    if (busy := result["busy"]) is not None and busy > m["threads"] + 1:
        lines.append(f"The machine was busy (load {busy:.1f}); on a quiet one the times are shorter.")
    return lines


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--batch-sizes {text!r} is not a list of numbers; write for example 16,64.")
    return [int(part) for part in parts]
