"""What neurons select: the distribution of the channels' activation patterns."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.arithmetic import exact
from understudy.losses.maps import as_maps, same_area, unit

__all__ = ["nst"]


@exact
def nst(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between the channels' maps, with a polynomial kernel.

    .. math:: \overline{k(t, t')} + \overline{k(s, s')} - 2\, \overline{k(s, t)}, \quad k(a, b) = (a \cdot b)^2

    over all pairs of channels, each channel a vector of length 1 over the positions.

    Args:
        student: maps ``[N, C, H, W]``.
        teacher: maps of the same samples; channels may differ, and the area, of which the smaller counts.

    Returns: one value per sample ``[N]``, >= 0 but for rounding, and 0 where the patterns are alike in distribution.
    Raises: ShapeError if they are no maps of the same samples.
    Scale: free of the batch's size, of the number of channels and of the features' scale.
    Family: feature.
    Source: Huang & Wang 2017, arXiv:1707.01219, equation 6, with d = 2 and c = 0.
    Differs: nothing. Products of channels by one matrix product each, without the tensor ``[N, C, C, H W]`` of the usual
        code.
    See also: fsp.

    >>> nst(torch.tensor([[[[1., 0.]]]]), torch.tensor([[[[0., 1.]]]]))
    tensor([2.])
    """
    as_maps("nst", student, teacher)
    s, t = (unit(x.flatten(2), 2) for x in same_area("nst", student, teacher))
    return _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """The mean of the kernel over all pairs of channels."""
    return (a @ b.transpose(1, 2)).square().flatten(1).mean(1)
