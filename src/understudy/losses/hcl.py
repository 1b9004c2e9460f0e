"""Features that are compared at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.feature import mse, which_projector
from understudy.losses.maps import as_maps

__all__ = ["hcl"]


@exact
def hcl(student: Tensor, teacher: Tensor, *, sizes: Sequence[int] = (4, 2, 1)) -> Tensor:
    r"""Mean squared difference of maps as they are and averaged down, each coarser one with half the weight.

    .. math:: \frac{\sum_i 2^{-i}\, \mathrm{MSE}(\mathrm{pool}_{l_i}(s), \mathrm{pool}_{l_i}(t))}{\sum_i 2^{-i}}, \quad
              l_0 = H,\ l_i \in \{4, 2, 1\},\ l_i < H

    Args:
        student: maps ``[N, C, H, W]``.
        teacher: of the same shape.
        sizes: rows and columns of the averaged maps, of which those that are smaller than the map count.

    Returns: one value per sample ``[N]``, in the square of the features' unit, >= 0, and 0 where they are equal.
    Raises: ShapeError if the shapes differ or are no maps.
    Scale: a weighted mean: free of the batch's size, the channels and the area.
    Family: feature.
    Source: Chen et al. 2021 (ReviewKD), arXiv:2104.09044, section 3.4.
    Differs: nothing; weights and sizes are those of the published code.
    See also: ReviewKD, mse.

    >>> hcl(torch.tensor([[[[1., 0.], [0., 0.]]]]), torch.zeros(1, 1, 2, 2))
    tensor([0.1875])
    """
    same_shape("hcl", student, teacher, which_projector(student.shape, teacher.shape))
    as_maps("hcl", student)
    total, weights, weight = mse(student, teacher), 1.0, 1.0
    for size in (size for size in sizes if size < student.shape[2]):
        weight /= 2
        weights += weight
        total = total + weight * mse(*(F.adaptive_avg_pool2d(x, size) for x in (student, teacher)))
    return total / weights
