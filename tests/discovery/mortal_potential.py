"""The effective medium theory in a worker that dies with its first task, once for each mark that ``DEATHS`` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def make() -> object:
    """A calculator that ends its process unless the mark is there."""
    from ase.calculators.emt import EMT

    class Mortal(EMT):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            mark = Path(os.environ["DEATHS"])
            if not mark.exists():
                mark.touch()
                os._exit(1)
            super().calculate(*args, **kwargs)

    return Mortal()
