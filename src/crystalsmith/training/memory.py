"""Training in little memory: activations made again instead of kept, and freed blocks given back."""

from __future__ import annotations

import sys

import torch

from crystalsmith.network.predictor import PropertyNetwork
from crystalsmith.network.registry import Network

_OWN_MAPPING = 2**20  # bytes


def spare_memory(network: Network | PropertyNetwork, device: torch.device) -> None:
    """Let a network keep only what enters its blocks, and this process only what it uses (``checkpoint_activations``).

    The second matters on Linux, for the rest of the process. Torch asks for aligned blocks; glibc cuts off what the
    alignment leaves over, and the hole that a freed block leaves is then too small for the next one of its size. With
    blocks of 8 to 32 MB most of what checkpointing frees was never used again. A mapping of its own for each large
    block goes back to the system when it is freed, for the time that new pages take.
    """
    network.checkpoint_activations = True
    if device.type == "cpu" and sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(-3, _OWN_MAPPING)  # M_MMAP_THRESHOLD of malloc.h; setting it also ends its growth
