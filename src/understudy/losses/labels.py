"""Class labels as losses take them: which are there, and which are none that can be."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError

UNLABELLED = -100
"""The label of a sample that has none; PyTorch's own ``ignore_index``."""

__all__ = ["UNLABELLED", "check_label", "labelled"]


def labelled(label: Tensor) -> Tensor:
    """Which labels are there: everything but :data:`UNLABELLED`."""
    return label.long() != UNLABELLED  # a uint8 label of 156 would equal -100


def check_label(loss: str, student: Tensor, label: Tensor) -> None:
    """Raise ShapeError or InputError unless these are class indices ``[*N]`` beside logits ``[*N, C]``."""
    if student.ndim < 1 or student.shape[:-1] != label.shape:
        raise ShapeError(
            f"{loss}: student {list(student.shape)} and label {list(label.shape)} do not go together; "
            "allowed: [*N, C] and [*N], with the class axis last."
        )
    if label.is_floating_point():
        raise InputError(
            f"{loss}: label is {label.dtype}; allowed: class indices, as integers, with -100 where there is none. "
            "For soft labels use soft_cross_entropy."
        )
    # Elsewhere than on the CPU, looking at a value waits for the device.
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_classes(loss, label, student.shape[-1])


def _check_classes(loss: str, label: Tensor, classes: int) -> None:
    wrong = (label >= classes) | ((label < 0) & labelled(label))
    if wrong.any():
        at = [int(i) for i in wrong.nonzero()[0]]
        raise InputError(
            f"{loss}: label {label[tuple(at)].item()} at {at} is not a class of a student with {classes} outputs; "
            f"allowed: 0..{classes - 1}, or {UNLABELLED} for no label. Is the student's last layer too small?"
        )
