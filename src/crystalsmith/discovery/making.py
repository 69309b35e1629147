"""From proposals to crystals: the model within a space group or free, known crystals as they are or made anew."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalsmith.discovery.known import Known
from crystalsmith.discovery.proposals import ARRANGEMENTS, KEEPS_ELEMENTS, Proposal, start_of
from crystalsmith.discovery.wish import Wish
from crystalsmith.errors import InputError
from crystalsmith.evaluation.matching import Arrays

if TYPE_CHECKING:
    import torch

    from crystalsmith.checkpoints.model import Model
    from crystalsmith.generation.plans.plan import Plan
    from crystalsmith.generation.request import Request

BATCH = 8
"""Crystals of one kind of proposal at a time."""

Made = tuple[Proposal, Arrays | None, str, float]
"""Proposal, crystal, why there is none, seconds."""


class Maker:
    """The model and the known crystals, ready to make proposals.

    Args:
        device: where the model runs.
    """

    def __init__(self, model: Model, wish: Wish, known: Known | None, device: torch.device) -> None:
        self.wish, self.known, self.device = wish, known, device
        self._allotted: list[Plan] = []
        self.take(model)

    def take(self, model: Model) -> None:
        """Go on with another model."""
        self.model = model
        model.network.to(self.device).eval()

    def make(self, proposals: Sequence[Proposal], done: Collection[int] = ()) -> Iterator[Made]:
        """Each proposal's crystal, as it is made; those of one kind together.

        Args:
            proposals: of a whole round, so that the same ones are made together whatever is done already: sums of
                floating-point numbers depend on the batch.
            done: numbers of those that are not wanted again.
        """
        for made in self._all(proposals, done):
            if made[0].number not in done:
                yield made

    def _all(self, proposals: Sequence[Proposal], done: Collection[int]) -> Iterator[Made]:
        groups: dict[Any, list[Proposal]] = {}
        for one in proposals:
            if one.failure:
                yield one, None, one.failure, 0.0
            elif one.strength == 0.0:
                began = time.perf_counter()
                assert self.known is not None
                arrays = start_of(one, self.known)
                yield one, arrays, "", time.perf_counter() - began
            else:
                groups.setdefault((one.source, bool(one.elements)), []).append(one)
        for members in groups.values():
            for first in range(0, len(members), BATCH):
                some = members[first : first + BATCH]
                if any(one.number not in done for one in some):
                    yield from self._batch(some)

    def _batch(self, members: Sequence[Proposal]) -> Iterator[Made]:
        from crystalsmith.generation.sampler import sample_batch

        began = time.perf_counter()
        planned: list[tuple[Proposal, Plan]] = []
        sampling = None
        for one in members:
            try:
                request = self._request(one)
                planned.append((one, self._plan(request, one)))
            except InputError as error:  # no template of this size holds these elements, say
                yield one, None, str(error), time.perf_counter() - began
                continue
            sampling = request.sampling
        if sampling is None:
            return
        batch = sample_batch(self.model, sampling, [plan for _, plan in planned], self.device)
        share = (time.perf_counter() - began) / len(planned)
        for (one, _), (frac, cell, numbers) in zip(planned, batch.crystals(), strict=True):
            if not (np.isfinite(cell).all() and np.isfinite(frac).all()):
                yield one, None, "a number was not finite", share
                continue
            yield one, (frac.astype(float), cell.astype(float), numbers.astype(np.int64)), "", share

    def _plan(self, request: Request, one: Proposal) -> Plan:
        """The plan of a proposal; of arrangements, that which its number gets of the round's."""
        from crystalsmith.generation.plans.allotment import allot

        if one.source != ARRANGEMENTS:
            return request.plan(one.number)
        self._allotted = self._allotted or allot(request, self.wish.proposals)
        return self._allotted[one.number] if one.number < len(self._allotted) else request.plan(one.number)

    def _request(self, one: Proposal) -> Request:
        from crystalsmith.generation.making import make_request
        from crystalsmith.generation.steering import Steering

        wish = self.wish
        steering = dict(wish.steering)
        exact = {"formula", "compositions", "start_from"} & set(steering)
        if one.source == "free":
            steering["space_group"] = "free"
        if one.elements:
            for name in ("allow", "deny", "deny_list", "max_hhi", "require"):
                steering.pop(name, None)
            steering |= {"chemical_system": "-".join(one.elements), "require_all": True}
        num_atoms: str | None = None if exact or one.strength is not None else one.size
        if one.strength is not None:
            assert self.known is not None
            frac, cell, numbers = start_of(one, self.known)
            plain = [(frac.tolist(), cell.tolist(), numbers.tolist())]
            steering.pop("space_group", None)
            steering |= {
                "start_from": plain,
                "strength": one.strength,
                "fix_elements": one.strength < KEEPS_ELEMENTS,
            }
        return make_request(
            self.model,
            num=one.number + 1,
            seed=wish.seed,
            num_atoms=num_atoms,
            solver=wish.solver,
            steps=wish.steps,
            temperature=wish.temperature,
            steering=Steering(**steering),
        )
