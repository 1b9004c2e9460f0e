"""Projectors: what makes a student's tensor comparable with a teacher's.

A projector learns with the student and is thrown away after training. Its sizes may be left out: the method's dry run
fits it to the two tensors that it stands between.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.fitted import BatchNorm

__all__ = ["Conv1x1", "ConvNorm", "Linear", "Projector"]


class Projector(nn.Module):
    """A module between a student's tensor and a teacher's, whose sizes a dry run can fill in.

    Subclasses say in :meth:`sizes` which sizes they need and in :meth:`build` what they are made of.
    """

    def __init__(self, inputs: int | None = None, outputs: int | None = None) -> None:
        super().__init__()
        if (inputs is None) != (outputs is None):
            raise InputError(
                f"{type(self).__name__}({inputs}, {outputs}): give both sizes, or neither to have them fitted."
            )
        if inputs is not None and outputs is not None and min(inputs, outputs) < 1:
            raise InputError(f"{type(self).__name__}({inputs}, {outputs}): sizes are whole numbers, 1 or above.")
        self.layer: nn.Module | None = None
        self.fitted: tuple[int, int] | None = None
        if inputs is not None and outputs is not None:
            self.fitted, self.layer = (inputs, outputs), self.build(inputs, outputs)

    def sizes(self, student: Sequence[int], teacher: Sequence[int]) -> tuple[int, int]:
        """Input and output size for tensors of these shapes, the sample axis included."""
        raise ShapeError(f"{type(self).__name__} does not say how its sizes follow from {student} and {teacher}.")

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """The layer that learns."""
        return nn.Identity()

    def fit(self, student: Sequence[int], teacher: Sequence[int], like: Tensor) -> None:
        """Take the sizes from these shapes, and device and dtype from ``like``; check them where they were given."""
        inputs, outputs = self.sizes(student, teacher)
        if self.layer is None:
            self.fitted = (inputs, outputs)
            self.layer = self.build(inputs, outputs).to(device=like.device, dtype=like.dtype)
        elif self.fitted != (inputs, outputs):
            name = type(self).__name__
            raise ShapeError(
                f"{name}{self.fitted} does not fit student {list(student)} and teacher {list(teacher)}; "
                f"use {name}({inputs}, {outputs}), or {name}() to have the sizes fitted."
            )

    def forward(self, x: Tensor, target: Sequence[int] | None = None) -> Tensor:
        """Project towards a tensor of the target's shape; raises :class:`InputError` before the sizes are known."""
        if self.layer is None:
            raise InputError(f"{type(self).__name__}() has no sizes yet. Call method.dry_run(batch) first.")
        projected: Tensor = self.layer(x)
        return projected


class Linear(Projector):
    """A linear map of the last axis, for vectors ``[N, D]`` and sequences ``[N, T, D]``."""

    def sizes(self, student: Sequence[int], teacher: Sequence[int]) -> tuple[int, int]:
        """The last axes."""
        if len(student) != len(teacher) or list(student[:-1]) != list(teacher[:-1]):
            raise ShapeError(
                f"Linear: student {list(student)} and teacher {list(teacher)} may differ in the last axis only."
            )
        return student[-1], teacher[-1]

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer with bias."""
        return nn.Linear(inputs, outputs)


class Conv1x1(Projector):
    """A 1x1 convolution of the channels of feature maps ``[N, C, H, W]``.

    Where height and width differ as well, the projected map takes the teacher's: averaged down if it is larger in
    both, interpolated otherwise.
    """

    def sizes(self, student: Sequence[int], teacher: Sequence[int]) -> tuple[int, int]:
        """The channel axes."""
        if len(student) != 4 or len(teacher) != 4:
            raise ShapeError(
                f"Conv1x1: needs maps [N, C, H, W]; student is {list(student)} and teacher {list(teacher)}."
            )
        return student[1], teacher[1]

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A 1x1 convolution with bias."""
        return nn.Conv2d(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor, target: Sequence[int] | None = None) -> Tensor:
        """Project the channels, then resize to the target's area if it differs."""
        y = super().forward(x, target)
        area = None if target is None else (target[2], target[3])
        if area is None or tuple(y.shape[2:]) == area:
            return y
        if y.shape[2] >= area[0] and y.shape[3] >= area[1]:
            return F.adaptive_avg_pool2d(y, area)
        return F.interpolate(y, area, mode="bilinear", align_corners=False)


class ConvNorm(Conv1x1):
    """The same without bias and with BatchNorm behind it, which always looks at the batch.

    For teachers' features before their activation, whose scale the student need not find by itself.
    """

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A 1x1 convolution and BatchNorm."""
        return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), BatchNorm(outputs))
