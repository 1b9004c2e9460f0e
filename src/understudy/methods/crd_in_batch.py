"""Contrast with the batch's other samples."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import crd_in_batch as contrast
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, projector, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["crd_in_batch"]


def crd_in_batch(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 0.8,
    temperature: float = 0.07,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and features that tell a sample's of the teacher from those of the batch's other samples.

    :func:`understudy.losses.crd_in_batch` is of the batch as a whole: a step of several micro-batches is not that of one large batch.
    The student's features pass through a projector that learns with it.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        temperature: of the contrast, above 0.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``; at the first batch if the temperature is out of range.
    Family: contrastive.
    Source: Tian et al. 2020, arXiv:1910.10699; weight and temperature as there.
    Differs: negatives are the batch's, so that there is no bank and no sample's index; see :func:`crd` for the paper's.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(partial(contrast, temperature=temperature), weight)],
        project=projector,
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
