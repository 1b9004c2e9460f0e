"""Which neurons fire."""

from __future__ import annotations

import math

from torch import Tensor

from understudy.errors import InputError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.feature import which_projector
from understudy.losses.maps import sum_by_sample

__all__ = ["ab"]


@exact
def ab(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    r"""Squared hinge that puts each neuron on the side of 0 on which the teacher's is.

    .. math:: \sum_d [t_d \le 0]\, \max(s_d + m, 0)^2 + [t_d > 0]\, \max(m - s_d, 0)^2

    Args:
        student: ``[N, *D]``, before its activation.
        teacher: ``[N, *D]``, before its activation; only the sign counts.
        margin: m > 0, by which the student should be on its side.

    Returns: one value per sample ``[N]``, >= 0, and 0 where the student is on the teacher's side by the margin.
    Raises: ShapeError if the shapes differ; InputError if the margin is not positive and finite.
    Scale: a sum over neurons: free of the batch's size and as large as the layer; hence weights such as 3/1000.
    Family: feature.
    Source: Heo et al. 2019 (AB), arXiv:1811.03233, equation 6.
    Differs: without the code's factors of 3/1000 and of each layer, which are the term's weight.
    See also: ofd.

    >>> ab(torch.tensor([[0.5, 0.5, 2.]]), torch.tensor([[3., -3., 3.]]))
    tensor([2.5000])
    """
    if not 0 < margin < math.inf:
        raise InputError(f"ab: margin {margin!r} is not allowed; it must be finite and above 0, and 1 is usual.")
    same_shape("ab", student, teacher, which_projector(student.shape, teacher.shape))
    side = (teacher > 0).to(student.dtype) * 2 - 1
    return sum_by_sample((margin - side * student).clamp(min=0).square())
