"""Response distillation."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.method import Distillation
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["kd"]


def kd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Soft labels beside hard ones.

    .. math:: (1 - \alpha)\, \mathrm{CE}(s, y) + \alpha\, T^2\, \mathrm{KL}(\mathrm{softmax}(t/T) \,\|\, \mathrm{softmax}(s/T))

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0.
        alpha: share of the soft labels, in [0, 1]. With 1 no label is needed.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given. Multi-label takes the binary forms of both losses,
            regression the squared error for both, which knows no temperature.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if alpha or temperature is out of range.
    Family: response.
    Source: Hinton et al. 2015, arXiv:1503.02531; T = 4 and alpha = .9 as in the CIFAR experiments of Tian et al. 2020.
    Differs: hard and soft term are each averaged over the samples that they count, so unlabelled samples leave the
        weight of the hard term as it is.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"kd: alpha {alpha!r} must be in [0, 1]: the share of the soft labels.")
    if not 0 < temperature < math.inf:
        raise InputError(f"kd: temperature {temperature!r} must be finite and above 0; 1 to 8 is usual.")
    task = task or TASKS["classification"]
    soft, models = (teacher, {}) if isinstance(teacher, str) else ("teacher", {"teacher": teacher})
    return Distillation(
        Term(task.label_loss, "student", label, weight=1 - alpha, mask=mask),
        Term(task.soft_loss(temperature), "student", soft, weight=alpha, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
