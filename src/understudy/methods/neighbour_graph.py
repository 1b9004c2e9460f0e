"""The graph of the batch's nearest samples."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.losses import neighbour_graph as graph
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head, related
from understudy.progress import Curve
from understudy.tasks import Task

__all__ = ["neighbour_graph"]


def neighbour_graph(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 0.2,
    neighbours: int = 8,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the weights of the edges that join each sample to the teacher's nearest of the batch.

    :func:`understudy.losses.neighbour_graph` is of the batch as a whole: a step of several micro-batches is not that of one large
    batch.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the relations: a number, or a function of progress such as ``linear(1, 0)``.
        neighbours: of each sample, 1 or more.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``; at the first batch if neighbours is below 1.
    Family: graph.
    Source: Lassance et al. 2020, arXiv:1911.03080; the weight is its code's 25 over a batch of 128, for a sum over edges.
    Differs: one layer, where the paper takes one of each stage; a few neighbours, where its code joins all samples of a batch.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    return related(
        student,
        teacher,
        chosen,
        [(partial(graph, neighbours=neighbours), weight)],
        label_weight=label_weight,
        label=label,
        task=task,
        options=options,
    )
