"""Correlations among the batch's samples."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import correlation_congruence as congruence
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["correlation_congruence"]


def correlation_congruence(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 100.0,
    gamma: float = 0.4,
    order: int = 2,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and samples that are correlated as they are for the teacher.

    :func:`understudy.losses.correlation_congruence` is of the batch as a whole: a step of several micro-batches is not that of one
    large batch.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        gamma: of the Gaussian kernel, above 0.
        order: of its Taylor series, 1 or more.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``; at the first batch if gamma or order is out of range.
    Family: relation.
    Source: Peng et al. 2019, arXiv:1904.01802; gamma and order as there, the weight as in the one public code that follows the paper.
    Differs: no soft labels beside it, and batches are not drawn by class; the paper has both.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(partial(congruence, gamma=gamma, order=order), weight)],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
