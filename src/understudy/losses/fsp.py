"""How features flow from one layer to a later one."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.fitted import TwoLayers
from understudy.losses.maps import as_maps, same_area

__all__ = ["FSP", "fsp"]


@exact
def fsp(student: Tensor, student_later: Tensor, teacher: Tensor, teacher_later: Tensor) -> Tensor:
    r"""Mean squared difference of the flow between two layers.

    .. math:: \frac{1}{C_1 C_2} \sum_{i,j} (G^s_{ij} - G^t_{ij})^2, \quad
              G_{ij} = \frac{1}{P} \sum_p f_{ip}\, g_{jp}

    Args:
        student: f, maps ``[N, C1, H, W]`` of one layer.
        student_later: g, maps ``[N, C2, H, W]`` of a later one; of two areas the smaller counts.
        teacher: ``[N, C1, H, W]``, whose area may differ from the student's.
        teacher_later: ``[N, C2, H, W]``.

    Returns: one value per sample ``[N]``, in the fourth power of the features' unit, >= 0, and 0 where the flows agree.
    Raises: ShapeError unless student and teacher have as many channels; for others see FSP.
    Scale: free of the batch's size and of the area; it grows with the fourth power of the features.
    Family: feature.
    Source: Yim et al. 2017, CVPR, "A Gift from Knowledge Distillation", equation 2.
    Differs: the paper scales each pair of layers by its own weight; that is the term's. Areas are made equal by the mean,
        as in the code of Tian et al. 2020, where the paper takes the maximum.
    See also: nst, FSP.

    >>> fsp(*torch.tensor([[1., 2.], [1., 2.], [1., 2.], [0., 0.]]).view(4, 1, 1, 1, 2))
    tensor([6.2500])
    """
    s, t = flow(student, student_later), flow(teacher, teacher_later)
    same_shape("fsp", s, t, "Choose layers with as many channels, or use FSP(), which projects the student's.")
    return (s - t).square().flatten(1).mean(1)


def flow(first: Tensor, later: Tensor) -> Tensor:
    """The mean over positions of the products of two layers' channels ``[N, C1, C2]``."""
    as_maps("fsp", first, later)
    a, b = (x.flatten(2) for x in same_area("fsp", first, later))
    return a @ b.transpose(1, 2) / max(a.shape[2], 1)


class FSP(TwoLayers):
    r"""The loss fsp for layers of other widths: both of the student's maps go through a 1x1 convolution first.

    .. math:: \mathrm{fsp}(A_1 s_1,\ A_2 s_2,\ t_1,\ t_2)

    Where the channels are the same there is no convolution. Those that there are learn with the student.

    Args:
        student: channels of the student's first map; fitted by the dry run if not given, as all of them.
        student_later: of its second.
        teacher: of the teacher's first.
        teacher_later: of its second.

    Returns: one value per sample ``[N]``, in the fourth power of the features' unit, >= 0.
    Raises: ShapeError if they are no maps of the same samples; InputError if only some of the sizes are given.
    Scale: as fsp.
    Family: feature.
    Source: Yim et al. 2017, CVPR, "A Gift from Knowledge Distillation", equation 2.
    Differs: the paper takes models of the same widths, and no convolution.
    See also: fsp.

    >>> FSP(student=1, student_later=1, teacher=1, teacher_later=1)(*torch.ones(4, 1, 1, 1, 2))
    tensor([0.])
    """

    @exact
    def forward(self, student: Tensor, student_later: Tensor, teacher: Tensor, teacher_later: Tensor) -> Tensor:
        """The loss of each sample."""
        return fsp(*self.projected(student, student_later, teacher, teacher_later), teacher, teacher_later)
