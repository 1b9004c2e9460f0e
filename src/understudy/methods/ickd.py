"""Similarities of a sample's channels."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import ickd as channels
from understudy.method import Distillation
from understudy.methods.related import Layers, last_maps, projector, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["ickd"]


def ickd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 2.5,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and channels that are as like to one another as the teacher's, through a projector that learns with the student.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; the last maps that go together if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``.
    Family: relation.
    Source: Liu et al. 2021, arXiv:2202.03680; the weight as in its code for CIFAR-100.
    Differs: the projector is a 1x1 convolution without the code's BatchNorm behind it.
    """
    chosen = last_maps(student, teacher, layers, example, options, kind="maps")
    return related(
        student,
        teacher,
        chosen,
        [(channels, weight)],
        project=projector,
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
