"""Where in the image each channel is active."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.feature import which_projector
from understudy.losses.maps import channels_first

__all__ = ["cwd"]


@exact
def cwd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""KL divergence between each channel's distribution over the positions.

    .. math:: \frac{T^2}{C} \sum_{c,p} \phi(t)_{cp} \log \frac{\phi(t)_{cp}}{\phi(s)_{cp}}, \quad
              \phi(x)_{cp} = \mathrm{softmax}_p(x_{cp} / T)

    Args:
        student: maps ``[N, C, H, W]``, of features or of each class's score at each position; or tokens ``[N, T, D]``.
        teacher: of the same shape.
        temperature: T > 0; the paper's is 4.

    Returns: one value per sample ``[N]``, in nats, >= 0, and 0 where the distributions agree, as those of a single
        position always do.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T², as in kl; a mean over channels, so free of their number and of the batch's size.
    Family: feature.
    Source: Shu et al. 2021 (CWD), arXiv:2011.13256, equation 3.
    Differs: nothing.
    See also: kl, attention_map.

    >>> cwd(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0., 1.]]]]))
    tensor([0.1109])
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"cwd: temperature {temperature!r} is not allowed; it must be finite and above 0; 4 is usual.")
    if student.ndim < 3:
        raise ShapeError(
            f"cwd: shape {list(student.shape)} has no positions; allowed: maps [N, C, H, W] or tokens [N, T, D]."
        )
    same_shape("cwd", student, teacher, which_projector(student.shape, teacher.shape))
    log_q, log_p = (F.log_softmax(channels_first("cwd", x) / temperature, dim=-1) for x in (student, teacher))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(1) * (temperature * temperature)
