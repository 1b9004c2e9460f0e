"""Several teachers, weighed so that their gradients disagree least."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.method import Distillation
from understudy.methods.multi_teacher import multi_teacher
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["aekd"]


def aekd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 4.0,
    cap: float = 1.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the soft ones of several teachers, weighed so that their gradients disagree least: :func:`understudy.losses.aekd`.

    The weights are of the batch as a whole, so that a step of several micro-batches is not that of one large batch.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: an :class:`~understudy.teachers.Ensemble`, or a sequence of teachers.
        temperature: T > 0.
        cap: most that one teacher may weigh, in (0, 1].
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or for a cap that is none.
    Family: several teachers.
    Source: Du et al. 2020 (AE-KD), NeurIPS; weights and temperature as in the code of Zhang et al. 2022, arXiv:2201.00007.
    Differs: as the loss does.
    """
    if not 0 < cap <= 1:
        raise InputError(f"aekd: cap={cap!r} must be above 0 and at most 1: the most that one teacher may weigh.")
    shared: dict[str, Any] = {
        "temperature": temperature,
        "weight": weight,
        "label_weight": label_weight,
        "label": label,
        "task": task,
    }
    return multi_teacher(student, teacher, weighting="gradient", cap=cap, **shared, **options)
