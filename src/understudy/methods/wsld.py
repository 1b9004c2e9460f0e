"""Soft labels, weighed by how much each sample has left to teach."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["wsld"]


def wsld(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 2.0,
    weight: float | Curve = 2.5,
    label_weight: float = 1.0,
    label: str = "batch.label",
    mask: str | None = None,
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and soft ones that weigh less where the student is ahead of its teacher: :func:`understudy.losses.wsld`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module or any callable to logits of the same classes; or the address of logits that it gave before
            and that the batch holds, such as ``"batch.soft"``.
        temperature: T > 0; 4 for CIFAR-100 in the paper's code.
        weight: of the soft labels: a number, or a function of progress; 2.25 for CIFAR-100.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        mask: address of a mask over the logits' leading axes; see :class:`~understudy.Term`.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: response.
    Source: Zhou et al. 2021, arXiv:2102.00650; numbers as its code has them for ImageNet.
    Differs: nothing.
    """
    task = of_classes("wsld", task)
    soft, models = taught_by(teacher)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight, mask=mask),
        Term(partial(losses.wsld, temperature=temperature), "student", soft, label, weight=weight, mask=mask),
        student=student,
        watch={"agreement": (task.agreement, "student", soft)},
        **models,
        **options,
    )
