"""What losses of inner layers share: feature maps ``[N, C, *area]`` and tokens ``[N, T, D]`` under one view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import ShapeError

__all__ = ["as_maps", "channels_first", "channels_last", "same_area", "same_samples", "sum_by_sample", "unit"]


def channels_first(loss: str, x: Tensor) -> Tensor:
    """``[N, C, P]`` of maps ``[N, C, *area]``, tokens ``[N, T, D]`` (whose features are the channels) or vectors ``[N, D]``."""
    if x.ndim == 3:
        return x.transpose(1, 2)
    if x.ndim < 2:
        raise ShapeError(
            f"{loss}: shape {list(x.shape)} has no features; allowed: vectors [N, D], tokens [N, T, D], maps [N, C, H, W]."
        )
    return x.flatten(2) if x.ndim > 3 else x.unsqueeze(2)


def channels_last(loss: str, x: Tensor) -> Tensor:
    """The same with the channels at the end, where a linear layer wants them."""
    if x.ndim < 2:
        channels_first(loss, x)
    return x if x.ndim < 4 else x.movedim(1, -1)


def as_maps(loss: str, *tensors: Tensor) -> None:
    """Raise :class:`ShapeError` unless all are maps."""
    for x in tensors:
        if x.ndim != 4:
            raise ShapeError(f"{loss}: needs maps [N, C, H, W]; one is {list(x.shape)}. Choose convolutional layers.")


def same_samples(loss: str, student: Tensor, teacher: Tensor) -> None:
    """Raise :class:`ShapeError` unless both have as many samples, and as many axes."""
    if student.ndim != teacher.ndim or student.shape[0] != teacher.shape[0]:
        raise ShapeError(
            f"{loss}: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go together; "
            "allowed: the same samples, and as many axes."
        )


def same_area(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the smaller of the two areas; tokens must be as many."""
    same_samples(loss, student, teacher)
    if student.ndim < 4 and student.shape[1:-1] != teacher.shape[1:-1]:
        raise ShapeError(
            f"{loss}: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) differ in axis 1. "
            f"{loss} needs as many tokens of both."
        )
    if student.ndim < 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    as_maps(loss, student, teacher)
    area = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    first, second = (x if x.shape[2:] == area else F.adaptive_avg_pool2d(x, area) for x in (student, teacher))
    return first, second


def unit(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Of length 1; what is 0 stays so, with a gradient that is not larger than its own."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length > 0, length, torch.ones_like(length))


def sum_by_sample(x: Tensor) -> Tensor:
    """``[N]``: the sum over everything else."""
    return x if x.ndim < 2 else x.flatten(1).sum(1)
