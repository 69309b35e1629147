"""A model: network, corruption process and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from crystalsmith.contracts import Denoiser
from crystalsmith.diffusion.process import Process, ProcessConfig
from crystalsmith.elements import ALLOWED
from crystalsmith.errors import InputError
from crystalsmith.network.layers import empty_weights
from crystalsmith.network.registry import Network, build_network, network_config, network_dict
from crystalsmith.versions import Update, up_to_date

UPDATES: tuple[Update, ...] = ()
"""From each earlier layout of ``config.json`` to the next."""

FORMAT = 1 + len(UPDATES)
"""Version of the layout of ``config.json``."""

PUBLISHED_NUM_ATOMS: dict[int, float] = {
    1: 0.0002303828963737732,
    2: 0.002804088967292211,
    3: 0.019342289742695216,
    4: 0.1636343889258233,
    5: 0.04668051158167732,
    6: 0.07808005476530565,
    7: 0.027247714272549548,
    8: 0.1150400537121267,
    9: 0.048984340545415055,
    10: 0.12620539622566992,
    11: 0.03577352703049611,
    12: 0.14591300741832927,
    13: 0.0060031200426537475,
    14: 0.028628366058675234,
    15: 0.02022761830161729,
    16: 0.04473213051520198,
    17: 0.0013033089566287742,
    18: 0.038699389814443035,
    19: 0.0070135136024644384,
    20: 0.04345679662456145,
}
"""Distribution of the number of atoms that the published sampler draws from (Alex-MP-20)."""

SAMPLING: Mapping[str, Any] = {"solver": "predictor_corrector", "steps": 200, "remask": 1.0}
"""Defaults of a model trained here: the best point of the curve in docs/speed.md."""


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is, beside its network and process.

    Attributes:
        name: short name.
        elements: atomic numbers that may appear in results.
        num_atoms_histogram: number of atoms -> probability (normalised on use).
        sampling: default ``solver``, ``steps`` and ``temperature`` of the species, and settings of the solver.
        training: free-form facts (data, hours, crystals seen, losses).
        licence: of the weights.
        properties: of each property it is conditioned on, what its labels were: kind, unit, count, min, max, ...
    """

    name: str = "unnamed"
    elements: tuple[int, ...] = tuple(sorted(ALLOWED))
    num_atoms_histogram: Mapping[int, float] = field(default_factory=lambda: dict(PUBLISHED_NUM_ATOMS))
    sampling: Mapping[str, Any] = field(default_factory=lambda: dict(SAMPLING))
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "MIT"
    properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        data = asdict(self)
        data["num_atoms_histogram"] = {str(n): p for n, p in self.num_atoms_histogram.items()}
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ModelMetadata:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: if a key is unknown or an entry is not what it should be.
        """
        if unknown := sorted(set(data) - {f.name for f in fields(ModelMetadata)}):
            raise InputError(f"Unknown entry '{unknown[0]}' in the model's metadata.")
        data = dict(data)
        try:
            if "elements" in data:
                data["elements"] = tuple(int(z) for z in data["elements"])
            if "num_atoms_histogram" in data:
                histogram = {int(n): float(p) for n, p in data["num_atoms_histogram"].items()}
                data["num_atoms_histogram"] = histogram
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"The model's metadata cannot be read ({error}); the file is damaged.") from None
        return ModelMetadata(**data)


class Model:
    """A denoising network with the process it was trained for.

    Attributes:
        network: the bare network; its cell output is not preconditioned.
        process: corruption process.
        metadata: name, elements, defaults.
    """

    def __init__(self, network: Network, process: Process, metadata: ModelMetadata | None = None) -> None:
        self.network = network
        self.process = process
        self.metadata = metadata or ModelMetadata()

    @property
    def denoiser(self) -> Denoiser:
        """The network with the process's preconditioning: what solvers and losses call."""
        return self.process.precondition(self.network)

    def config_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain data."""
        return {
            "format": FORMAT,
            "network": network_dict(self.network.config),
            "process": self.process.config.to_dict(),
            "metadata": self.metadata.to_dict(),
        }

    @staticmethod
    def from_config(data: Mapping[str, Any], empty: bool = False) -> Model:
        """A model with fresh weights from :meth:`config_dict`.

        Args:
            data: what :meth:`config_dict` gave.
            empty: build no weights at all (on torch's meta device), for those that are read from a file at once.

        Raises:
            InputError: if the layout is newer than this code or something in it is unknown.
        """
        now = up_to_date(data, "", UPDATES)
        if now is None:
            raise InputError(f"The model's config.json has format {data.get('format')!r}; this version reads {FORMAT}.")
        data = now
        try:
            config = network_config(data.get("network", {}))
            with empty_weights() if empty else nullcontext():
                module = build_network(config)
            return Model(
                module,
                Process(ProcessConfig.from_dict(data.get("process", {}))),
                ModelMetadata.from_dict(data.get("metadata", {})),
            )
        except InputError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"The model's config.json cannot be used ({reason}); the file is damaged.") from None
