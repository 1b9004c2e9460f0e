"""Features for a new set of labels, which the teacher does not know."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import mse
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, projector
from understudy.progress import Curve
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["feature_transfer"]


def feature_transfer(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    r"""Hard labels of the new task, and what goes into the teacher's head as a hint for what goes into the student's.

    .. math:: \mathrm{CE}(s, y) + w\, \mathrm{mean} (P f_s - f_t)^2, \quad P \text{ linear, learnt with the student}

    The heads may differ: in classes, in their number, in kind. The teacher's outputs are never read.

    Args:
        student: what learns, with a head for the new labels.
        teacher: a frozen module that was trained for other labels.
        weight: of the hint: a number, or a function of progress such as ``linear(1, 0)``.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if
            not given.
        label: address of the new labels; samples without one learn from the hint alone.
        task: what the new labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``.
    Family: domain.
    Source: Romero et al. 2015 (FitNets), arXiv:1412.6550, for hints; Zagoruyko and Komodakis 2017, arXiv:1612.03928, section
        4.2.1, for hints from a teacher of other labels.
    Differs: the hint is the features before the head, and its weight is ours; the second paper's are attention maps.
    """
    task = task or TASKS["classification"]
    hints = [
        Term(mse, f"student.{p.student}", f"teacher.{p.teacher}", weight=weight, project=projector(p))
        for p in before_the_head(student, teacher, layers, example, options)
    ]
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        *hints,
        student=student,
        teacher=teacher,
        **options,
    )
