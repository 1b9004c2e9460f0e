"""No distillation: what every method is compared with."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.method import Distillation
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["alone"]


def alone(student: nn.Module, *, label: str = "batch.label", task: Task | None = None, **options: Any) -> Distillation:
    """The student on hard labels only; also how a teacher is trained.

    Args:
        student: a module from a batch's inputs to logits ``[*N, C]``.
        label: address of the labels; -100 is unlabelled.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Family: baseline.
    """
    loss = (task or TASKS["classification"]).label_loss
    return Distillation(Term(loss, "student", label), student=student, **options)
