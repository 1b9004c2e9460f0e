"""A student that says the same of samples of one class."""

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

__all__ = ["cs_kd"]


def cs_kd(
    student: nn.Module,
    *,
    temperature: float = 4.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and each prediction drawn to those of the batch's other samples of its class: :func:`understudy.losses.cs_kd`.

    The loss is of the batch as a whole, so that a step of several micro-batches is not that of one large batch; and the batch
    should be several times as large as there are classes.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        temperature: T > 0.
        weight: of what the others say: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled, and counts in neither term.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: self.
    Source: Yun et al. 2020 (CS-KD), arXiv:2003.13964; numbers as in its code.
    Differs: as the loss does: all partners in the batch, where the code's loader draws one for each sample.
    """
    task = of_classes("cs_kd", task)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(partial(losses.cs_kd, temperature=temperature), "student", label, weight=weight),
        student=student,
        **options,
    )
