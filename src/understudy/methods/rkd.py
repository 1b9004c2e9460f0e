"""Distances and angles among the batch's samples."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import rkd_angle, rkd_distance
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["rkd"]


def rkd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    distance_weight: float | Curve = 25.0,
    angle_weight: float | Curve = 50.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and samples that lie to one another as they do for the teacher.

    :func:`understudy.losses.rkd_distance` and :func:`understudy.losses.rkd_angle` are of the batch as a whole: a step of several
    micro-batches is not that of one large batch.

    Args:
        student: what learns.
        teacher: a frozen module.
        distance_weight: of the distances: a number, or a function of progress.
        angle_weight: of the angles.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``.
    Family: relation.
    Source: Park et al. 2019, arXiv:1904.05068; the weights as for classification in Tian et al. 2020.
    Differs: nothing.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(rkd_distance, distance_weight), (rkd_angle, angle_weight)],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
