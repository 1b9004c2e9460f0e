"""What methods of relations share: hard labels, and losses between a layer of the student and one of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from understudy.batch import call as plain_call
from understudy.matching import Kind, Pair, pairs, penultimate
from understudy.method import Distillation
from understudy.progress import Curve
from understudy.projectors import Conv1x1, Linear, Projector
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["Layers", "before_the_head", "last_maps", "projector", "related"]

Layers = Sequence[tuple[str, str]]
"""Layers of the student and of the teacher that go together."""

Weighed = tuple[Callable[..., Tensor], float | Curve]


def before_the_head(
    student: nn.Module, teacher: Any, layers: Layers | None, example: Any, options: dict[str, Any]
) -> list[Pair]:
    """What goes into the last linear layer of each, unless the user named the layers."""
    call = options.get("call", plain_call)
    if layers is not None:
        return pairs(student, teacher, example, call=call, layers=layers)
    ours, theirs = (penultimate(model, example, call=call) for model in (student, teacher))
    return [Pair(ours, theirs, why="before the last layer")]


def last_maps(
    student: nn.Module,
    teacher: Any,
    layers: Layers | None,
    example: Any,
    options: dict[str, Any],
    kind: Kind | None = None,
) -> list[Pair]:
    """The last maps that go together (or tokens, or vectors, of models without), unless the user named the layers."""
    call = options.get("call", plain_call)
    return pairs(student, teacher, example, call=call, layers=layers, count=1, kind=kind)


def projector(pair: Pair) -> Projector:
    """Makes the student's features as many as the teacher's."""
    return Conv1x1() if len(pair.student_shape) == 4 else Linear()


def related(
    student: nn.Module,
    teacher: Any,
    chosen: Sequence[Pair],
    losses: Sequence[Weighed],
    *,
    project: Callable[[Pair], nn.Module | None] = lambda pair: None,
    also: Sequence[str] = (),
    label_weight: float,
    label: str,
    task: Task | None,
    options: dict[str, Any],
) -> Distillation:
    """Hard labels, and each of the losses with its weight over each pair of layers; ``also`` are its further addresses."""
    task = task or TASKS["classification"]
    between = [
        Term(loss, f"student.{p.student}", f"teacher.{p.teacher}", *also, weight=weight, project=project(p))
        for p in chosen
        for loss, weight in losses
    ]
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        *between,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )
