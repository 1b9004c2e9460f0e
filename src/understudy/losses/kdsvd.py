"""What channels go together: singular vectors of maps, and how those of two layers are related. Shapes: N samples, C channels, P positions, K vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.errors import ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.fitted import TwoLayers
from understudy.losses.maps import as_maps, same_samples, unit

__all__ = ["KDSVD", "kdsvd"]

FURTHER = 3
"""Vectors of the student, beyond as many as the teacher's, among which the one that is meant is looked for."""


@exact
def kdsvd(
    student: Tensor, student_later: Tensor, teacher: Tensor, teacher_later: Tensor, *, vectors: int = 1
) -> Tensor:
    r"""Squared difference of a kernel between the first singular vectors of two layers.

    .. math:: \sum_{i,j,k} (R^s_{ijk} - R^t_{ijk})^2, \quad
              R_{ijk} = e^{-(\sigma_k v_{ik} - \tau_k w_{jk})^2 / 8}

    Args:
        student: maps ``[N, C1, H, W]`` of one layer: P positions times C1 channels, of which v are the right singular vectors.
        student_later: ``[N, C2, H, W]`` of a later one, of which w are. Of the student's first K + 3 vectors each of the
            teacher's takes the one that is nearest to it, with its sign, and scales it by the teacher's :math:`\sigma`.
        teacher: ``[N, C1, H, W]``, of any area. :math:`\sigma` are its first K singular values, divided by their norm; v has
            the sign with which its sum is not negative.
        teacher_later: ``[N, C2, H, W]``, with :math:`\tau` and w.
        vectors: K >= 1; no more than there are channels and positions.

    Returns: one value per sample ``[N]``, without unit, >= 0, and 0 where the vectors are the same.
    Raises: ShapeError unless student and teacher have as many channels, and at least K of them and of positions; for other
        channels see KDSVD.
    Scale: free of the features' scale, of the area and of the batch's size; it grows with the number of channels.
    Family: feature.
    Source: Lee et al. 2018 (SSKD-SVD), arXiv:1807.06819, section 3; the kernel, the three vectors more and the sum as in the
        code of Tian et al. 2020.
    Differs: in that code the vectors' signs, and with them the value, are as the machine's linear algebra leaves them. Where
        two singular values are nearly the same the gradient is bounded, as in the paper.
    See also: fsp, KDSVD.

    >>> x = torch.tensor([[1., 2.], [0., 1.]]).view(1, 2, 1, 2)
    >>> kdsvd(x, x, x.flip(1), x)
    tensor([0.0294])
    """
    as_maps("kdsvd", student, student_later, teacher, teacher_later)
    pairs = ((student, teacher), (student_later, teacher_later))
    same_samples("kdsvd", student, student_later)
    for ours, theirs in pairs:
        same_shape("kdsvd", ours[:, :, 0, 0], theirs[:, :, 0, 0], "For other channels take KDSVD().")
        if not 1 <= vectors <= min(theirs.shape[1], theirs.shape[2] * theirs.shape[3]):
            raise ShapeError(
                f"kdsvd: maps {list(theirs.shape)} have not {vectors} singular vectors; allowed: 1 to the number of channels "
                "or of positions, whichever is smaller."
            )
    (v, v_teacher), (w, w_teacher) = (_matched(*pair, vectors) for pair in pairs)
    return (_kernel(v, w) - _kernel(v_teacher, w_teacher)).square().flatten(1).sum(1)


def _kernel(v: Tensor, w: Tensor) -> Tensor:
    """``[N, C1, C2, K]``."""
    return ((v.unsqueeze(2) - w.unsqueeze(1)).square() / -8).exp()


def _matched(student: Tensor, teacher: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The student's vectors that are nearest to the teacher's, and those, both by the teacher's values ``[N, C, K]``."""
    theirs, values = _singular(teacher, count)
    theirs = theirs * torch.where(theirs.sum(1, keepdim=True) < 0, -1.0, 1.0)
    ours, _ = _singular(student, count + FURTHER)
    cosine = ours.transpose(1, 2) @ theirs
    nearest = cosine.detach().abs().argmax(1, keepdim=True)
    chosen = ours.gather(2, nearest.expand(-1, ours.shape[1], -1)) * cosine.gather(1, nearest).detach().sign()
    weight = unit(values, 1).unsqueeze(1)
    return chosen * weight, theirs * weight


def _singular(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors ``[N, C, K]`` of maps, and the singular values ``[N, K]`` but for their scale.

    The decomposition itself is outside of the graph. Its own derivative divides by the differences of squared singular
    values; here that is the derivative of one step of perturbation, in which 1/d is d / (d² + e²).
    """
    rows = x.flatten(2).transpose(1, 2)
    largest = rows.detach().abs().amax((1, 2), keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    with torch.no_grad():  # what is not finite comes back in by the step
        _, values, vectors = torch.linalg.svd(rows.nan_to_num(), full_matrices=False)
    every, squares = vectors.transpose(1, 2), values.square()
    first = every[:, :, :count]
    narrow = squares[:, :1].unsqueeze(2) * torch.finfo(x.dtype).eps ** 0.5 + torch.finfo(x.dtype).tiny ** 0.5
    pushed = rows.transpose(1, 2) @ (rows @ first)
    within = every.transpose(1, 2) @ pushed
    apart = squares[:, None, :count] - squares.unsqueeze(2)
    turned = every @ (within * _inverse(apart, narrow))
    outside = (pushed - every @ within) * _inverse(squares[:, None, :count], narrow)
    step = turned + outside
    return first + (step - step.detach()), torch.linalg.vector_norm(rows @ first, dim=1)


def _inverse(x: Tensor, narrow: Tensor) -> Tensor:
    return x / (x.square() + narrow.square())


class KDSVD(TwoLayers):
    r"""The loss kdsvd for layers of other widths: both of the student's maps go through a 1x1 convolution first.

    .. math:: \mathrm{kdsvd}(A_1 s_1,\ A_2 s_2,\ t_1,\ t_2)

    Where the channels are the same there is no convolution. Those that there are learn with the student.

    Args:
        vectors: K >= 1, as of kdsvd.
        student: channels of the student's first map; fitted by the dry run if not given, as all of them.
        student_later: of its second.
        teacher: of the teacher's first.
        teacher_later: of its second.

    Returns: one value per sample ``[N]``, without unit, >= 0.
    Raises: ShapeError if they are no maps of the same samples; InputError if only some of the sizes are given.
    Scale: as kdsvd.
    Family: feature.
    Source: Lee et al. 2018 (SSKD-SVD), arXiv:1807.06819, section 3.
    Differs: the paper takes models of the same widths, and no convolution.
    See also: kdsvd, FSP.

    >>> KDSVD(student=1, student_later=1, teacher=1, teacher_later=1)(*torch.ones(4, 1, 1, 1, 2))
    tensor([0.])
    """

    def __init__(
        self,
        *,
        vectors: int = 1,
        student: int | None = None,
        student_later: int | None = None,
        teacher: int | None = None,
        teacher_later: int | None = None,
    ) -> None:
        super().__init__(student=student, student_later=student_later, teacher=teacher, teacher_later=teacher_later)
        self.vectors = vectors

    @exact
    def forward(self, student: Tensor, student_later: Tensor, teacher: Tensor, teacher_later: Tensor) -> Tensor:
        """The loss of each sample."""
        ours = self.projected(student, student_later, teacher, teacher_later)
        return kdsvd(*ours, teacher, teacher_later, vectors=self.vectors)
