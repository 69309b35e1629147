"""The recipe that training tests start from."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def small_recipe() -> dict[str, Any]:
    """A recipe whose network trains in milliseconds; tests change what they are about."""
    return {
        "name": "test",
        "model": {
            "preset": "tiny",
            "width": 16,
            "num_blocks": 1,
            "cutoff": 4.0,
            "max_neighbors": 8,
            "num_radial": 8,
            "num_spherical": 3,
            "width_triplet": 8,
            "width_bilinear": 8,
            "width_rbf": 4,
            "width_cbf": 4,
        },
        "data": {"batch_size": 8, "num_workers": 0},
        "limits": {"max_epochs": None, "max_steps": 6},
        "validation": {"every_epochs": None, "every_steps": 3},
        "hardware": {"accelerator": "cpu"},
        "output": {"log_every_steps": 2},
    }
