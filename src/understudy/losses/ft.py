"""Factors: what the teacher's features come down to."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from understudy.errors import InputError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.attention import activity
from understudy.losses.maps import same_area, unit

__all__ = ["ft"]

Form = Literal["factors", "activity"]


@exact
def ft(student: Tensor, teacher: Tensor, *, form: Form = "factors") -> Tensor:
    r"""Mean absolute difference of two factors of length 1.

    .. math:: \frac{1}{D} \sum_d \left| \frac{s_d}{\|s\|_2} - \frac{t_d}{\|t\|_2} \right|

    Args:
        student: the translator's factor ``[N, *D]``.
        teacher: the paraphraser's factor ``[N, *D]``.
        form: ``"factors"``, as in the paper and its code; or ``"activity"``, the reading of Tian et al. 2020, whose
            factor is the map of mean squared activity over the channels, which needs no paraphraser.

    Returns: one value per sample ``[N]``, >= 0, and 0 where the factors have one direction.
    Raises: ShapeError if the shapes differ (for ``"activity"`` channels and area may); InputError for another form.
    Scale: free of the batch's size and the features' scale; it falls with the root of the number of features; hence
        weights such as 500.
    Family: feature.
    Source: Kim et al. 2018, arXiv:1802.04977, equation 3 with p = 1.
    Differs: nothing for ``"factors"``.
    See also: FactorTransfer, attention_map.

    >>> ft(torch.tensor([[3., 4.]]), torch.tensor([[1., 0.]]))
    tensor([0.6000])
    """
    if form not in get_args(Form):
        raise InputError(f"ft: form {form!r} is not allowed; it is 'factors' or 'activity'.")
    if form == "activity":
        s, t = (activity(x, 2.0) for x in same_area("ft", student, teacher))
    else:
        same_shape("ft", student, teacher, "Factors are made equal by a translator: FactorTransfer().")
        s, t = (unit(x.flatten(1), 1) for x in (student, teacher))
    return (s - t).abs().mean(1)
