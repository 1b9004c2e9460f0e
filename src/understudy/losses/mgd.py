"""Masked generation: the student makes the teacher's feature from a part of its own."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.feature import squared_sum
from understudy.losses.fitted import Fitted
from understudy.losses.maps import as_maps, same_area

__all__ = ["MGD"]

Mask = Literal["channels", "positions"]


class MGD(Fitted):
    r"""Squared distance of the teacher's map from what is generated from the student's, of which a part is hidden.

    .. math:: \sum_{c,p} \left( G(A s \odot M)_{cp} - t_{cp} \right)^2

    with M 0 for a random share of the channels (or positions) and else 1, A a 1x1 convolution where the channels differ,
    and G two 3x3 convolutions with a ReLU between them. A and G learn with the student.

    Args:
        student: channels of the student's map; fitted by the dry run if not given, as the teacher's.
        teacher: channels of the teacher's.
        mask: what is hidden as a whole: ``"channels"``, as for classification, or ``"positions"``, as for detection and
            segmentation.
        ratio: how likely each of them is hidden, from 0 to below 1.

    Both are maps ``[N, C, H, W]``; of two areas the smaller counts.

    Returns: one value per sample ``[N]``, in the square of the features' unit, >= 0.
    Raises: ShapeError if they are no maps of the same samples; InputError for another mask or ratio.
    Scale: a sum over features: free of the batch's size and as large as the layer; hence weights such as 7e-5.
    Family: feature.
    Source: Yang et al. 2022 (MGD), arXiv:2205.01529, equations 2 to 4; channels as in its code for classification.
    Differs: nothing.
    See also: ViTKD, squared_sum.

    >>> MGD(student=3, teacher=8)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        *,
        student: int | None = None,
        teacher: int | None = None,
        mask: Mask = "channels",
        ratio: float = 0.15,
    ) -> None:
        super().__init__()
        if mask not in get_args(Mask) or not 0 <= ratio < 1:
            raise InputError(
                f"MGD: mask={mask!r}, ratio={ratio!r} is not allowed; mask is 'channels' or 'positions', ratio from 0 to "
                "below 1."
            )
        self.mask, self.ratio = mask, ratio
        self.given(student, teacher)

    def build(self, *sizes: int) -> None:
        """The alignment, where one is needed, and the generator."""
        student, teacher = sizes
        self.align = nn.Conv2d(student, teacher, 1) if student != teacher else nn.Identity()
        first, second = (nn.Conv2d(teacher, teacher, 3, padding=1) for _ in range(2))
        self.generate = nn.Sequential(first, nn.ReLU(), second)

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each sample, under a new mask."""
        as_maps("MGD", student, teacher)
        s, t = same_area("MGD", student, teacher)
        self.fit((s.shape[1], t.shape[1]), like=s)
        s = self.align(s)
        return squared_sum(self.generate(s * self.drawn(s)), t)

    def drawn(self, maps: Tensor) -> Tensor:
        """What is shown: ``[N, C, 1, 1]`` or ``[N, 1, H, W]``."""
        shape = (*maps.shape[:2], 1, 1) if self.mask == "channels" else (maps.shape[0], 1, *maps.shape[2:])
        return torch.rand(shape, device=maps.device) >= self.ratio
