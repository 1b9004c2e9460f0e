"""No teacher: the student softens its own labels."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["uskd"]


def uskd(
    student: nn.Module,
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
    weak: str | None = None,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and soft ones that the student makes for itself: :func:`understudy.losses.uskd`.

    The loss is of the batch as a whole, so that a step of several micro-batches is not that of one large batch.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        alpha: weight of the label's class.
        beta: weight of the others.
        mu: weight of the weak head's labels.
        weak: address of the logits of a head that the student has on an inner layer, such as ``student.early``; without one
            the ranks of the classes are the student's own.
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: self.
    Source: Yang et al. 2023, arXiv:2303.13005; numbers as its code has them for ImageNet.
    Differs: the code puts a linear head on the last layer but one by itself; here the student has it, or there is none.
    """
    task = of_classes("uskd", task)
    loss = partial(losses.uskd, alpha=alpha, beta=beta, mu=mu)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(loss, "student", label, *([weak] if weak else []), weight=weight),
        student=student,
        **options,
    )
