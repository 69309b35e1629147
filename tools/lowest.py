"""The lowest version of each dependency that pyproject.toml allows, as pip constraints.

python tools/lowest.py [torch==2.13.0 ...]

A requirement that is named takes the place of the lowest: old builds of torch for a processor are on no usual index.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(instead: list[str]) -> list[str]:
    """Lines such as ``numpy==1.26`` for the requirements and extras that name a lowest version."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = {}
    for line in [*project["dependencies"], *extras["train"], *extras["evaluate"]]:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line)
        if match:
            found[match[1]] = match[2]
    named = {re.split(r"[^A-Za-z0-9_.-]", line)[0]: line for line in instead}
    return [named.get(name, f"{name}=={version}") for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
