"""What losses between distributions share, in a form that no logit makes infinite. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError

CLASSES = "Both models must score the same classes in the same order."
"""How to mend shapes that differ."""

__all__ = ["CLASSES", "check_temperature", "cross", "divergence", "log_share", "log_softened", "without_label"]


def check_temperature(loss: str, *temperatures: float) -> None:
    """Raise InputError unless each is finite and above 0."""
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise InputError(
                f"{loss}: temperature {temperature!r} is not allowed; it must be finite and above 0, and 1 to 8 is usual."
            )


def log_softened(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logarithm of the softened distribution."""
    return F.log_softmax(logits / temperature, dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence of two distributions, given as logarithms, over the last axis; exactly 0, with gradient 0, where they are equal.

    Of each summand ``p - q`` is taken off, which is nothing in the sum: so none is negative, and what rounding leaves of the
    sum of probabilities does not become a gradient.
    """
    p = log_p.exp()
    # Where p is 0 the summand is 0 by its limit; computed, it would be 0 * inf for a class that is ruled out.
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0) - p + log_q.exp()).sum(-1)


def cross(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Cross-entropy of two distributions, given as logarithms, over the last axis."""
    p = log_p.exp()
    return -(p * log_q.masked_fill(p == 0, 0.0)).sum(-1)


def log_share(logits: Tensor, label: Tensor) -> Tensor:
    """Logarithms of the label's probability and of all the others' together ``[*N, 2]``; the second is -inf for a single class."""
    total = logits.logsumexp(-1, keepdim=True)
    return torch.cat(
        [logits.gather(-1, label.unsqueeze(-1)), without_label(logits, label).logsumexp(-1, keepdim=True)], -1
    ).sub(total)


def without_label(values: Tensor, label: Tensor) -> Tensor:
    """All but the label's ``[*N, C - 1]``. Taken away, not set to a large negative number, which a larger logit would outdo."""
    others = torch.arange(values.shape[-1] - 1, device=values.device).expand(*label.shape, -1)
    return values.gather(-1, others + (others >= label.unsqueeze(-1)))
