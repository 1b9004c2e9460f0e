"""Hints: an inner layer of the teacher teaches an inner layer of the student."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.batch import call
from understudy.errors import InputError
from understudy.losses import mse
from understudy.matching import pairs
from understudy.method import Distillation
from understudy.progress import Curve
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["fitnets"]


def fitnets(
    student: nn.Module,
    teacher: nn.Module,
    *,
    student_layer: str | None = None,
    teacher_layer: str | None = None,
    example: Any = None,
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
        student_layer: the guided layer, such as ``layer2``. Give both layers or neither.
        teacher_layer: the hint layer.
        example: a small batch, by which layers that are not given are chosen: of the pairs that
            :func:`understudy.matching.pairs` finds the middle one, the earlier of two.
        weight: of the hint: a number, or a function of progress such as ``linear(100, 0)``.
        project: between the two; if not given, a :class:`~understudy.projectors.Conv1x1` for maps and a
            :class:`~understudy.projectors.Linear` for tokens and vectors, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if one layer is given alone, or if none is and none can be chosen.
    Family: feature.
    Source: Romero et al. 2015, arXiv:1412.6550, which takes the middle layers; the weight as in Tian et al. 2020.
    Differs: in one stage, as all later comparisons do it; the paper trains on the hint first and on labels after it.
    """
    if (student_layer is None) != (teacher_layer is None):
        raise InputError(
            f"fitnets: student_layer={student_layer!r} and teacher_layer={teacher_layer!r}: give both, or neither to have them chosen."
        )
    task = task or TASKS["classification"]
    layers = None if student_layer is None or teacher_layer is None else [(student_layer, teacher_layer)]
    found = pairs(student, teacher, example, layers=layers, call=options.get("call", call))
    hint = found[(len(found) - 1) // 2]
    at = (f"student.{hint.student}", f"teacher.{hint.teacher}")
    return Distillation(
        Term(task.label_loss, "student", label),
        Term(mse, *at, weight=weight, project=project or hint.projector()),
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )
