"""What stands for a label that is not there."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.losses.response import UNLABELLED

__all__ = ["absent"]


def absent(like: Tensor) -> Tensor:
    """No label, in the shape of these labels: -100 for whole numbers (int64, as a uint8 has no -100), else NaN.

    >>> absent(torch.tensor([3, 4], dtype=torch.uint8))
    tensor([-100, -100])
    >>> absent(torch.tensor([True]))
    tensor([nan])
    """
    if like.dtype == torch.bool:  # a yes or no that is not known has a third value, which floats have
        return torch.full(like.shape, torch.nan)
    if like.is_floating_point():
        return torch.full_like(like, torch.nan)
    return torch.full(like.shape, UNLABELLED, dtype=torch.int64)
