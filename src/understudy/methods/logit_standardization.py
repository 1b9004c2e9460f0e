"""Soft labels whatever the size of the logits."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import kl_standardized
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["logit_standardization"]


def logit_standardization(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 2.0,
    weight: float | Curve = 9.0,
    label_weight: float = 0.1,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and soft ones of standardised logits: :func:`understudy.losses.kl_standardized`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``; of three classes or more.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0, of the standardised logits.
        weight: of the soft labels: a number, or a function of progress; 2 to 18 in the paper's code.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: response.
    Source: Sun et al. 2024, arXiv:2403.01427; numbers as its code has them for CIFAR-100.
    Differs: nothing.
    """
    task = of_classes("logit_standardization", task)
    soft, models = taught_by(teacher)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(partial(kl_standardized, temperature=temperature), "student", soft, weight=weight, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
