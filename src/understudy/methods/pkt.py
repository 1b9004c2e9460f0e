"""Probabilities of being neighbours."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import pkt as divergence
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["pkt"]


def pkt(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 30000.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and samples that are neighbours with the teacher's probabilities.

    :func:`understudy.losses.pkt` is of the batch as a whole: a step of several micro-batches is not that of one large batch.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``.
    Family: relation.
    Source: Passalis and Tefas 2018, arXiv:1803.10837; the weight as in Tian et al. 2020.
    Differs: the paper learns without labels; all later comparisons add them.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(divergence, weight)],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
