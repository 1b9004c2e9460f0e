"""Teacher and student trained together."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import kl
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.reading import unwrap
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["joint"]


def joint(
    student: nn.Module,
    teacher: nn.Module,
    *,
    temperature: float = 4.0,
    weight: float | Curve = 0.9,
    back: float | Curve = 0.0,
    label_weight: float = 0.1,
    teacher_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Both learn from labels, and the student from what the teacher says of the sample at that moment.

    .. math:: w_y\, \mathrm{CE}(s, y) + w\, T^2\, \mathrm{KL}(p_t \| p_s) + w_t\, \mathrm{CE}(t, y) + b\, T^2\, \mathrm{KL}(p_s \| p_t)

    No gradient flows from the student's terms into the teacher, or back. So the student is taught by all that the teacher was on
    its way, from easy to hard.

    Args:
        student: what learns, and is kept: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: a module to logits of the same classes, trained or not. A copy of it learns; what was given stays as it is.
        temperature: T > 0.
        weight: of the soft labels: a number, or a function of progress.
        back: of what the teacher learns from the student, likewise.
        label_weight: of the student's hard labels.
        teacher_weight: of the teacher's.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or for a teacher that is no module.
    Family: online.
    Source: Zhang et al. 2018 (DML), arXiv:1706.00384, of networks of unequal size, with the teacher's part weighed by itself.
    Differs: one way unless ``back`` says otherwise; the temperature and weights of :func:`kd`; one optimizer step for both.
    """
    if not isinstance(teacher, nn.Module):
        raise InputError(f"joint: teacher={teacher!r} must be an nn.Module: it is trained along.")
    task = of_classes("joint", task)
    soft = partial(kl, temperature=temperature)
    learning = copy.deepcopy(unwrap(teacher)).requires_grad_(True)
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(soft, "student", "stop teacher", weight=weight),
        Term(task.label_loss, "teacher", label, weight=teacher_weight),
        Term(soft, "teacher", "stop student", weight=back),
        train=("student", "teacher"),
        student=student,
        teacher=learning,
        watch={"agreement": (task.agreement, "student", "stop teacher")},
        **options,
    )
