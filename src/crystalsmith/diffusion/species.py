"""Absorbing-state diffusion of the elements: atoms turn into the mask and are unmasked on the way back.

The probability that an atom is still itself at time t is alpha(t) = 1 - t (Austin et al., "Structured denoising
diffusion models in discrete state-spaces" (D3PM), 2021, absorbing state; Zeni et al., Nature 2025). The published
model trains on 1000 discrete levels; ``levels=1000`` gives exactly that, ``levels=None`` evaluates real times.
Sampling at times i/1000 is the published chain either way. Classes: 0..99 = elements, 100 = mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalsmith.diffusion.noise import Draw
from crystalsmith.elements import MASK, NUM_CLASSES

_MASK_CLASS = MASK - 1
_TINY = 1e-20  # inside logarithms, as published
_ELBO_STEPS = 1000  # number of steps whose evidence bound the loss is, for continuous time as well


@dataclass(frozen=True)
class SpeciesProcess:
    """The process of ``atomic_numbers (N,)``; times are per atom, ``(N,)``.

    Attributes:
        levels: number of discrete noise levels in training, or ``None`` for continuous time.
        cross_entropy_weight: weight of the plain cross-entropy beside the evidence bound (hybrid loss).
    """

    levels: int | None = None
    cross_entropy_weight: float = 0.01

    def survival(self, t: Tensor) -> Tensor:
        """alpha at time ``t``: the probability that an atom is not masked."""
        if self.levels is None:
            return 1.0 - t
        return 1.0 - (self._level(t) + 1).to(t.dtype) / self.levels

    def _level(self, t: Tensor) -> Tensor:
        """Discrete level k = floor(t (levels - 1)), in the precision of ``t`` as published."""
        assert self.levels is not None
        return torch.floor(t * (self.levels - 1)).long()

    def prior(self, total: int, device: torch.device | str = "cpu") -> Tensor:
        """``(N,)``, every atom masked."""
        return torch.full((total,), MASK, dtype=torch.int64, device=device)

    def corruption_logits(self, clean: Tensor, t: Tensor) -> Tensor:
        """``(N, 101)`` log-probabilities of the noisy class at time ``t``."""
        alpha = self.survival(t)
        probs = F.one_hot(clean - 1, NUM_CLASSES).to(t.dtype) * alpha.unsqueeze(-1)
        probs[:, _MASK_CLASS] += 1.0 - alpha
        return torch.log(probs)

    def transition_logits(self, numbers: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """``(N, 101)`` log-probabilities of the class at a later time ``t_next``, given the one at ``t``."""
        keep = ((1.0 - t_next) / (1.0 - t)).clamp(max=1.0).unsqueeze(-1)
        probs = F.one_hot(numbers - 1, NUM_CLASSES).to(t.dtype) * keep
        probs[:, _MASK_CLASS] += 1.0 - keep.squeeze(-1)
        return torch.log(probs)

    def posterior_logits(
        self, noisy: Tensor, clean_probs: Tensor, t: Tensor, t_next: Tensor, remask: float = 0.0
    ) -> Tensor:
        """Unnormalised log q(x_s | x_t, p(x_0)) ``(N, 101)`` for s = ``t_next`` < t.

        D3PM eq. 3 with p(x_0) in place of x_0: the product of q(x_s | x_0) and q(x_t | x_s), 1e-20 added inside each
        logarithm. In continuous time an atom that is unmasked stays what it is, exactly; the published chain may
        change it once p(x_0) falls below 1e-20.

        With ``remask`` > 0 an unmasked atom returns to the mask with probability sigma = remask min(1, (1 - alpha_s) /
        alpha_t), and masked ones leave more often, so that as many are masked at each time as ever (ReMDM: Wang et
        al., "Remasking discrete diffusion models with inference-time scaling", 2025, eq. 4, rescaled schedule).
        """
        if remask > 0:
            return _remasking(noisy, clean_probs, (1.0 - t).unsqueeze(-1), (1.0 - t_next).unsqueeze(-1), remask)
        alpha_t, alpha_s = (1.0 - t).unsqueeze(-1), (1.0 - t_next).unsqueeze(-1)
        logits = _posterior(noisy, clean_probs, alpha_t, alpha_s)
        if self.levels is not None:
            return logits
        unchanged = torch.log(F.one_hot(noisy - 1, NUM_CLASSES).to(logits.dtype) + _TINY)
        return torch.where((noisy == MASK).unsqueeze(-1), logits, unchanged)

    def loss(self, logits: Tensor, clean: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Per atom ``(N,)``: the hybrid loss (evidence bound + weighted cross-entropy) and the plain cross-entropy.

        D3PM eq. 5. At the lowest level the bound is -log p(x_0); above it is the KL divergence of the two posteriors
        of one step of length 1/1000.
        """
        target = clean - 1
        cross_entropy = F.cross_entropy(logits, target, reduction="none")
        steps = self.levels or _ELBO_STEPS
        alpha_t = self.survival(t)
        alpha_s = (alpha_t + 1.0 / steps).clamp(max=1.0)
        truth = F.one_hot(target, NUM_CLASSES).to(logits.dtype)
        args = alpha_t.unsqueeze(-1).to(logits.dtype), alpha_s.unsqueeze(-1).to(logits.dtype)
        log_p = torch.log_softmax(_posterior(noisy, torch.softmax(logits, -1), *args), -1)
        log_q = torch.log_softmax(_posterior(noisy, truth, *args), -1)
        kl = (log_q.exp() * (log_q - log_p)).sum(-1)
        lowest = (self._level(t) == 0) if self.levels is not None else (alpha_s >= 1.0)
        likelihood = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        bound = torch.where(lowest, likelihood, kl)
        return bound + self.cross_entropy_weight * cross_entropy, cross_entropy


def by_confidence(
    numbers: Tensor, drawn: Tensor, index: Tensor, logits: Tensor, draw: Draw, temperature: float
) -> Tensor:
    """Atomic numbers ``(N,)`` in which as many atoms leave the mask as in ``drawn``, the surest of a crystal first.

    Every masked atom draws an element; those whose element is most probable keep it (MaskGIT: Chang et al., "MaskGIT:
    Masked generative image transformer", 2022, section 3.2). How many leave stays as it was drawn, so the number of
    masked atoms has the law of the process; the order no longer has.

    Args:
        numbers: ``(N,)`` before the step.
        drawn: ``(N,)`` after a step of the process itself.
        index: ``(N,)``, the crystal of each atom.
        logits: ``(N, 101)`` for the clean elements.
        draw: words 2 and 3 of the atoms' random numbers are used.
        temperature: of Gumbel noise on the log-probabilities; 0 = strict order.
    """
    masked = numbers == MASK
    elements = draw.categorical(logits, word=2) + 1
    sure = torch.log_softmax(logits.double(), -1).gather(-1, (elements - 1).unsqueeze(-1)).squeeze(-1)
    sure = sure - temperature * torch.log(-torch.log(draw.uniform(3)))
    leaving = torch.zeros(int(index[-1]) + 1, dtype=torch.int64, device=index.device)
    leaving = leaving.index_add(0, index, (masked & (drawn != MASK)).long())
    # Rank within the crystal: by crystal first, masked before the rest, then the surest.
    order = torch.argsort(sure, descending=True, stable=True)
    order = order[torch.argsort((2 * index + (~masked).long())[order], stable=True)]
    first = torch.searchsorted(index, torch.arange(len(leaving), device=index.device))
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)) - first[index]
    chosen = masked & (rank < leaving[index])
    return torch.where(chosen, elements, torch.where(masked, MASK, drawn))


def _remasking(noisy: Tensor, clean_probs: Tensor, alpha_t: Tensor, alpha_s: Tensor, remask: float) -> Tensor:
    """Log of the ReMDM posterior ``(N, 101)``; alphas are survival probabilities ``(N, 1)``, t > s."""
    back = remask * ((1.0 - alpha_s) / alpha_t.clamp(min=_TINY)).clamp(max=1.0)
    leave = (alpha_s - (1.0 - back) * alpha_t) / (1.0 - alpha_t)
    stays = F.one_hot(noisy - 1, NUM_CLASSES).to(clean_probs.dtype)
    elements = torch.where((noisy == MASK).unsqueeze(-1), leave * clean_probs, (1.0 - back) * stays)[:, :_MASK_CLASS]
    return torch.log(torch.cat([elements, 1.0 - elements.sum(-1, keepdim=True)], -1).clamp(min=0.0) + _TINY)


def _posterior(noisy: Tensor, clean_probs: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """Log of q(x_s | x_0) q(x_t | x_s) summed over p(x_0); alphas are survival probabilities ``(N, 1)``, t > s."""
    # q(x_s): classes keep alpha_s of their probability, the mask takes the rest.
    at_s = alpha_s * clean_probs
    at_s = torch.cat([at_s[:, :_MASK_CLASS], 1.0 - at_s[:, :_MASK_CLASS].sum(-1, keepdim=True)], -1)
    # q(x_t | x_s = c): an element survives the step with probability alpha_t / alpha_s, the mask always.
    keep = alpha_t / alpha_s
    observed = noisy.unsqueeze(-1) - 1
    classes = torch.arange(NUM_CLASSES, device=noisy.device)
    is_mask = classes == _MASK_CLASS
    from_mask = torch.where(is_mask, torch.ones_like(keep), 1.0 - keep)
    from_element = torch.where(classes == observed, keep, torch.zeros_like(keep))
    transition = torch.where(observed == _MASK_CLASS, from_mask, from_element)
    return torch.log(at_s.clamp(min=0.0) + _TINY) + torch.log(transition + _TINY)
