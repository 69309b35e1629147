"""A pretended accelerator: tensors that say ``cuda:0`` and compute on the CPU, to find what would break or wait there.

Within :func:`pretending`, every tensor that is made with, or moved to, the device ``cuda`` is a :class:`Pretended`:

- mixing it with a CPU tensor of one dimension or more raises :class:`Mixed`, as does indexing a CPU tensor by it;
- everything that would make the host wait for the device (``item``, ``tolist``, ``bool``, ``nonzero``, indexing by
  truth values, ``repeat_interleave`` without ``output_size``, ``bincount``, ``.cpu()`` ...) is counted with the line of
  this package that asked.

Within ``pretending(APPLE)`` the device is ``mps``, and a tensor of it that is float64 raises :class:`Lacking`.

It computes nothing differently, so results must be those of the CPU to the bit. It cannot know what the kernels of a
real device refuse, how fast they are, or how they round.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("cuda:0")
APPLE = torch.device("mps:0")

WAITS = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__len_of_nonzero__", "nonzero", "argwhere"),
    *("cpu", "numpy", "unique", "unique_consecutive", "masked_select", "bincount", "equal", "allclose", "__contains__"),
    *("is_nonzero", "__array__", "__repr__", "__format__"),
}
"""Functions after which the host knows a value or a size that only the device knew."""


class Mixed(Exception):
    """Tensors of two devices met."""


class Lacking(Exception):
    """The device has no such numbers."""


class Pretended(torch.Tensor):
    """A tensor that says that it is on the device."""

    where = DEVICE

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.where.type == "cuda"


class PretendedApple(Pretended):
    """A tensor that says that it is on Apple's device."""

    where = APPLE


class Watch(TorchFunctionMode):
    """Runs every function of torch on the CPU, and keeps the two devices apart.

    Attributes:
        waits: how often the host waited, by function and line.
        calls: how many functions ran on the device; views and what only reads a shape are not counted.
    """

    def __init__(self, device: torch.device = DEVICE) -> None:
        super().__init__()
        self.device = device
        self.waits: Counter[str] = Counter()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name == "_parse_to":  # of Module.to: what was named, not what is there
            return func(*args, **kwargs)
        if name == "__get__" or name.startswith("__get__"):
            owner = getattr(func, "__self__", None)
            asked = getattr(owner, "__name__", "")
            if asked in ("device", "is_cuda") and isinstance(args[0], (Pretended, torch.nn.Parameter)):
                return self.device if asked == "device" else self.device.type == "cuda"
        flat = tree_flatten((args, kwargs))[0]
        # A module keeps its parameter objects when it is moved; they count as moved.
        pretended = [x for x in flat if isinstance(x, (Pretended, torch.nn.Parameter))]
        target = self._target(name, args, kwargs)
        if pretended and target is None and name not in ("__set__", "backward"):
            # A tensor of the device may be indexed by one of the CPU, which is copied; not the other way round.
            taken = name in ("__getitem__", "__setitem__") and isinstance(args[0], Pretended)
            self._check(name, tree_flatten((args[0], args[2:]))[0] if taken else flat)
            self._count(name, args, kwargs)
            self.calls += name not in ("__get__", "size", "dim", "shape", "view", "__len__", "detach", "unsqueeze")
        elif pretended and target is not None and target.type == "cpu":
            self._wait(name)
        args, kwargs = tree_map_only(torch.device, self._on_cpu, (args, kwargs))
        args, kwargs = tree_map_only(str, lambda s: "cpu" if s.startswith(self.device.type) else s, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if name in ("cpu", "numpy", "tolist", "item"):
            return tree_map_only(Pretended, lambda x: x.as_subclass(torch.Tensor), result)
        here = target.type == self.device.type if target is not None else bool(pretended)
        if here:
            return tree_map_only(torch.Tensor, self.pretend, result)
        if target is not None:  # a parameter that went to the host is no longer the one that counts as moved
            result = tree_map_only(torch.nn.Parameter, lambda x: x.view_as(x), result)
        return tree_map_only(Pretended, lambda x: x.as_subclass(torch.Tensor), result)

    def _target(self, name: str, args: Any, kwargs: Any) -> torch.device | None:
        """The device that a call names, if it does."""
        named = kwargs.get("device")
        if named is None and name in ("to", "type_as"):
            for x in args[1:]:
                if isinstance(x, torch.device) or (
                    isinstance(x, str) and x in ("cpu", self.device.type, str(self.device))
                ):
                    named = x
                elif isinstance(x, torch.Tensor):
                    named = x.device
        if name == "cuda":
            named = self.device
        return None if named is None else torch.device(named)

    def _check(self, name: str, flat: list[Any]) -> None:
        for x in flat:
            plain = isinstance(x, torch.Tensor) and not isinstance(x, (Pretended, torch.nn.Parameter))
            if plain and x.dim() > 0 and x.device.type == "cpu":
                raise Mixed(f"{name} mixes the device with a CPU tensor of shape {tuple(x.shape)}, {_line()}")

    def _count(self, name: str, args: Any, kwargs: Any) -> None:
        if name in WAITS:
            self._wait(name)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            if any(isinstance(x, torch.Tensor) for x in args[1:]) or len(args) == 1:
                self._wait(name)
        elif name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in index):
                self._wait(f"{name} by truth values")
        elif name == "where" and len(args) == 1:
            self._wait(name)

    def pretend(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor on the device.

        Raises:
            Lacking: if Apple's device cannot hold it.
        """
        if self.device == APPLE and x.dtype in (torch.float64, torch.complex128):
            raise Lacking(f"{x.dtype} of shape {tuple(x.shape)} on mps, {_line()}")
        if isinstance(x, (Pretended, torch.nn.Parameter)):
            return x
        return x.as_subclass(PretendedApple if self.device == APPLE else Pretended)

    def _on_cpu(self, device: torch.device) -> torch.device:
        return torch.device("cpu") if device.type == self.device.type else device

    def _wait(self, name: str) -> None:
        self.waits[f"{name} {_line()}"] += 1


@contextmanager
def pretending(device: torch.device = DEVICE) -> Iterator[Watch]:
    """Within the block the device ``cuda``, or that of :data:`APPLE`, exists."""
    watch, before = Watch(device), torch.autograd.Function.__dict__["apply"]  # a class method, of Python or (2.14) of C

    def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
        result = before.__get__(None, cls)(*args, **kwargs)
        here = any(isinstance(x, Pretended) for x in tree_flatten((args, kwargs))[0])
        return tree_map_only(torch.Tensor, watch.pretend, result) if here else result

    torch.autograd.Function.apply = classmethod(applied)  # type: ignore[assignment, method-assign]
    try:
        with watch:
            yield watch
    finally:
        torch.autograd.Function.apply = before  # type: ignore[method-assign]


def _line() -> str:
    """The line of the package that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/crystalsmith/" in file:
            return f"{file.split('/crystalsmith/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of the package"
