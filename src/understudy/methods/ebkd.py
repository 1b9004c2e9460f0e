"""Several teachers, of which the surer weigh more."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.method import Distillation
from understudy.methods.multi_teacher import multi_teacher
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["ebkd"]


def ebkd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the soft ones of several teachers, of which the surer weigh more: :func:`understudy.losses.ebkd`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: an :class:`~understudy.teachers.Ensemble`, or a sequence of teachers.
        temperature: T > 0.
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task.
    Family: several teachers.
    Source: Kwon et al. 2020, ICASSP; weights and temperature as in the code of Zhang et al. 2022, arXiv:2201.00007.
    Differs: as the loss does.
    """
    shared: dict[str, Any] = {
        "temperature": temperature,
        "weight": weight,
        "label_weight": label_weight,
        "label": label,
        "task": task,
    }
    return multi_teacher(student, teacher, weighting="entropy", **shared, **options)
