"""The three corruption processes together: prior, corruption, loss, and one reverse step of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from crystalsmith.contracts import Conditions, Denoiser, Scores
from crystalsmith.crystals import CrystalBatch
from crystalsmith.diffusion.cell import PUBLISHED_DENSITY, CellProcess, symmetric_noise
from crystalsmith.diffusion.coordinates import CoordinateProcess
from crystalsmith.diffusion.noise import Draw
from crystalsmith.diffusion.species import SpeciesProcess, by_confidence
from crystalsmith.errors import InputError

_MAX_STEP = 1e6  # published bound of the Langevin step


@dataclass(frozen=True)
class ProcessConfig:
    """Constants of the joint process; the defaults are ours, :meth:`published` gives those of the MatterGen release.

    Attributes:
        task: "generate" corrupts all three fields; "csp" (structure prediction) leaves the elements as given.
        sigma_min, sigma_max: see :class:`CoordinateProcess`.
        beta_min, beta_max, limit_density, limit_variance, cell_variance: see :class:`CellProcess`.
        scalar_cell_noise: one Gaussian per crystal in the ancestral step of the cell with every solver; the solver
            "published" does so in any case.
        species_levels: 1000 for the published discrete levels in training, ``None`` for continuous time.
        weight_frac_coords, weight_cell, weight_species: weights of the loss.
        cross_entropy_weight: weight of the cross-entropy inside the species loss.
    """

    task: Literal["generate", "csp"] = "generate"
    sigma_min: float = 0.01
    sigma_max: float = 5.0
    beta_min: float = 0.1
    beta_max: float = 20.0
    limit_density: float = PUBLISHED_DENSITY
    limit_variance: float = 0.25
    cell_variance: Mapping[str, tuple[float, float]] | None = None
    scalar_cell_noise: bool = False
    species_levels: int | None = None
    weight_frac_coords: float = 0.1
    weight_cell: float = 1.0
    weight_species: float = 1.0
    cross_entropy_weight: float = 0.01

    def __post_init__(self) -> None:
        if self.task not in ("generate", "csp"):
            raise InputError(f"The process task is '{self.task}'; use generate or csp.")
        for name in ("sigma_min", "sigma_max", "beta_min", "beta_max", "limit_density", "limit_variance"):
            if not getattr(self, name) > 0:
                raise InputError(f"The process setting {name} is {getattr(self, name)}; it must be positive.")
        if self.cell_variance is not None:
            _check_cell_variance(self.cell_variance)

    @staticmethod
    def published() -> ProcessConfig:
        """The constants of the published model, discrete species levels included."""
        return ProcessConfig(species_levels=1000)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ProcessConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: if a key is unknown.
        """
        known = {f.name for f in fields(ProcessConfig)}
        if unknown := sorted(set(data) - known):
            raise InputError(f"Unknown process setting '{unknown[0]}'; known are {', '.join(sorted(known))}.")
        data = dict(data)
        if data.get("cell_variance") is not None:
            data["cell_variance"] = {str(n): tuple(pair) for n, pair in data["cell_variance"].items()}
        return ProcessConfig(**data)


def _check_cell_variance(table: Mapping[str, tuple[float, float]]) -> None:
    if "all" not in table:
        raise InputError("The process setting cell_variance has no entry 'all'; give [diagonal, off-diagonal].")
    for n, pair in table.items():
        if n != "all" and not n.isdecimal():
            raise InputError(f"The process setting cell_variance has the key '{n}'; use a number of atoms or 'all'.")
        if len(pair) != 2 or not all(0 <= value < float("inf") for value in pair):
            raise InputError(f"The process setting cell_variance['{n}'] is {list(pair)}; give two numbers, 0 or more.")


@dataclass(frozen=True)
class Losses:
    """Losses of B crystals, each ``(B,)``.

    Attributes:
        frac_coords: sum over atoms of the mean over xyz of the squared error (as published).
        cell: mean over the nine elements of the squared error.
        species: sum over atoms of the hybrid loss.
        total: weighted sum of the three.
        per_atom: the same averaged over atoms, and the cross-entropy in nats per atom, comparable across data sets:
            keys ``frac_coords``, ``cell``, ``species_nll``.
    """

    frac_coords: Tensor
    cell: Tensor
    species: Tensor
    total: Tensor
    per_atom: dict[str, Tensor]


@dataclass(frozen=True)
class Denoised:
    """The clean coordinates ``(N, 3)`` and cells ``(B, 3, 3)`` that were predicted at times ``t (B,)``."""

    frac_coords: Tensor
    cell: Tensor
    t: Tensor


class Process:
    """The joint corruption process of a batch of crystals."""

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        self.coordinates = CoordinateProcess(config.sigma_min, config.sigma_max)
        self.cell = CellProcess(
            beta_min=config.beta_min,
            beta_max=config.beta_max,
            limit_density=config.limit_density,
            limit_variance=config.limit_variance,
            data_variance=config.cell_variance,
            scalar_noise=config.scalar_cell_noise,
        )
        self.species = SpeciesProcess(config.species_levels, config.cross_entropy_weight)

    @property
    def corrupts_species(self) -> bool:
        """False for structure prediction, where the elements are given."""
        return self.config.task == "generate"

    def prior(self, num_atoms: Tensor, draw: Draw, atomic_numbers: Tensor | None = None) -> CrystalBatch:
        """A sample at t = 1 for ``num_atoms (B,)``.

        Args:
            num_atoms: ``(B,)`` int64.
            draw: the random numbers.
            atomic_numbers: ``(N,)``, the given elements of structure prediction.
        """
        frac_noise, cell_noise = draw.atoms(), draw.cell()
        total = frac_noise.shape[0]
        if self.corrupts_species:
            atomic_numbers = self.species.prior(total, num_atoms.device)
        elif atomic_numbers is None:
            raise InputError("This model predicts structures for given elements; give a formula.")
        per_atom = torch.repeat_interleave(num_atoms, num_atoms, output_size=total)
        return CrystalBatch(
            frac_coords=self.coordinates.prior(per_atom, frac_noise),
            cell=self.cell.prior(num_atoms, cell_noise),
            atomic_numbers=atomic_numbers,
            num_atoms=num_atoms,
        )

    def corrupt(self, clean: CrystalBatch, t: Tensor, draw: Draw, t_species: Tensor | None = None) -> CrystalBatch:
        """The batch noised to times ``t (B,)``, its elements to ``t_species (B,)`` if that is given.

        Elements and geometry at times of their own (UniDiffuser: Bao et al., "One transformer fits all distributions
        in multi-modal diffusion at scale", ICML 2023) teach one network to generate, to predict structures of given
        elements (``t_species`` = 0) and to decorate given geometries. The network is told ``t`` only: which atoms are
        masked says as much of the elements' time as there is to know (Ou et al., "Your absorbing discrete diffusion
        secretly models the conditional distributions of clean data", ICLR 2025).
        """
        per_atom, t_atom = _per_atom(clean, t)
        species = clean.atomic_numbers
        if self.corrupts_species:
            s_atom = t_atom if t_species is None else t_species[clean.batch_index]
            species = draw.categorical(self.species.corruption_logits(species, s_atom)) + 1
        return clean.replace(
            frac_coords=self.coordinates.corrupt(clean.frac_coords, t_atom, per_atom, draw.atoms()),
            cell=self.cell.corrupt(clean.cell, t, clean.num_atoms, draw.cell()),
            atomic_numbers=species,
        )

    def loss(
        self, scores: Scores, clean: CrystalBatch, noisy: CrystalBatch, t: Tensor, t_species: Tensor | None = None
    ) -> Losses:
        """Losses of predicted scores for a batch noised by :meth:`corrupt` with the same times."""
        per_atom, t_atom = _per_atom(clean, t)
        frac = self.coordinates.loss(scores.frac_coords, clean.frac_coords, noisy.frac_coords, t_atom, per_atom)
        cell = self.cell.loss(scores.cell, clean.cell, noisy.cell, t, clean.num_atoms)
        if self.corrupts_species:
            numbers = clean.atomic_numbers, noisy.atomic_numbers
            s_atom = t_atom if t_species is None else t_species[clean.batch_index]
            species, nll = self.species.loss(scores.species_logits, *numbers, s_atom)
        else:
            species = nll = torch.zeros_like(frac)
        sums = [sum_over_atoms(x, clean) for x in (frac, species, nll)]
        config, count = self.config, clean.num_atoms.to(frac.dtype)
        total = config.weight_frac_coords * sums[0] + config.weight_cell * cell + config.weight_species * sums[1]
        means = {"frac_coords": sums[0] / count, "cell": cell, "species_nll": sums[2] / count}
        return Losses(sums[0], cell, sums[1], total, {name: x.detach() for name, x in means.items()})

    def precondition(self, denoiser: Denoiser) -> Denoiser:
        """Add the score that data and prior share to the cell output (:meth:`CellProcess.gaussian_output`)."""
        if self.config.cell_variance is None:
            return denoiser

        def preconditioned(batch: CrystalBatch, t: Tensor, conditions: Conditions | None = None) -> Scores:
            scores = denoiser(batch, t, conditions)
            shared = self.cell.gaussian_output(batch.cell, t, batch.num_atoms)
            return Scores(scores.frac_coords, scores.cell + shared, scores.species_logits)

        return preconditioned

    def predict(
        self,
        batch: CrystalBatch,
        scores: Scores,
        t: Tensor,
        t_next: Tensor,
        draw: Draw,
        *,
        churn: float = 1.0,
        confidence: float | None = None,
        remask: float = 0.0,
        scalar_cell_noise: bool = False,
    ) -> tuple[CrystalBatch, CrystalBatch]:
        """One step of all fields from ``t`` to ``t_next`` (both ``(B,)``): sample and mean.

        The species of the mean are the most probable ones.

        Args:
            churn: how much of the ancestral noise coordinates and cell receive; 0 follows the probability-flow ODE.
            confidence, remask: see :meth:`predict_species`.
            scalar_cell_noise: draw one Gaussian per crystal for the cell, as the published sampler does.
        """
        sample, mean = self.move(batch, scores, t, t_next, draw, churn=churn, scalar_cell_noise=scalar_cell_noise)
        if not self.corrupts_species:
            return sample, mean
        drawn, likely = self.predict_species(batch, scores, t, t_next, draw, confidence=confidence, remask=remask)
        return sample.replace(atomic_numbers=drawn), mean.replace(atomic_numbers=likely)

    def move(
        self,
        batch: CrystalBatch,
        scores: Scores,
        t: Tensor,
        t_next: Tensor,
        draw: Draw,
        *,
        churn: float = 1.0,
        scalar_cell_noise: bool = False,
    ) -> tuple[CrystalBatch, CrystalBatch]:
        """One step of coordinates and cell as in :meth:`predict`, the species as they are: sample and mean."""
        per_atom, t_atom = _per_atom(batch, t)
        s_atom = t_next[batch.batch_index]
        frac, frac_mean = self.coordinates.predictor_step(
            batch.frac_coords, scores.frac_coords, t_atom, s_atom, per_atom, draw.atoms(), churn
        )
        cell_process = replace(self.cell, scalar_noise=True) if scalar_cell_noise else self.cell
        cell, cell_mean = cell_process.predictor_step(
            batch.cell, scores.cell, t, t_next, batch.num_atoms, draw.cell(), churn
        )
        return batch.replace(frac_coords=frac, cell=cell), batch.replace(frac_coords=frac_mean, cell=cell_mean)

    def predict_species(
        self,
        batch: CrystalBatch,
        scores: Scores,
        t: Tensor,
        t_next: Tensor,
        draw: Draw,
        *,
        confidence: float | None = None,
        remask: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Atomic numbers ``(N,)`` after a step from ``t`` to ``t_next``: drawn, and the most probable ones.

        Args:
            confidence: ``None`` lets every masked atom leave with the same probability, as in D3PM. A number lets
                as many leave, but those whose drawn element is most probable first
                (:func:`crystalsmith.diffusion.species.by_confidence`); it is the temperature of that order.
            remask: share of the largest possible probability with which an atom goes back into the mask, to be
                decided again (:meth:`SpeciesProcess.posterior_logits`).
        """
        t_atom, s_atom = t[batch.batch_index], t_next[batch.batch_index]
        probs = torch.softmax(scores.species_logits, -1)
        logits = self.species.posterior_logits(batch.atomic_numbers, probs, t_atom, s_atom, remask)
        drawn, likely = draw.categorical(logits) + 1, logits.argmax(-1) + 1
        if confidence is not None:
            drawn = by_confidence(
                batch.atomic_numbers, drawn, batch.batch_index, scores.species_logits, draw, confidence
            )
        return drawn, likely

    def extrapolate(
        self, batch: CrystalBatch, scores: Scores, t: Tensor, t_next: Tensor, past: Denoised | None
    ) -> tuple[Scores, Denoised]:
        """Scores for a second-order step from ``t`` to ``t_next``, and what the next step must know of this one.

        DPM-Solver++ 2M (Lu et al. 2022, algorithm 2): the clean data predicted here is continued along the line from
        the last prediction, in log-SNR, half a step ahead: D + h (D - D_past) / (2 h_past). As the step is linear in
        D, that is a change of the score. Coordinates are compared by the nearest image. The step to 0 takes D itself.
        """
        per_atom, t_atom = _per_atom(batch, t)
        now = Denoised(
            self.coordinates.denoised(batch.frac_coords, scores.frac_coords, t_atom, per_atom),
            self.cell.denoised(batch.cell, scores.cell, t, batch.num_atoms),
            t,
        )
        if past is None:
            return scores, now
        weight = [_half_ratio(field.log_snr, past.t, t, t_next) for field in (self.coordinates, self.cell)]
        change = now.frac_coords - past.frac_coords
        change = (change - change.round()) / self.coordinates.std(t_atom, per_atom).unsqueeze(-1)
        frac = scores.frac_coords + weight[0][batch.batch_index].unsqueeze(-1) * change
        scale = self.cell.signal(t).view(-1, 1, 1) / self.cell.std(t, batch.num_atoms)
        cell = scores.cell + weight[1].view(-1, 1, 1) * scale * (now.cell - past.cell)
        return Scores(frac, cell, scores.species_logits), now

    def renoise(self, batch: CrystalBatch, t: Tensor, t_next: Tensor, draw: Draw) -> CrystalBatch:
        """The forward process from ``t`` to a later ``t_next`` (both ``(B,)``)."""
        per_atom, t_atom = _per_atom(batch, t)
        s_atom = t_next[batch.batch_index]
        species = batch.atomic_numbers
        if self.corrupts_species:
            species = draw.categorical(self.species.transition_logits(species, t_atom, s_atom)) + 1
        return batch.replace(
            frac_coords=self.coordinates.renoise(batch.frac_coords, t_atom, s_atom, per_atom, draw.atoms()),
            cell=self.cell.renoise(batch.cell, t, t_next, batch.num_atoms, draw.cell()),
            atomic_numbers=species,
        )

    def correct(
        self,
        batch: CrystalBatch,
        scores: Scores,
        t: Tensor,
        t_next: Tensor,
        draw: Draw,
        *,
        snr_frac_coords: float,
        snr_cell: float,
        batch_mean: bool,
    ) -> CrystalBatch:
        """One Langevin step of coordinates and cell at time ``t`` (Song et al. 2021, algorithm 5).

        Args:
            snr_frac_coords, snr_cell: signal-to-noise ratios r.
            batch_mean: average norms over the batch (the published sampler) instead of a step size per crystal.
        """
        per_atom, t_atom = _per_atom(batch, t)
        z_frac, z_cell = draw.atoms(), draw.cell()
        std = self.coordinates.std(t, batch.num_atoms)
        norms = [sum_over_atoms(x.square().sum(-1), batch).sqrt() for x in (z_frac, scores.frac_coords)]
        alpha = torch.ones_like(t)
        step = langevin_step(norms[0], norms[1] / std, std, snr_frac_coords, alpha, batch_mean)
        frac = self.coordinates.corrector_step(
            batch.frac_coords, scores.frac_coords, t_atom, per_atom, step[batch.batch_index], z_frac
        )
        a, a_next = self.cell.signal(t), self.cell.signal(t_next)
        alpha = (a / torch.where(t_next > 0, a_next, torch.ones_like(a_next))).square()
        cell_std = self.cell.std(t, batch.num_atoms).view(-1)
        z_norm = symmetric_noise(z_cell).square().sum((-1, -2)).sqrt()
        score_norm = scores.cell.square().sum((-1, -2)).sqrt() / cell_std
        step = langevin_step(z_norm, score_norm, cell_std, snr_cell, alpha, batch_mean)
        cell = self.cell.corrector_step(batch.cell, scores.cell, t, batch.num_atoms, step, z_cell)
        return batch.replace(frac_coords=frac, cell=cell)


def _half_ratio(log_snr: Callable[[Tensor], Tensor], past: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """h / (2 h_past) ``(B,)``, h the step in log-SNR; 0 where the step goes to 0, for there h is without end."""
    last = t_next <= 0
    step = log_snr(torch.where(last, t, t_next)) - log_snr(t)
    return 0.5 * step / (log_snr(t) - log_snr(past))


def langevin_step(
    noise_norm: Tensor, score_norm: Tensor, std: Tensor, snr: float, alpha: Tensor, batch_mean: bool
) -> Tensor:
    """Step sizes ``(B,)``.

    Published: 2 alpha (snr |z| / |score|)^2 with norms averaged over the batch, at most 1e6. Ours: 2 alpha (snr std)^2,
    what that formula gives for a score of norm |z| / std. It is each crystal's own and does not depend on where the
    crystal stands: a step from its own |score| would draw from p |score|^2 instead of p, cells off by a quarter.
    """
    if not batch_mean:
        return 2.0 * alpha * (snr * std).square()
    step = 2.0 * alpha * (snr * noise_norm.mean() / score_norm.mean().clamp(min=1e-30)).square()
    return step.clamp(max=_MAX_STEP)


def sum_over_atoms(values: Tensor, batch: CrystalBatch) -> Tensor:
    """Sum ``(N,)`` over the atoms of each crystal, ``(B,)``."""
    zeros = torch.zeros(batch.num_crystals, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, batch.batch_index, values)


def _per_atom(batch: CrystalBatch, t: Tensor) -> tuple[Tensor, Tensor]:
    """Number of atoms and time of each atom's crystal, both ``(N,)``."""
    return batch.num_atoms[batch.batch_index], t[batch.batch_index]
