"""A potential that takes its time, for tests that kill what uses it."""

from __future__ import annotations

import time
from typing import Any

from ase.calculators.emt import EMT


class Slow(EMT):
    """Effective medium theory at 50 ms a call."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        super().calculate(*args, **kwargs)
