"""What is asked for: how many crystals, by which solver, in which numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crystalsmith.errors import InputError
from crystalsmith.generation.num_atoms import Histogram, check_histogram, parse_num_atoms

if TYPE_CHECKING:
    from crystalsmith.checkpoints.model import Model

DEFAULT_SOLVER = "predictor_corrector"
DEFAULT_STEPS = 500
MAX_CRYSTALS = 2**32
"""Crystal indices take one word of the random stream's counter."""

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Request:
    """A request for crystals; with the model, it decides every one of them.

    Attributes:
        num: how many crystals.
        seed: crystal i is a function of (seed, i).
        num_atoms: number of atoms to probability, summing to 1.
        solver: a name in ``diffusion.solvers.SOLVERS``.
        steps: number of denoising steps.
        precision: ``float32`` or ``bf16``, of the network's products.
        solver_settings: further keywords of the solver, as in the model's defaults.
    """

    num: int
    seed: int
    num_atoms: Histogram
    solver: str
    steps: int
    precision: str
    solver_settings: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"num_atoms": {str(n): w for n, w in self.num_atoms.items()}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Request:
        """The request that :meth:`to_dict` wrote."""
        fields = {f.name: values[f.name] for f in dataclasses.fields(Request)}
        return Request(**fields | {"num_atoms": {int(n): float(w) for n, w in values["num_atoms"].items()}})


def make_request(
    model: Model,
    *,
    num: int = 16,
    seed: int = 0,
    num_atoms: int | str | Mapping[int, float] | None = None,
    solver: str | None = None,
    steps: int | None = None,
    precision: str = "float32",
) -> Request:
    """A checked request; what is None comes from the model.

    Raises:
        InputError: if a value cannot be used.
    """
    from crystalsmith.diffusion.solvers import SOLVERS

    own = dict(model.metadata.num_atoms_histogram)
    if num_atoms is None:
        histogram = check_histogram(own, f"the model {model.metadata.name}")
    elif isinstance(num_atoms, Mapping):
        histogram = check_histogram({int(n): float(w) for n, w in num_atoms.items()}, "num_atoms")
    else:
        histogram = parse_num_atoms(str(num_atoms), own)
    defaults = model.metadata.sampling
    own_solver = str(defaults.get("solver", DEFAULT_SOLVER))
    solver = solver or own_solver
    steps = int(defaults.get("steps", DEFAULT_STEPS)) if steps is None else steps
    if solver not in SOLVERS:
        raise InputError(f"There is no solver named {solver!r}; choose one of {', '.join(sorted(SOLVERS))}.")
    bounds = (("num", num, 1, MAX_CRYSTALS), ("steps", steps, 1, 10**6), ("seed", seed, 0, MAX_SEED))
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise InputError(f"--{name} is {value}; give a whole number from {low} to {high}.")
    # The model's settings were chosen for its own solver and mean nothing to another.
    extra = {k: v for k, v in defaults.items() if k not in ("solver", "steps")} if solver == own_solver else {}
    return Request(num, seed, histogram, solver, steps, precision, extra)
