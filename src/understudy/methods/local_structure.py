"""LSP: how the nodes of a graph stand to their neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from understudy.losses import local_structure as structure
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head
from understudy.progress import Curve
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["local_structure"]


def local_structure(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 100.0,
    width: float = 100.0,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    edges: str = "batch.edges",
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and nodes that stand to their neighbours in the graph as the teacher's do.

    For graph networks. A batch is a graph, or several as one; its fields are what the models' ``forward`` names, the edges, and
    a label for each node: ``{"x": x, "edges": edges, "label": label}``. Nodes of other parts are left out of the labels by -100.

    Args:
        student: what learns: nodes and edges to logits ``[N, C]``.
        teacher: a frozen module.
        weight: of the structure: a number, or a function of progress such as ``linear(1, 0)``.
        width: w > 0, the distance over which the likeness of two nodes falls to 1/e.
        label_weight: of the hard labels.
        layers: the student's and the teacher's, such as ``[("conv1", "conv2")]``; what goes into the last linear layer of each if not given.
        edges: address of the edges ``[2, E]``, from the first row's nodes to the second's.
        label: address of the hard labels of the nodes; -100, or none in the batch, is unlabelled.
        task: what the labels mean; classification if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if there is neither ``layers`` nor ``example``; at the first batch if the width is not above 0.
    Family: graph.
    Source: Yang et al. 2020 (LSP), arXiv:2003.10477; kernel and width as in its code.
    Differs: as the loss does. The weight is 100, at which the structure counts beside the labels; the code has 1. The layers are
        the last, where the code has an inner one of each.
    """
    chosen = before_the_head(student, teacher, layers, example, options)
    task = task or TASKS["classification"]
    between = [
        Term(
            partial(_mean, width=width),
            *(f"student.{p.student}", f"teacher.{p.teacher}", edges),
            weight=weight,
            name=f"local_structure(student.{p.student}, teacher.{p.teacher})",
        )
        for p in chosen
    ]
    # Nothing to watch: agreement is a mean over samples, which are graphs and not nodes where a batch has several.
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        *between,
        student=student,
        teacher=teacher,
        **options,
    )


def _mean(student: Tensor, teacher: Tensor, edges: Tensor, *, width: float) -> Tensor:
    """Over nodes, whatever a sample is."""
    return structure(student, teacher, edges, width=width).sum() / max(student.shape[0], 1)
