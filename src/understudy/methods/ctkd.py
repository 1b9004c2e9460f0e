"""Soft labels at a temperature that learns to make them hard."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import CTKD
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["ctkd"]


def ctkd(
    student: nn.Module,
    teacher: Any,
    *,
    start: float = 1.0,
    span: float = 20.0,
    ramp: int = 10,
    weight: float | Curve = 0.9,
    label_weight: float = 0.1,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and soft ones at a temperature that is trained against the student: :class:`understudy.losses.CTKD`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        start: the lowest temperature.
        span: how far above it the temperature may rise.
        ramp: epochs over which the temperature comes to learn in full; 5 for ImageNet.
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or a temperature that is none.
    Family: response.
    Source: Li et al. 2023, arXiv:2211.16231; numbers as its code has them for CIFAR-100.
    Differs: nothing.
    """
    task = of_classes("ctkd", task)
    soft, models = taught_by(teacher)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(CTKD(start=start, span=span, ramp=ramp), "student", soft, weight=weight, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
