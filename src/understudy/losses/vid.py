"""Variational information distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import Fitted
from understudy.losses.maps import channels_last, same_area

__all__ = ["VID"]

LEAST = 1e-5
"""Of a variance, as in the published code."""


class VID(Fitted):
    r"""Negative log-likelihood of the teacher's feature under a normal distribution that the student predicts.

    .. math:: \frac{1}{C P} \sum_{c,p} \frac{1}{2} \left( \frac{(\mu(s)_{cp} - t_{cp})^2}{\sigma_c^2} + \log \sigma_c^2 \right),
              \quad \sigma_c^2 = \log(1 + e^{\alpha_c}) + 10^{-5}

    where mu is three linear maps of the channels with ReLU between them. Its weights and alpha learn with the student.

    Args:
        student: channels of the student's feature; fitted by the dry run if not given, as the teacher's.
        teacher: channels of the teacher's.
        variance: of every channel at the start.

    The student's feature is vectors ``[N, D]``, tokens ``[N, T, D]`` or maps ``[N, C, H, W]``, and the teacher's as well,
    with other channels; of two areas the smaller counts.

    Returns: one value per sample ``[N]``, in nats up to a constant; it may be below 0, and has no least value that is known.
    Raises: ShapeError if samples, axes or tokens differ; InputError if only one of the sizes is given, or the variance is
        not above 1e-5.
    Scale: a mean over features; free of the batch's size.
    Family: feature.
    Source: Ahn et al. 2019, arXiv:1904.05835, equation 6; mu and the variance's start as in Tian et al. 2020.
    Differs: nothing.
    See also: mse.

    >>> VID(student=2, teacher=2)(torch.zeros(1, 2), torch.tensor([[1., 2.]])).detach()
    tensor([1.0547])
    """

    def __init__(self, *, student: int | None = None, teacher: int | None = None, variance: float = 5.0) -> None:
        super().__init__()
        if not LEAST < variance < math.inf:
            raise InputError(f"VID: variance {variance!r} is not allowed; it must be finite and above {LEAST}.")
        self.start = math.log(math.expm1(variance - LEAST))
        self.given(student, teacher)

    def build(self, *sizes: int) -> None:
        """The regressor, and each channel's variance."""
        student, teacher = sizes
        first, middle, last = (nn.Linear(i, teacher, bias=False) for i in (student, teacher, teacher))
        self.mean = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last)
        self.alpha = nn.Parameter(torch.full((teacher,), self.start))

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each sample."""
        s, t = (channels_last("VID", x) for x in same_area("VID", student, teacher))
        self.fit((s.shape[-1], t.shape[-1]), like=s)
        variance = F.softplus(self.alpha) + LEAST
        gap: Tensor = self.mean(s) - t
        return ((gap.square() / variance + variance.log()) / 2).flatten(1).mean(1)
