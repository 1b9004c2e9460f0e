"""Similarities of the batch's samples."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import similarity
from understudy.method import Distillation
from understudy.methods.related import Layers, last_maps, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["similarity_preserving"]


def similarity_preserving(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 3000.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and samples that are as like to one another as they are to the teacher.

    :func:`understudy.losses.similarity` is of the batch as a whole: a step of several micro-batches is not that of one large batch.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; the last maps that go together (or tokens, or vectors, in models without maps) if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``.
    Family: relation.
    Source: Tung and Mori 2019, arXiv:1907.09682; the weight as there.
    Differs: one pair of layers, as in Tian et al. 2020; the paper takes one of each stage where both have as many.
    """
    chosen = last_maps(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(similarity, weight)],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
