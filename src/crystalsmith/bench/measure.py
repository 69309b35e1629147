"""Stop-watch, rates of the machine, and counters of operations and bytes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_COPIED = 1 << 27  # bytes, far beyond the caches


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median wall time of ``function`` after one warm-up call."""
    return wall_and_processor(function, repeats, device)[0]


def wall_and_processor(function: Callable[[], Any], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median wall time, and median processor time of all threads, which a busy machine changes little."""
    times = []
    for _ in range(repeats + 1):
        start, used = time.perf_counter(), time.process_time()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start, time.process_time() - used))
    wall, processor = zip(*times[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


def product_rate(width: int, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of the product (rows, width) x (width, width)."""
    a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, width, device=device).to(dtype)
    count = max(1, round(2e9 / (2.0 * rows * width * width)))  # long enough for the clock
    seconds = median_seconds(lambda: [a @ b for _ in range(count)], 7, device) / count
    return 2.0 * rows * width * width / seconds


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy between two places in memory reads and writes."""
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * _COPIED / median_seconds(lambda: target.copy_(source), 5, device)


def count_work(function: Callable[[], Any]) -> tuple[float, float]:
    """Floating-point operations of the matrix products of one call, and bytes that all its other operations touch.

    The bytes are those of every tensor that an operation reads and writes, views left out: what would go through memory
    if no cache kept anything.
    """
    traffic = _Traffic()
    with FlopCounterMode(display=False) as flops, traffic:
        function()
    return float(flops.get_total_flops()), float(traffic.bytes)


_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _PRODUCTS and not name.startswith("empty"):
            tensors = (x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor))
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return result


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement of :func:`peak_memory`, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Most bytes held at once: on a GPU by tensors since :func:`reset_peak`, on a CPU by the whole process so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)
