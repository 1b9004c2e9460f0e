"""A projector, a normalisation and a soft maximum."""

from __future__ import annotations

import math

from torch import Tensor, nn

from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import BatchNorm, Fitted
from understudy.losses.maps import channels_first, same_samples

__all__ = ["SRD"]

EPS = 1e-8
"""Inside the logarithm, so that equal features give a number."""


class SRD(Fitted):
    r"""Log of the summed powers of the distance between features that are normalised over the batch.

    .. math:: \log\left(\sum_{n,d} |\mathrm{BN}(W s)_{nd} - \mathrm{BN}(t)_{nd}|^\alpha + 10^{-8}\right)

    The linear projector W learns with the student.

    Args:
        student: features of the student; fitted by the dry run if not given, as the teacher's.
        teacher: features of the teacher.
        power: alpha, at least 1; the larger, the more the largest differences count.

    Both are vectors ``[N, D]``; of tokens and maps the mean over the positions is taken.

    Returns: a scalar, which may be below 0; about -18 where both agree.
    Raises: ShapeError if samples or axes differ; InputError if only one of the sizes is given, or the power is below 1.
    Scale: the gradient falls as the features come to agree no more than they differ; the value grows with the log of the
        batch's size, the gradient does not.
    Family: feature.
    Source: Miles & Mikolajczyk 2024, arXiv:2303.11098, equation 9.
    Differs: 1e-8 inside the logarithm, without which equal features give minus infinity. The published code weighs it
        by 2 and adds the divergence of the outputs: see methods.srd.
    See also: mse, pkd.

    >>> SRD(student=1, teacher=1)(torch.tensor([[0.], [1000.]]), torch.tensor([[5.], [5.]])).detach()
    tensor(0.6931)
    """

    def __init__(self, *, student: int | None = None, teacher: int | None = None, power: float = 4.0) -> None:
        super().__init__()
        if not 1 <= power < math.inf:
            raise InputError(f"SRD: power {power!r} is not allowed; it must be finite and at least 1.")
        self.power = power
        self.given(student, teacher)

    def build(self, *sizes: int) -> None:
        """The projector; the normalisation has nothing to learn."""
        student, teacher = sizes
        self.project, self.norm = nn.Linear(student, teacher, bias=False), BatchNorm(teacher, affine=False)

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of the batch."""
        same_samples("SRD", student, teacher)
        s, t = (channels_first("SRD", x).mean(2) for x in (student, teacher))
        self.fit((s.shape[1], t.shape[1]), like=s)
        gap: Tensor = self.norm(self.project(s)) - self.norm(t)
        return (gap.abs().pow(self.power).sum() + EPS).log()
