"""Regression on the teacher's logits."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import mse
from understudy.method import Distillation
from understudy.methods.taught import taught_by
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["logit_regression"]


def logit_regression(
    student: nn.Module,
    teacher: Any,
    *,
    alpha: float = 1.0,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""The student's outputs drawn to the teacher's own, before any softmax.

    .. math:: (1 - \alpha)\, \mathrm{CE}(s, y) + \alpha\, \tfrac{1}{C} \|s - t\|^2

    Args:
        student: what learns: a module from a batch's inputs to outputs ``[*N, C]``.
        teacher: a module or any callable to the same outputs; or their address in the batch, such as ``"batch.soft"``.
        alpha: share of the regression, in [0, 1]. With 1, as in the paper, no label is needed.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        mask: address of a mask over the outputs' leading axes; see :class:`~understudy.Term`.
        task: what the labels mean; classification if not given. The regression is the same for all.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if alpha is out of range.
    Family: response.
    Source: Ba & Caruana 2014, arXiv:1312.6184, equation 1.
    Differs: the mean over outputs, not half their sum.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"logit_regression: alpha {alpha!r} must be in [0, 1]: the share of the regression.")
    task = task or TASKS["classification"]
    soft, models = taught_by(teacher)
    return Distillation(
        Term(task.label_loss, "student", label, weight=1 - alpha, mask=mask),
        Term(mse, "student", soft, weight=alpha, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
