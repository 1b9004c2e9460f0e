"""A teacher's features before the activation, without what is of no use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.errors import ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.feature import which_projector
from understudy.losses.maps import sum_by_sample

__all__ = ["ofd"]


@exact
def ofd(student: Tensor, teacher: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    r"""Squared difference from the teacher's feature behind a margin ReLU, where the student should move.

    .. math:: \sum_{c,p} [s > t' \lor t' > 0]\, (s - t')^2, \quad t' = \max(t, m_c),\quad
              m_c = \mathrm{E}[x \mid x < 0],\ x \sim \mathcal{N}(\beta_c, \gamma_c^2)

    Args:
        student: ``[N, C, *area]``, before its activation, projected to the teacher's channels.
        teacher: ``[N, C, *area]``, before its activation.
        scale: gamma ``[C]``, the weight of the BatchNorm that gave the teacher's feature, such as
            ``teacher:layer3.1.bn2.weight``.
        shift: beta ``[C]``, its bias. Without both the margin is 0, as for a feature behind a ReLU.

    Returns: one value per sample ``[N]``, in the square of the feature's unit, >= 0, and 0 where they are equal and not
        below the margin.
    Raises: ShapeError if the shapes differ, or if scale and shift are not one number for each channel.
    Scale: a sum over features: free of the batch's size and as large as the layer; hence weights such as 1/1000.
    Family: feature.
    Source: Heo et al. 2019 (OFD), arXiv:1904.01866, equations 2 to 4.
    Differs: nothing; a channel that is below 0 with a probability under 1/1000 has the margin -3 gamma, as in the
        published code.
    See also: ab, masked_l2.

    >>> ofd(torch.tensor([[1., 0., -4.]]), torch.tensor([[2., -1., -1.]]))
    tensor([1.])
    """
    same_shape("ofd", student, teacher, which_projector(student.shape, teacher.shape))
    if scale is None or shift is None:
        least = torch.zeros((), dtype=teacher.dtype, device=teacher.device)
    else:
        least = _by_channel(margin(scale.to(teacher.dtype), shift.to(teacher.dtype)), teacher)
    target = torch.maximum(teacher, least)
    moves = (student > target) | (target > 0)
    return sum_by_sample((student - target).square() * moves)


def margin(scale: Tensor, shift: Tensor) -> Tensor:
    """The mean of what is below 0 of a normal distribution, for each channel."""
    deviation = scale.abs().clamp(min=torch.finfo(scale.dtype).tiny ** 0.5)
    z = shift / deviation
    below = torch.special.ndtr(-z)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    rare = below <= 1e-3
    mean = shift - deviation * density / torch.where(rare, torch.ones_like(below), below)
    return torch.where(rare, -3 * deviation, mean)


def _by_channel(each: Tensor, like: Tensor) -> Tensor:
    if like.ndim < 2 or each.shape != like.shape[1:2]:
        raise ShapeError(
            f"ofd: scale and shift {list(each.shape)} do not fit the teacher's {list(like.shape)}; allowed: one number for "
            "each channel, of the BatchNorm that gave it."
        )
    return each.view(-1, *[1] * (like.ndim - 2))
