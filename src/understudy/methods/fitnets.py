"""Hints: an inner layer of the teacher teaches an inner layer of the student."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import mse
from understudy.method import Distillation
from understudy.progress import Curve
from understudy.projectors import Conv1x1
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["fitnets"]


def fitnets(
    student: nn.Module,
    teacher: nn.Module,
    *,
    student_layer: str,
    teacher_layer: str,
    weight: float | Curve = 100.0,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's layer drawn to the teacher's through a projector that learns with it.

    Args:
        student: what learns.
        teacher: a frozen module.
        student_layer: the guided layer, such as ``layer2``.
        teacher_layer: the hint layer.
        weight: of the hint: a number, or a function of progress such as ``linear(100, 0)``.
        project: between the two; a :class:`~understudy.projectors.Conv1x1` fitted by the dry run if not given.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Source: Romero et al. 2015, arXiv:1412.6550; the weight as in Tian et al. 2020.
    Differs: in one stage, as all later comparisons do it; the paper trains on the hint first and on labels after it.
    """
    task = task or TASKS["classification"]
    return Distillation(
        Term(task.label_loss, "student", label),
        Term(mse, f"student.{student_layer}", f"teacher.{teacher_layer}", weight=weight, project=project or Conv1x1()),
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )
