"""A temperature that learns against the student. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from understudy.errors import InputError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.distributions import CLASSES, divergence, log_softened
from understudy.progress import Progress

__all__ = ["CTKD"]


class CTKD(nn.Module):
    r"""KL divergence at a temperature that learns to make it large, ever harder over the first epochs.

    .. math:: T^2 \sum_c p_c \log (p_c / q_c), \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T),\quad
              T = T_0 + R\, \sigma(\theta)

    The gradient of :math:`\theta` is multiplied by :math:`-\lambda`, where :math:`\lambda = (1 - \cos(\pi \min(e, E) / E)) / 2`
    in epoch :math:`e = 1, 2, \dots`

    Args:
        start: :math:`T_0 > 0`, the lowest temperature.
        span: R >= 0, how far above it the temperature may rise.
        ramp: E, the epochs over which the gradient's share rises to 1.

    Returns: one value per row ``[*N]`` for logits ``[*N, C]`` of student and teacher, in nats, >= 0, and 0 where the softened
        distributions agree.
    Raises: InputError for a temperature below 0 or a ramp below 1; ShapeError if the shapes differ.
    Scale: times T²; free of the batch's size.
    Family: response.
    Source: Li et al. 2023, arXiv:2211.16231, section 3.2, the global temperature; :math:`\theta` starts at 1.
    Differs: nothing; the temperature and the share are saved with the method.
    See also: kl.

    >>> CTKD()(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    tensor([0.1249], grad_fn=<MulBackward0>)
    """

    strength: Tensor

    def __init__(self, *, start: float = 1.0, span: float = 20.0, ramp: int = 10) -> None:
        super().__init__()
        if not (0 < start < math.inf and 0 <= span < math.inf):
            raise InputError(f"CTKD: start={start!r} must be above 0, and span={span!r} 0 or above, both finite.")
        if ramp < 1:
            raise InputError(f"CTKD: ramp={ramp!r} is no number of epochs; allowed: 1 or more.")
        self.start, self.span, self.ramp = start, span, ramp
        self.theta = nn.Parameter(torch.ones(()))
        self.register_buffer("strength", torch.tensor(self.strength_at(0)))

    def strength_at(self, epoch: int) -> float:
        """The share of the gradient that is turned round, in an epoch counted from 0."""
        return (1 - math.cos(math.pi * min((epoch + 1) / self.ramp, 1))) / 2

    @property
    def temperature(self) -> Tensor:
        """T as it is now."""
        # The value of theta, with its gradient turned round.
        turned = self.theta.detach() - self.strength * (self.theta - self.theta.detach())
        return self.start + self.span * turned.sigmoid()

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence at the temperature that has been learnt so far."""
        same_shape("CTKD", student, teacher, CLASSES)
        temperature = self.temperature
        log_q, log_p = (log_softened(x, temperature) for x in (student, teacher))
        return divergence(log_p, log_q) * (temperature * temperature)

    def after(self, progress: Progress) -> None:
        """Turn more of the gradient round as epochs pass."""
        self.strength.fill_(self.strength_at(progress.epoch))

    def extra_repr(self) -> str:
        """What it was built with."""
        return f"start={self.start}, span={self.span}, ramp={self.ramp}"
