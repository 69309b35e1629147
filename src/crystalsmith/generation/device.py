"""Where and in which precision the network runs, and how many crystals at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from crystalsmith.errors import InputError

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model
    from crystalsmith.generation.request import Request

PRECISIONS = ("auto", "float32", "bf16")

_BYTES_PER_EDGE_CHANNEL = 240
"""Peak memory per edge and channel: about 60 MB per crystal of the published size (530 edges, 512 wide), rounded up."""

_CPU_FLOPS_PER_CORE = {"float32": 8e10, "bf16": 2e11}
"""Sustained rate of one core (its products reach 95 and 470 GFLOP/s), for the estimate of a batch's duration only.

Too low a rate makes batches small, which costs: 4 crystals at a time in place of 32 take 2.6 times as long in bf16.
"""

_SECONDS_PER_BATCH = 60.0
_MAX_BATCH = {"cpu": 32, "cuda": 512, "mps": 128}


def choose_device(name: str, apple: bool = False) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` and so on; ``auto`` never takes ``mps``.

    Args:
        name: as the user wrote it.
        apple: whether what is to run there can do without float64, which ``mps`` lacks.

    Raises:
        InputError: if the machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name!r} is not a device; write auto, cpu, cuda or cuda:0.") from None
    if device.type == "mps":
        if not apple:
            raise InputError(f"--device {name}: only generate runs there, for the rest needs float64; write cpu.")
        if not torch.backends.mps.is_available():
            raise InputError(f"--device {name} is not on this machine, or its macOS is too old; try --device cpu.")
        return device
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; write auto, cpu, cuda or cuda:0.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                f"--device {name} is not on this machine, which has {count} CUDA devices; try --device cpu."
            )
    return device


def host_of(device: torch.device) -> torch.device:
    """Where crystals and noise live while the network runs on a device: there, or on the CPU beside ``mps``.

    Random numbers, rules on elements and symmetry are float64 in places, and cost little beside the network.
    """
    return torch.device("cpu") if device.type == "mps" else device


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices that ``cuda:0,cuda:1`` or ``cpu*2`` names, one for each process.

    Raises:
        InputError: if it names none.
    """
    devices: list[str] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(cpu|cuda(?::\d+)?)\s*(?:\*\s*(\d{1,3}))?\s*", part)
        if not found or found[2] == "0":
            raise InputError(f"--devices {text!r} is no list of devices; write for example cuda:0,cuda:1 or cpu*2.")
        devices += [found[1]] * int(found[2] or 1)
    return tuple(devices)


def choose_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bf16``; ``auto`` takes bf16 where the hardware multiplies it faster than float32.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in PRECISIONS:
        raise InputError(f"--precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    if device.type == "mps":
        if name == "bf16":
            raise InputError("--precision bf16 does not run on mps; leave it out, or write --device cpu.")
        return "float32"
    if name != "auto":
        return name
    return "bf16" if _fast_bf16(device) else "float32"


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def choose_batch_size(model: Model, request: Request, calls_per_step: int, device: torch.device) -> int:
    """A batch that fits into memory and, on a CPU, is done in about a minute; always a power of two.

    An estimate from the size of the network, not a measurement, so that the same request on the same machine is cut
    into the same batches.
    """
    parameters = sum(p.numel() for p in model.network.parameters())
    config = model.network.config
    edges = sum(config.edges(n) * w for n, w in request.num_atoms.items())
    memory = edges * config.width * _BYTES_PER_EDGE_CHANNEL
    limit = min(_MAX_BATCH[device.type], request.num, max(1, int(0.5 * _free_memory(device) / memory)))
    if device.type == "cpu":
        rate = _CPU_FLOPS_PER_CORE[request.sampling.precision] * torch.get_num_threads()
        seconds = 2 * parameters * edges * request.steps * calls_per_step / rate
        limit = min(limit, max(1, int(_SECONDS_PER_BATCH / seconds)))
    return 1 << (max(limit, 1).bit_length() - 1)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
