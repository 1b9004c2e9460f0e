"""Features that are compared after each channel is put on one scale."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.feature import which_projector
from understudy.losses.maps import channels_first

__all__ = ["pkd"]

EPS = 1e-6
"""Added to the standard deviation, as the published code does."""


@exact
def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Half the mean squared difference of features that are standardised over the batch, channel by channel.

    .. math:: \frac{1}{2 N C P} \sum_{n,c,p} (\hat s_{ncp} - \hat t_{ncp})^2, \quad
              \hat x = \frac{x - \mu_c}{\sigma_c + \epsilon}

    which is one minus the Pearson correlation of the channels, in the mean, for channels that vary.

    Args:
        student: vectors ``[N, D]``, tokens ``[N, T, D]`` or maps ``[N, C, H, W]``.
        teacher: of the same shape.

    Returns: a scalar, from 0 (perfect correlation in every channel) to about 2. A channel that does not vary counts as 0.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size and of the features' scale, but mean and deviation are the batch's.
    Family: feature.
    Source: Cao et al. 2022 (PKD), arXiv:2207.02039, equation 4.
    Differs: nothing; the deviation is the unbiased one, as in the published code.
    See also: mse.

    >>> pkd(torch.tensor([[1.], [2.], [3.]]), torch.tensor([[30.], [20.], [10.]]))
    tensor(1.3333)
    """
    same_shape("pkd", student, teacher, which_projector(student.shape, teacher.shape))
    s, t = (standardised(channels_first("pkd", x)) for x in (student, teacher))
    return (s - t).square().sum() / max(2 * s.numel(), 1)


def standardised(x: Tensor) -> Tensor:
    """Each channel of ``[N, C, P]`` with mean 0 and deviation 1."""
    count = x.shape[0] * x.shape[2]
    centred = x - x.sum((0, 2), keepdim=True) / max(count, 1)
    variance = centred.square().sum((0, 2), keepdim=True) / max(count - 1, 1)
    # The root's derivative at 0 is infinite; there the deviation is a constant.
    deviation = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt() * (variance > 0)
    return centred / (deviation + EPS)
